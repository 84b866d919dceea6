"""The parts of a step of the loop, and when each begins: for whoever counts their memory or takes their time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..training import State, generator_step
from .decoded import Decoded
from .replays import Replays

PHASES = (
    "assistant: samples",
    "assistant: score",
    "assistant: backward",
    "assistant: update",
    "generator: samples",
    "scores",
    "decoder",
    "reward",
    "pulls",
    "generator: backward",
    "generator: update",
)
"""The parts of a step, in its order: samples without a graph, the assistant's step on them; samples with a graph, the scores
at x_t, the pictures and their reward, the gradients at x_t and x_0, and the generator's step."""
REPLAYED = ("assistant: replayed", "assistant: update", "generator: replayed", "generator: update")
"""The parts of a step whose halves are replayed, which has no others to see."""


@contextmanager
def phases_of(state: State, enter: Callable[[str], None]) -> Iterator[None]:
    """Say which of PHASES begins, while the loop runs this state: hooks on the roles, on what they give and on their
    optimizers do, and the loop stays as it is. Of halves that are replayed it says REPLAYED.
    """
    if isinstance(state.perform, Replays):
        with _halves_of(state, enter):
            yield
        return
    roles, half = state.roles, "generator"

    def gradient(value: Any, phase: str) -> None:
        """Enter the phase when a gradient arrives at a value."""
        if isinstance(value, Tensor) and value.requires_grad:
            value.register_hook(lambda _: enter(phase))

    def samples(*_: Any) -> None:
        nonlocal half
        half = "generator" if torch.is_grad_enabled() else "assistant"
        enter(f"{half}: samples")

    def score(*_: Any) -> None:
        enter("assistant: score" if half == "assistant" else "scores")

    def scored(_: Any, __: Any, value: Tensor) -> None:
        gradient(value, "assistant: backward" if half == "assistant" else "pulls")

    def rewarded(x0: Tensor, condition: Any) -> Tensor:
        enter("decoder" if isinstance(reward, Decoded) else "reward")
        value = reward(x0, condition)  # type: ignore[misc]
        gradient(value, "pulls")
        return value

    reward = roles.reward
    generator, assistant, reference = roles.generator, roles.assistant, roles.reference
    with ExitStack() as hooks:

        def add(handle: Any) -> None:
            hooks.callback(handle.remove)

        add(generator.module.register_forward_pre_hook(samples))
        add(generator.module.register_forward_hook(lambda _, __, x0: gradient(x0, "generator: backward")))
        for role in (assistant.module, reference):
            if isinstance(role, nn.Module):
                add(role.register_forward_pre_hook(score))
                add(role.register_forward_hook(scored))
        hooks.enter_context(_updates_of(state, enter))
        if isinstance(reward, Decoded):
            add(reward.vae.decoder.register_forward_hook(lambda *_: enter("reward")))
        if reward is not None:
            state.roles = roles._replace(reward=rewarded)
        try:
            yield
        finally:
            state.roles = roles


@contextmanager
def _updates_of(state: State, enter: Callable[[str], None]) -> Iterator[None]:
    with ExitStack() as hooks:
        for name, learner in (("generator", state.roles.generator), ("assistant", state.roles.assistant)):
            if learner.optimizer is not None:
                handle = learner.optimizer.register_step_pre_hook(lambda *_, name=name: enter(f"{name}: update"))
                hooks.callback(handle.remove)
        yield


@contextmanager
def _halves_of(state: State, enter: Callable[[str], None]) -> Iterator[None]:
    perform = state.perform

    def marked(half: Callable[..., Any], *rest: Any) -> Any:
        enter(f"{'generator' if half is generator_step else 'assistant'}: replayed")
        return perform(half, *rest)

    state.perform = marked
    try:
        with _updates_of(state, enter):
            yield
    finally:
        state.perform = perform
