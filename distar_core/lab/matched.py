"""Runs compared at equal reward: metrics of networks and tilted optima where the mean rewards match."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..evaluation.statistics import Interval, interpolate
from ..figures.charts import Line
from ..figures.names import label_of
from ..figures.picture import GUIDE, STYLES, Style
from ..mixture import GaussianMixture
from ..toy.frontier import GRID, Point, curve, heights
from ..toy.ring import REWARDS, reference
from ..toy.summary import KL_SIGMA, WINDOW, summarise
from ..truth.grid import Grid, kl_between, tilt_of_reward, tilt_on_grid
from .study import Row, over_seeds


def uneven() -> GaussianMixture:
    """The second reference: five modes of unequal weight and width, two of them close together."""
    return GaussianMixture.isotropic(
        torch.tensor([0.30, 0.10, 0.25, 0.15, 0.20]),
        torch.tensor([[-1.8, 0.9], [-1.3, -1.2], [0.1, 1.9], [1.9, -0.4], [1.3, -1.3]]),
        torch.tensor([0.35, 0.2, 0.25, 0.3, 0.2]),
    )


def beside_the_line(
    points: Sequence[Point], reward_name: str, regularizer: str, runs: Sequence[Row], metric: str
) -> list[Line]:
    """A metric against mean reward in a regularizer's style: its fixed points as a line, runs as markers."""
    along, style = curve(points, reward_name, regularizer), STYLES[regularizer]
    known, reached = [point.summary.reward for point in along], [row["reward"] for row in runs]
    return [
        Line("", known, heights(along, metric), style=style._replace(marker="")),
        Line(label_of(regularizer), reached, [row[metric] for row in runs], style=style._replace(line="")),
    ]


def fixed_point_line(reward: float, start: float, stop: float) -> Line:
    """The mean reward at which a run would rest, dashed from one step to another."""
    return Line("fixed point", [start, stop], [reward, reward], style=Style(GUIDE, "", "--"))


WORLDS = {"ring": reference, "uneven": uneven}
REACH = 0.1
"""How far from a run's mean reward its metrics are still interpolated: a network's path between two runs is no line."""


def excess_kl(mass: Tensor, grid: Grid, reward_name: str, mixture: GaussianMixture) -> float:
    """KL of a mass to the tilt of equal mean reward, both blurred with KL_SIGMA, in nats."""
    own = grid.mass(mixture.to(torch.float64).log_density)
    values = REWARDS[reward_name](grid.points).reshape(own.shape)
    return kl_between(mass, tilt_of_reward(own, values, float((mass * values).sum())), grid, KL_SIGMA)


def found_in(points: Tensor, reward_name: str, mixture: GaussianMixture) -> dict[str, float]:
    """Summary and excess KL of samples [N, 2]; the excess is infinite once a hundredth left the window."""
    summary = summarise(points, REWARDS[reward_name](points), mixture)._asdict()
    mass, outside = WINDOW.histogram(points)
    excess = excess_kl(mass, WINDOW, reward_name, mixture) if outside < 0.01 else math.inf
    return summary | {"excess_kl": excess}


@lru_cache
def tilts(world: str, reward_name: str) -> dict[str, list[float]]:
    """The tilted optima of a world along the scale: reward and the metrics, by rising reward."""
    mixture, values = WORLDS[world](), REWARDS[reward_name](GRID.points)
    own = GRID.mass(mixture.to(torch.float64).log_density)
    rows = []
    for scale in np.linspace(0, 2.6, 80) ** 2:
        mass = tilt_on_grid(own, values.reshape(own.shape), float(scale))
        rows.append(summarise(GRID.points, values, mixture, mass=mass, grid=GRID)._asdict())
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    return columns | {"excess_kl": [0.0] * len(rows)}


def excess_by_difference(world: str, reward_name: str, reward: float, kl: float) -> float:
    """KL to the reference less that of the tilt of equal reward: on clean densities this is KL to that tilt, exactly,
    since log of tilt over reference is linear in the reward; blurred, nearly."""
    along = tilts(world, reward_name)
    return kl - interpolate(reward, along["reward"], along["kl"])


def interval(values: Iterable[float]) -> Interval | None:
    """over_seeds of the values that are known, if there are two."""
    known = [{"value": value} for value in values if math.isfinite(value)]
    return over_seeds(known, "value") if len(known) > 1 else None
