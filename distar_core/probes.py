"""Measurements around the loop: how the terms would move given samples, the wall time of a call, and seconds by phase."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .methods import Method
from .roles import Trainable
from .training import Batch, State, generator_step

END = "end"


def seconds_of(action: Callable[[], Any]) -> float:
    """Wall time of a call."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done what it was asked to; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Clock:
    """Seconds by phase. On a GPU it marks events in the stream of work, so that nothing waits before `seconds`.

    What a GPU waits for the host between two marks counts for the phase in which it waits.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._marks: list[tuple[str, Any]] = []

    def enter(self, phase: str) -> None:
        """Begin a phase, which lasts until the next."""
        mark: Any = time.perf_counter()
        if self.device.type == "cuda":
            mark = torch.cuda.Event(enable_timing=True)
            mark.record()
        self._marks.append((phase, mark))

    def seconds(self) -> dict[str, float]:
        """End the last phase, and say how long each has lasted since the last call, in the order of their beginnings."""
        self.enter(END)
        synchronise(self.device)
        total: Counter[str] = Counter()
        for (phase, start), (_, end) in pairwise(self._marks):
            total[phase] += start.elapsed_time(end) / 1e3 if self.device.type == "cuda" else end - start
        self._marks.clear()
        return dict(total)


class _Standing(torch.nn.Module):
    """A generator whose samples are its input."""

    def forward(self, z: Tensor, condition: Any) -> Tensor:
        return z


def motion(
    state: State,
    method: Method,
    points: Tensor,
    *,
    draws: int = 2048,
    seed: int = 0,
    condition: Any = None,
) -> dict[str, Tensor]:
    """How each term would move samples that sit at `points` [N, ...]: minus its expected pull, by term, [N, ...].

    The expectation over noise and levels is a mean over `draws` per point; alpha_t carries a pull at x_t to x_0.

    Args:
        condition: the points' labels [N] or embedded prompts, if the run has any.
    """
    standing = State(state.roles._replace(generator=Trainable(_Standing())), state.schedule)
    rng = torch.Generator().manual_seed(seed)
    u = ((torch.arange(draws) + 0.5) / draws).repeat(len(points))
    places = torch.arange(len(points)).repeat_interleave(draws)
    if condition is not None:
        condition = condition.rows(places) if hasattr(condition, "rows") else condition[places]
    batch = Batch(
        z=points[places].requires_grad_(),
        t=method.time_law.quantile(u),
        condition=condition,
        noise=lambda x0: torch.randn(x0.shape, generator=rng),
    )
    pulls = generator_step(standing, method, batch)
    return {term: -pull.unflatten(0, (len(points), draws)).mean(1) for term, pull in pulls.on_x0.items()}
