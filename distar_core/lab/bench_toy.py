"""Speed as ratios within one run: the loop against bare torch with the same arithmetic, and the import against torch's.

What the loop does beyond the bare one, by the microseconds of one CPU thread at 256 points: draws by position (17 for a
normal tensor and 70 for stratified times, against 7 each; four and two per step), times from their law (35, twice per step),
coefficients and checked noising (90, twice), a backward pass of its own for the reward's pull (75), and per-sample norms and
weights for the records (20 each).
"""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
from dataclasses import replace

import torch
from torch import Tensor

from ..probes import seconds_of
from ..roles import PushForward
from ..toy.networks import MLP
from ..toy.ring import LEVELS, REWARDS, TOY_METHODS, no_conditions, reference, toy_state
from ..training import State, post_train


def bare_loop(state: State, reward_scale: float, steps: int, batch: int) -> None:
    """DI* with pseudo-Huber as one would write it by hand: no cut, no records, no keyed draws, plain randn."""
    generator, assistant = state.roles.generator.module, state.roles.assistant.module
    reference_score, reward = state.roles.reference, state.roles.reward
    generator_optimizer, assistant_optimizer = state.roles.generator.optimizer, state.roles.assistant.optimizer
    assert reward is not None
    assert generator_optimizer is not None
    assert assistant_optimizer is not None
    levels = torch.tensor(LEVELS)
    average = {name: value.detach().clone() for name, value in generator.named_parameters()}

    def noised(x0: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        t = levels[torch.randint(len(levels), (batch,))]
        noise = torch.randn(batch, 2)
        sigma = t[:, None]
        return x0 + sigma * noise, noise, t, sigma

    for step in range(steps):
        with torch.no_grad():
            x0 = generator(torch.randn(batch, 2), None)
        x_t, noise, t, sigma = noised(x0)
        loss = (sigma**2 * (assistant(x_t, t, None) + noise / sigma) ** 2).sum(1).mean()
        assistant_optimizer.zero_grad()
        loss.backward()
        for group in assistant_optimizer.param_groups:
            group["lr"] = 2e-3 * 0.5 * (1 + math.cos(math.pi * step / steps))
        assistant_optimizer.step()

        x0 = generator(torch.randn(batch, 2), None)
        x_t, noise, t, sigma = noised(x0)
        own = assistant(x_t, t, None)
        gap = sigma * (own - reference_score(x_t, t, None))
        direction = gap / ((gap**2).sum(1, keepdim=True) + 0.05**2).sqrt()
        loss = -(direction * (sigma * own + noise)).sum(1).mean() - reward_scale * reward(x0, None).mean()
        generator_optimizer.zero_grad()
        loss.backward(inputs=list(generator.parameters()))
        for group in generator_optimizer.param_groups:
            group["lr"] = 5e-4 * 0.5 * (1 + math.cos(math.pi * step / steps))
        generator_optimizer.step()
        with torch.no_grad():
            for name, value in generator.named_parameters():
                average[name].lerp_(value, 0.02)


def import_seconds(module: str) -> float:
    """Wall time of a fresh interpreter that imports a module and ends."""
    return seconds_of(lambda: subprocess.run([sys.executable, "-c", f"import {module}"], check=True))


def bench_toy(*, steps: int = 200, batch: int = 256, rounds: int = 5) -> dict[str, float]:
    """Steps per second of post_train and of the bare loop in turn, their ratio, and the import ratio; medians."""
    torch.set_num_threads(1)
    method = replace(TOY_METHODS["star"], reward_scale=0.8)
    mixture, reward = reference(), REWARDS["mode"]
    torch.manual_seed(0)
    generator = PushForward(MLP(2, 2, width=96), (2,))

    def fresh() -> State:
        return toy_state(generator, mixture, reward, seed=0, steps=steps)

    def ours() -> None:
        for _ in post_train(fresh(), method, no_conditions, steps=steps, seed=0, batch=batch):
            pass

    bare, loop = [], []
    for _ in range(rounds + 1):
        bare.append(seconds_of(lambda: bare_loop(fresh(), 0.8, steps, batch)))
        loop.append(seconds_of(ours))
    ratios = [b / o for b, o in zip(bare[1:], loop[1:], strict=True)]
    imports = [(import_seconds("torch"), import_seconds("distar_core")) for _ in range(3)]
    return {
        "post_train_steps_per_second": round(steps / statistics.median(loop[1:]), 1),
        "bare_steps_per_second": round(steps / statistics.median(bare[1:]), 1),
        "post_train_over_bare": round(statistics.median(ratios), 3),
        "import_torch_seconds": round(statistics.median(t for t, _ in imports), 3),
        "import_distar_core_over_torch": round(statistics.median(d / t for t, d in imports), 3),
    }
