"""What happened to a distribution in the plane: modes, support, spread, divergence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..evaluation.statistics import entropy
from ..mixture import GaussianMixture
from ..truth.grid import Grid, kl_at_level


class Summary(NamedTuple):
    """A distribution in the plane beside a reference of round modes.

    Attributes:
        reward: mean reward.
        entropy: entropy in nats of the share of each nearest mode; log K for K equal modes.
        modes: exp(entropy), the effective number of modes; nearest mode at any distance, so read it with off_support.
        kl: KL to the reference in nats, both noised with sigma = 0.15; infinite once a hundredth left the window.
        off_support: share farther than three deviations from every mode (exp(−4.5) = 1.1 % for the reference itself).
        spread: root mean square deviation per axis of the points within three deviations of the fullest mode; nan if
            there are none (0.244 for the reference, whose modes have deviation 0.25).
    """

    reward: float
    entropy: float
    modes: float
    kl: float
    off_support: float
    spread: float

    @classmethod
    def read(cls, row: Mapping[str, str]) -> Summary:
        """The summary in a row of a CSV file, which has a column for each field."""
        return cls(*(float(row[name]) for name in cls._fields))


KL_SIGMA = 0.15
WINDOW = Grid(half_width=6.0, count=241)


def summarise(
    points: Tensor, rewards: Tensor, reference: GaussianMixture, *, mass: Tensor | None = None, grid: Grid | None = None
) -> Summary:
    """Summary of samples, or of a mass on a grid.

    Args:
        points: samples [N, 2]; or grid.points.
        rewards: reward at each point, [N].
        reference: a mixture whose components are the modes.
        mass, grid: the mass in each cell and its grid, when `points` are the grid's.
    """
    points, rewards, means = points.double(), rewards.double(), reference.means.double()
    if mass is None:
        weights = points.new_full((len(points),), 1 / len(points))
        mass, outside = WINDOW.histogram(points)
        grid = WINDOW
    else:
        weights, outside = mass.flatten(), 0.0
    assert grid is not None
    distances = torch.cdist(points, means)
    nearest = distances.argmin(1)
    deviations = reference.variances.double().mean(-1).sqrt()
    on_support = (distances <= 3 * deviations).any(1)
    shares = torch.bincount(nearest, weights, minlength=len(means))
    inside = on_support & (nearest == shares.argmax())
    if float(weights[inside].sum()) > 0:
        share = weights[inside] / weights[inside].sum()
        centre = (share[:, None] * points[inside]).sum(0)
        spread = float((share * (points[inside] - centre).square().mean(1)).sum().sqrt())
    else:
        spread = math.nan
    return Summary(
        reward=float((weights * rewards).sum()),
        entropy=entropy(shares),
        modes=math.exp(entropy(shares)),
        kl=kl_at_level(mass, reference, grid, KL_SIGMA) if outside < 0.01 else math.inf,
        off_support=float(weights[~on_support].sum()),
        spread=spread,
    )
