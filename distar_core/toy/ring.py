"""The 2D world of the demo and the theory notebooks: a ring of modes, rewards, a distilled one-step generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..losses import PseudoHuber, SquaredL2, weight_one, weight_x0
from ..methods import METHODS, Method
from ..mixture import GaussianMixture, ring
from ..rates import cosine_decay
from ..roles import MixtureScore, OneStep, PushForward, ResidualScore, Reward, Roles, Trainable
from ..schedule import TimeLaw, VarianceExploding
from ..training import Conditions, State
from .networks import MLP, TimeMLP

SCHEDULE = VarianceExploding()
LOOP: dict[str, Any] = {"batch": 256, "warmup": 50, "assistant_updates": 2}
LR, ASSISTANT_LR = 5e-4, 2e-3
DISTIL_STEPS = 2500
LEVELS = tuple(0.1 * 32 ** (k / 7) for k in range(8))


@dataclass(frozen=True)
class ToyReward:
    """A reward in the plane with its formula as text."""

    name: str
    formula: str
    bounded: bool
    function: Callable[[Tensor], Tensor]

    def __call__(self, x0: Tensor, condition: Any = None) -> Tensor:
        """[B, 2] -> [B]."""
        return self.function(x0)


def _bump(x0: Tensor, centre: float, width: float) -> Tensor:
    offset = x0 - x0.new_tensor([centre, 0.0])
    return (-offset.square().sum(-1) / (2 * width**2)).exp()


REWARDS = {
    reward.name: reward
    for reward in (
        ToyReward("mode", "exp(−‖x − (2, 0)‖²/(2 · 1.5²))", True, lambda x0: _bump(x0, 2.0, 1.5)),
        ToyReward("side", "tanh(x₁)", True, lambda x0: x0[..., 0].tanh()),
        ToyReward("off-data", "exp(−‖x − (3.5, 0)‖²/(2 · 1²))", True, lambda x0: _bump(x0, 3.5, 1.0)),
        ToyReward("linear", "x₁/2", False, lambda x0: x0[..., 0] / 2),
    )
}

LAW = TimeLaw.levels(LEVELS)


def on_levels(method: Method) -> Method:
    """A method with the toy's eight noise levels for generator and assistant, the levels of the fixed points."""
    return replace(method, time_law=LAW, assistant_time_law=LAW)


def _row(name: str, base: str, **changes: Any) -> Method:
    return replace(on_levels(METHODS[base]), name=name, **changes)


TOY_METHODS = {
    method.name: method
    for method in (
        _row("reward-only", "reward-only"),
        _row("kl-x0", "diff-instruct++", weight=weight_x0),
        _row("kl-one", "diff-instruct++", weight=weight_one),
        _row("star", "diff-instruct*", distance=PseudoHuber(0.05)),
        _row("l2", "diff-instruct*", distance=SquaredL2()),
    )
}


def reference() -> GaussianMixture:
    """The ring of eight modes, radius 2, deviation 0.25."""
    return ring()


def ode_map(z: Tensor, mixture: GaussianMixture, *, sigma_max: float = 10.0, steps: int = 48) -> Tensor:
    """The probability-flow map of the mixture, z [B, 2] -> x_0: dx/dsigma = −sigma score, from x = sigma_max z.

    Heun steps on log-spaced levels down to 0.01, then one Tweedie step (Karras et al. 2022, algorithm 1).
    """
    sigmas = torch.logspace(math.log10(sigma_max), -2, steps, dtype=z.dtype)
    x = sigma_max * z

    def slope(x: Tensor, sigma: Tensor) -> Tensor:
        return -sigma * mixture.diffuse(SCHEDULE, sigma).score(x)

    for sigma, following in pairwise(sigmas):
        first = slope(x, sigma)
        second = slope(x + (following - sigma) * first, following)
        x = x + (following - sigma) * (first + second) / 2
    return mixture.posterior_mean(x, SCHEDULE, sigmas[-1])


ToyGenerator = PushForward | OneStep


def label_count(mixture: GaussianMixture) -> int:
    """The number of labels of a mixture, which are 0, 1, …; 0 for one without labels."""
    return 0 if mixture.labels is None else int(mixture.labels.max()) + 1


def new_generator(mixture: GaussianMixture, width: int = 96) -> ToyGenerator:
    """An untrained generator in the plane: a plain network, or with labels a diffusion network used once at t = 1."""
    labels = label_count(mixture)
    if not labels:
        return PushForward(MLP(2, 2, width=width), (2,))
    return OneStep(TimeMLP(2, width=width, labels=labels), SCHEDULE, "x0", 1.0, (2,))


def distil(
    mixture: GaussianMixture, *, seed: int = 0, steps: int = DISTIL_STEPS, batch: int = 512, width: int = 96
) -> Iterator[ToyGenerator]:
    """Regress a one-step generator on pairs (z, ode_map(z)); yields the generator after every step.

    A mixture with labels gives a conditional generator, whose pairs follow the flow of their label.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = new_generator(mixture, width)
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(20_000, 2, generator=rng)
    labels = torch.arange(len(z)) % label_count(mixture) if label_count(mixture) else None
    x0 = ode_map(z, mixture.given(labels))
    optimizer = torch.optim.Adam(generator.parameters(), lr=2e-3)
    rate = cosine_decay(2e-3, steps)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate(step)
        index = torch.randint(len(z), (batch,), generator=rng)
        condition = None if labels is None else labels[index]
        loss = (generator(z[index], condition) - x0[index]).square().sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield generator


def distilled(mixture: GaussianMixture, *, seed: int = 0, steps: int = DISTIL_STEPS) -> ToyGenerator:
    """The generator at the end of `distil`."""
    *_, generator = distil(mixture, seed=seed, steps=steps)
    return generator


def no_conditions(step: int, rows: slice) -> None:
    """The conditions of an unconditional run."""
    return


def labels_in_turn(mixture: GaussianMixture) -> Conditions:
    """The conditions of a run: row k of every batch has label k modulo their number; none for a mixture without."""
    count = label_count(mixture)
    return (lambda step, rows: torch.arange(rows.start, rows.stop) % count) if count else no_conditions


def toy_state(
    generator: ToyGenerator,
    mixture: GaussianMixture,
    reward: Reward | None,
    *,
    seed: int,
    steps: int,
    lr: float = LR,
    assistant_lr: float = ASSISTANT_LR,
    width: int = 96,
) -> State:
    """A fresh run from a copy of `generator`: the assistant starts as the reference, rates decay as a cosine.

    With labels on the mixture, generator and assistant take them, and so does `labels_in_turn` for the loop.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = new_generator(mixture, width)
        correction = TimeMLP(2, width=width, labels=label_count(mixture), zero_output=True)
    student.load_state_dict(generator.state_dict())
    exact = MixtureScore(mixture, SCHEDULE)
    assistant = ResidualScore(exact, correction, SCHEDULE)

    return State(
        Roles(
            generator=Trainable(
                student,
                torch.optim.Adam(student.parameters(), lr=lr, betas=(0.0, 0.99)),
                lr=cosine_decay(lr, steps),
                ema_decay=0.98,
            ),
            reference=exact,
            assistant=Trainable(
                assistant,
                torch.optim.Adam(assistant.parameters(), lr=assistant_lr, betas=(0.0, 0.99)),
                lr=lambda step: assistant_lr * 0.1 + 0.9 * cosine_decay(assistant_lr, steps)(step),
            ),
            reward=reward,
        ),
        SCHEDULE,
    )


def sample(state: State, count: int, *, seed: int = 1234, condition: Tensor | None = None) -> Tensor:
    """`count` points from the run's averaged generator, [count, 2]; condition: their labels [count], if it has any."""
    rng = torch.Generator().manual_seed(seed)
    generator = state.roles.generator
    z = generator.module.latent(lambda name, shape: torch.randn(count, *shape, generator=rng))  # type: ignore[operator]
    with torch.no_grad():
        return generator.averaged(z, condition)


def spread_out(points: Tensor, count: int) -> Tensor:
    """`count` of the points [N, n], each as far as possible from those chosen before, from the first one on."""
    chosen = points[:1]
    for _ in range(count - 1):
        farthest = torch.cdist(points, chosen).min(1).values.argmax()
        chosen = torch.cat([chosen, points[farthest][None]])
    return chosen
