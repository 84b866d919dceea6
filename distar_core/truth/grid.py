"""Densities on a 2D grid: tilts by any reward, and the point where each regularizer comes to rest under a reward.

Here a distribution is the mass in each cell, so there is no network and no assistant: the score of every noised
density is known. What training with a method converges to can be compared with what the method asks for. Only
x_t = x_0 + sigma eps (variance-exploding levels) is treated. Nothing here is shared with losses.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..mixture import GaussianMixture
from ..schedule import NoiseSchedule, VarianceExploding


@dataclass(frozen=True)
class Grid:
    """A square window [−half_width, half_width]² with `count` points per axis; float64."""

    half_width: float = 4.4
    count: int = 101

    @property
    def axis(self) -> Tensor:
        """Coordinates of the points along one axis, [count]."""
        return torch.linspace(-self.half_width, self.half_width, self.count, dtype=torch.float64)

    @property
    def spacing(self) -> float:
        """Distance between neighbouring points."""
        return 2 * self.half_width / (self.count - 1)

    @property
    def points(self) -> Tensor:
        """All points, [count², 2]; the second coordinate varies fastest."""
        return torch.cartesian_prod(self.axis, self.axis)

    def mass(self, log_density: Callable[[Tensor], Tensor]) -> Tensor:
        """The normalised mass of exp(log_density) in each cell, [count, count]."""
        return log_density(self.points).softmax(0).reshape(self.count, self.count)

    def sample(self, mass: Tensor, count: int, rng: torch.Generator) -> Tensor:
        """`count` points drawn from a mass [count, count], spread evenly within their cells; [count, 2]."""
        cells = torch.multinomial(mass.flatten(), count, replacement=True, generator=rng)
        within = torch.rand(count, 2, generator=rng, dtype=torch.float64) - 0.5
        return self.points[cells] + self.spacing * within

    def histogram(self, samples: Tensor) -> tuple[Tensor, float]:
        """Mass of samples [n, 2] by cell, [count, count], normalised inside the window, and the share outside it."""
        cell = ((samples.double() + self.half_width) / self.spacing).round()
        inside = ((cell >= 0) & (cell < self.count)).all(1)
        index = (cell[inside, 0] * self.count + cell[inside, 1]).long()
        counts = torch.bincount(index, minlength=self.count**2).double().reshape(self.count, self.count)
        return counts / counts.sum().clamp_min(1), 1 - float(inside.double().mean())


class Level:
    """One noise level: evaluation points wide enough for x_t, and the separable kernels that lead there.

    Args:
        grid: where the clean mass lives.
        sigma: standard deviation of the noise.
        count: evaluation points per axis; None takes a spacing of at most 0.8 sigma, and no coarser than 0.3.

    Raises:
        ValueError: for a level so fine that the grid's points would not blur together.
    """

    def __init__(self, grid: Grid, sigma: float, count: int | None = None) -> None:
        if sigma < 0.5 * grid.spacing:
            raise ValueError(
                f"sigma {sigma:g} is below half the grid's spacing {grid.spacing:g}; take a finer Grid or more noise"
            )
        reach = grid.half_width + 4 * sigma
        count = count or math.ceil(2 * reach / min(0.8 * sigma, 0.3)) + 1
        self.sigma = sigma
        self.axis = torch.linspace(-reach, reach, count, dtype=torch.float64)
        self.cell = float(self.axis[1] - self.axis[0]) ** 2
        offset = self.axis[:, None] - grid.axis
        self.kernel = (-(offset**2) / (2 * sigma**2)).exp() / math.sqrt(2 * math.pi * sigma**2)
        self.slope = -offset / sigma**2 * self.kernel
        self.points = torch.cartesian_prod(self.axis, self.axis)

    def density(self, mass: Tensor) -> Tensor:
        """Density of x_t at the evaluation points, [M²]."""
        return (self.kernel @ mass @ self.kernel.mT).flatten()

    def density_gradient(self, mass: Tensor) -> Tensor:
        """Gradient of that density, [M², 2]."""
        along_first = self.slope @ mass @ self.kernel.mT
        along_second = self.kernel @ mass @ self.slope.mT
        return torch.stack([along_first.flatten(), along_second.flatten()], dim=-1)


def kl_at_level(mass: Tensor, reference: GaussianMixture, grid: Grid, sigma: float) -> float:
    """KL(p * N(0, sigma²) ‖ p_ref * N(0, sigma²)) in nats, for a clean mass [count, count] on the grid.

    Noise makes the divergence finite for samples too: it is what the KL term of integral KL sees at this level.
    """
    level = Level(grid, sigma)
    noised = reference.to(torch.float64).diffuse(VarianceExploding(), torch.tensor(sigma, dtype=torch.float64))
    return _kl(level, level.density(mass), noised.log_density(level.points))


def kl_between(mass: Tensor, other: Tensor, grid: Grid, sigma: float) -> float:
    """kl_at_level where the reference is a mass on the same grid, too; infinite where it has none."""
    level = Level(grid, sigma)
    return _kl(level, level.density(mass), level.density(other).log())


def _kl(level: Level, density: Tensor, log_other: Tensor) -> float:
    present = density > 1e-300
    log_ratio = density[present].log() - log_other[present]
    return float((density[present] * log_ratio).sum() * level.cell)


def tilt_on_grid(mass: Tensor, reward: Tensor, scale: float) -> Tensor:
    """p exp(scale r)/Z for any reward: mass [N, N] and reward values [N, N] -> [N, N]."""
    return (mass.log() + scale * reward).flatten().softmax(0).reshape(mass.shape)


def tilt_of_reward(mass: Tensor, reward: Tensor, target: float) -> Tensor:
    """The tilt p exp(scale r)/Z whose mean reward is `target`, found by bisection over the scale; all [N, N].

    It is the mass with the smallest KL to p among all that have this mean reward.

    Raises:
        ValueError: if no scale within ±1000 reaches the target.
    """
    low, high = -1000.0, 1000.0

    def mean(scale: float) -> float:
        return float((tilt_on_grid(mass, reward, scale) * reward).sum())

    if not mean(low) < target < mean(high):
        raise ValueError(f"no tilt has mean reward {target:g}; choose one between {mean(low):g} and {mean(high):g}")
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mean(middle) < target else (low, middle)
    return tilt_on_grid(mass, reward, (low + high) / 2)


class GridScore:
    """The exact score of a mass on a grid at every noise level: for DIDR's target under a reward without a closed form.

    The noised mass is a mixture of one Gaussian a cell, so its score is (alpha E[x_0 | x_t] − x_t)/sigma², with a sum
    over the cells for the expectation. Levels below the grid's spacing show its points.

    Args:
        mass: [count, count], in the grid's cells.
    """

    def __init__(self, mass: Tensor, grid: Grid, schedule: NoiseSchedule) -> None:
        self.mass = mass
        self.grid = grid
        self.schedule = schedule

    def __call__(self, x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
        """Score at x_t [B, 2], t [B] or []; the condition is ignored."""
        alpha, sigma = self.schedule.coefficients(t, x_t)
        cells = self.grid.points.to(x_t)
        squared = torch.cdist(x_t / alpha, cells).square()
        log_joint = self.mass.flatten().log().to(x_t) - alpha**2 / (2 * sigma**2) * squared
        return (alpha * (log_joint.softmax(1) @ cells) - x_t) / sigma**2

    def tilted(self, reward: Callable[[Tensor], Tensor], scale: float) -> GridScore:
        """The score of p exp(scale r)/Z for any reward, a function [N, 2] -> [N]."""
        values = reward(self.grid.points).reshape(self.mass.shape)
        return GridScore(tilt_on_grid(self.mass, values, scale), self.grid, self.schedule)


@dataclass(frozen=True)
class Divergence:
    """What ties a density to the reference: the average over levels of weight(sigma) times one of

    KL(p_t ‖ q_t), or E_{p_t} d(sigma (s_p − s_q)) with d = ‖·‖² (huber_c None) or pseudo-Huber, in eps-units.

    Attributes:
        kind: "kl" or "score".
        weight: w as a function of sigma.
        huber_c: the constant of pseudo-Huber.
        frozen: whether the sampling law p_t of the score divergence is held fixed, as in Theorem 3.1.
    """

    kind: str
    weight: Callable[[float], float] = lambda sigma: 1.0
    huber_c: float | None = None
    frozen: bool = True


@dataclass(frozen=True)
class FixedPoint:
    """Where a method comes to rest: the mass [N, N], and the residual, the p-weighted deviation of the first variation
    from a constant, relative to that of the reward term (absolute where there is no reward)."""

    mass: Tensor
    residual: float


def fixed_point(
    reference: GaussianMixture,
    reward: Callable[[Tensor], Tensor],
    divergence: Divergence,
    scale: float,
    levels: Sequence[float],
    grid: Grid | None = None,
    *,
    steps: int = 1500,
    lr: float = 0.1,
) -> FixedPoint:
    """The density where −scale E[r] + divergence is stationary; with a frozen law, where its semi-gradient vanishes.

    Adam with a decaying rate on the logits of the mass, from the reference. A semi-gradient has no objective, so the
    residual, not a value, says how good the answer is. In directions that the noise hides the mass is known to about
    0.01 in total variation.
    """
    grid = grid or Grid()
    reference = reference.to(torch.float64)
    schedule = VarianceExploding()
    kernels = [Level(grid, sigma) for sigma in levels]
    noised = [reference.diffuse(schedule, torch.tensor(sigma, dtype=torch.float64)) for sigma in levels]
    targets = [law.log_density(k.points) for law, k in zip(noised, kernels, strict=True)]
    target_scores = [law.score(k.points) for law, k in zip(noised, kernels, strict=True)]
    values = reward(grid.points).double().reshape(grid.count, grid.count)

    def functional(mass: Tensor) -> Tensor:
        total = -scale * (mass * values).sum()
        for level, target, target_score in zip(kernels, targets, target_scores, strict=True):
            density = level.density(mass)
            floored = density.clamp_min(1e-200)
            if divergence.kind == "kl":
                term = (density * (floored.log() - target)).sum()
            else:
                gap = level.sigma * (level.density_gradient(mass) / floored[:, None] - target_score)
                squared = gap.square().sum(-1)
                if divergence.huber_c is None:
                    distance = squared
                else:
                    distance = (squared + divergence.huber_c**2).sqrt() - divergence.huber_c
                law = density.detach() if divergence.frozen else density
                term = (law * distance)[density > 1e-100].sum()
            total = total + divergence.weight(level.sigma) / len(kernels) * term * level.cell
        return total

    logits = grid.mass(reference.log_density).log().clamp_min(-60).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=lr, betas=(0.9, 0.99), eps=1e-14)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        functional(logits.flatten().softmax(0).reshape(logits.shape)).backward()
        optimizer.step()
    mass = logits.detach().flatten().softmax(0).reshape(logits.shape).requires_grad_()
    (variation,) = torch.autograd.grad(functional(mass), mass)
    mass = mass.detach()

    def deviation(field: Tensor) -> float:
        return float((mass * (field - (mass * field).sum()).square()).sum().sqrt())

    by_reward = deviation(scale * values)
    return FixedPoint(mass, deviation(variation) / by_reward if by_reward > 0 else deviation(variation))
