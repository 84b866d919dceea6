"""Guidance between two Gaussians on the line, exactly: what a sampler makes of it, and where a generator comes to rest.

The conditional reference is N(mean, deviation²), the unconditional one N(0, null_deviation²), x_t = x_0 + sigma eps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ..losses import Noised, Scores, cfg_reward
from ..rates import cosine_decay
from ..roles import guided
from .quadrature import uniform_normal

SampleLoss = Callable[[Noised, Scores], Tensor]
LineScore = Callable[[Tensor, float], Tensor]
"""(x [N], sigma) -> score [N]."""


def end_of_flow(score: LineScore, *, sigma_max: float = 300.0, steps: int = 3000) -> tuple[float, float]:
    """Mean and deviation at the end of the probability flow dx/dsigma = −sigma score from N(0, sigma_max²).

    For a score that is linear in x, whose flow keeps Gaussians Gaussian: two points tell all. Heun steps on log-spaced
    levels (Karras et al. 2022, algorithm 1).
    """
    x = torch.tensor([-sigma_max, sigma_max], dtype=torch.float64)
    for sigma, following in pairwise(torch.logspace(math.log10(sigma_max), -4, steps, dtype=torch.float64).tolist()):
        first = -sigma * score(x, sigma)
        second = -following * score(x + (following - sigma) * first, following)
        x = x + (following - sigma) * (first + second) / 2
    return float(x.mean()), float((x[1] - x[0]).abs() / 2)


def placed(loss: SampleLoss, placement: Literal["inside", "outside"], cfg_scale: float) -> SampleLoss:
    """A leash with guidance: inside, the guided score in the reference's place; outside, plus cfg_scale times cfg_reward."""

    def inside(noised: Noised, scores: Scores) -> Tensor:
        assert scores.null is not None
        return loss(noised, scores._replace(reference=guided(scores.reference, scores.null, cfg_scale)))

    def outside(noised: Noised, scores: Scores) -> Tensor:
        return loss(noised, scores) + cfg_scale * cfg_reward(noised, scores)

    return {"inside": inside, "outside": outside}[placement]


def fixed_point(
    loss: SampleLoss,
    *,
    mean: float,
    deviation: float,
    null_deviation: float,
    levels: Sequence[float],
    steps: int = 600,
    nodes: int = 61,
) -> tuple[float, float]:
    """Where a generator x_0 = m + s z comes to rest under a loss, as (m, s); the assistant is exact at every step.

    Args:
        loss: (noised, scores) -> [N], a function of losses.py or a sum of them, with its weight; scores.reference is the
            conditional score, scores.null the unconditional one.
        levels: noise levels sigma, equally weighted.
        nodes: points per axis of the quadrature over z and eps.
    """
    points, weights = uniform_normal(nodes, reach=5.0)
    pairs, levels_column = torch.cartesian_prod(points, points), torch.tensor(levels, dtype=torch.float64)
    z, noise = pairs.repeat(len(levels), 1).split(1, dim=1)
    sigma = levels_column.repeat_interleave(len(pairs))[:, None]
    weight = torch.cartesian_prod(weights, weights).prod(1).repeat(len(levels)) / len(levels)
    own = torch.tensor([mean, deviation], dtype=torch.float64, requires_grad=True)
    optimizer, rate = torch.optim.Adam([own], lr=0.03), cosine_decay(0.03, steps)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate(step)
        x0 = own[0] + own[1] * z
        x_t = x0 + sigma * noise
        m, s = own.detach()
        noised = Noised(x0, x_t, noise, sigma[:, 0], torch.ones_like(sigma), sigma)
        scores = Scores(
            -(x_t - m) / (s**2 + sigma**2),
            -(x_t - mean) / (deviation**2 + sigma**2),
            -x_t / (null_deviation**2 + sigma**2),
        )
        optimizer.zero_grad()
        (weight * loss(noised, scores)).sum().backward()
        optimizer.step()
    return float(own[0].detach()), float(own[1].detach().abs())
