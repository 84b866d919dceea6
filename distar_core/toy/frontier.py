"""What each regularizer asks for in the toy: fixed points over reward scales, shipped as a table.

`python -m tools.fixed_points FILE` computes the table anew; distar_core/toy/data/fixed_points.csv is its output.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch

from ..evaluation.statistics import interpolate
from ..truth.grid import Divergence, Grid, fixed_point, tilt_on_grid
from .ring import LEVELS, REWARDS, reference
from .summary import Summary, summarise

GRID = Grid(half_width=5.2, count=119)
TILT = "tilt"
TRUSTED = 0.05
AIMS = (0.25, 0.5, 0.7)
SCALES = tuple(round(0.1 * 10 ** (k / 5), 3) for k in range(-2, 13))

DIVERGENCES = {
    "kl-x0": Divergence("kl", weight=lambda sigma: sigma**2),
    "kl-one": Divergence("kl"),
    "star": Divergence("score", huber_c=0.05),
    "l2": Divergence("score"),
    "star-differentiated": Divergence("score", huber_c=0.05, frozen=False),
    "l2-differentiated": Divergence("score", frozen=False),
}


@dataclass(frozen=True)
class Point:
    """One distribution of the frontier: which reward, which regularizer, how strong the reward, and what came of it.

    A point that the solver did not bring to rest is not trusted: between its neighbours the truth is not known.
    """

    reward_name: str
    regularizer: str
    reward_scale: float
    summary: Summary
    residual: float

    @property
    def trusted(self) -> bool:
        """Whether the solver came to rest."""
        return self.residual < TRUSTED


def compute_point(reward_name: str, regularizer: str, scale: float, *, steps: int = 900) -> Point:
    """The tilted optimum, or the fixed point of a regularizer, at one reward scale."""
    mixture, reward = reference(), REWARDS[reward_name]
    values = reward(GRID.points)
    if regularizer == TILT:
        own = GRID.mass(mixture.to(torch.float64).log_density)
        mass, residual = tilt_on_grid(own, values.reshape(own.shape), scale), 0.0
    else:
        result = fixed_point(mixture, reward, DIVERGENCES[regularizer], scale, LEVELS, GRID, steps=steps)
        mass, residual = result.mass, result.residual
    summary = summarise(GRID.points, values, mixture, mass=mass, grid=GRID)
    return Point(reward_name, regularizer, scale, summary, residual)


def write_points(path: Path, points: Iterable[Point]) -> None:
    """Append points to a CSV file as they come; the header is written when the file is new."""
    new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["reward_name", "regularizer", "reward_scale", *Summary._fields, "residual"])
        for point in points:
            numbers = (point.reward_scale, *point.summary, point.residual)
            writer.writerow([point.reward_name, point.regularizer, *(f"{number:.6g}" for number in numbers)])
            file.flush()


def read_points(path: Path | None = None) -> list[Point]:
    """The shipped table, or another one."""
    source = path or files("distar_core.toy") / "data" / "fixed_points.csv"
    text = source.read_text(encoding="utf-8")
    return [
        Point(
            row["reward_name"],
            row["regularizer"],
            float(row["reward_scale"]),
            Summary.read(row),
            float(row["residual"]),
        )
        for row in csv.DictReader(text.splitlines())
    ]


def curve(points: Iterable[Point], reward_name: str, regularizer: str) -> list[Point]:
    """The points of one curve, by rising scale."""
    chosen = [point for point in points if (point.reward_name, point.regularizer) == (reward_name, regularizer)]
    return sorted(chosen, key=lambda point: point.reward_scale)


def heights(along: Sequence[Point], metric: str) -> list[float]:
    """A metric at every point of a curve, nan where the truth is not known: there a line stops.

    Args:
        metric: a field of Summary.
    """
    return [getattr(point.summary, metric) if point.trusted else math.nan for point in along]


def known_at(points: Iterable[Point], reward_name: str, regularizer: str, scale: float, metric: str) -> float:
    """A metric of the fixed point at a reward scale, by log-linear interpolation; nan where it is not known.

    Args:
        metric: a field of Summary.
    """
    along = curve(points, reward_name, regularizer)
    return interpolate(math.log(scale), [math.log(point.reward_scale) for point in along], heights(along, metric))


def known_reward(points: Iterable[Point], reward_name: str, regularizer: str, scale: float) -> float:
    """The fixed point's mean reward at a reward scale, see known_at."""
    return known_at(points, reward_name, regularizer, scale, "reward")


def at_rest(points: Iterable[Point], reward_name: str, regularizer: str, reward: float, metric: str) -> float:
    """A metric where a regularizer's line of fixed points has this mean reward, linear between points; nan off the line."""
    along = curve(points, reward_name, regularizer)
    return interpolate(reward, [point.summary.reward for point in along], heights(along, metric))


def scale_for(points: Iterable[Point], reward_name: str, regularizer: str, target: float) -> float:
    """A reward scale to aim with: where the line through the trusted fixed points, log-linear, has mean reward `target`.

    An aim claims nothing, so it may lie where the truth is not known: `known_reward` there is nan.

    Raises:
        ValueError: if the trusted points do not reach the target.
    """
    along = [point for point in curve(points, reward_name, regularizer) if point.trusted]
    rewards = [point.summary.reward for point in along]
    if not along or not rewards[0] <= target <= rewards[-1]:
        span = f"{rewards[0]:.3f} to {rewards[-1]:.3f}" if along else "nothing"
        raise ValueError(
            f"reward {target:g} is off the curve of {regularizer!r} under {reward_name!r}, which spans {span}; "
            "choose a target within"
        )
    return math.exp(interpolate(target, rewards, [math.log(point.reward_scale) for point in along]))


def aims(reward_name: str, shares: Sequence[float] = AIMS) -> list[float]:
    """Mean rewards to aim for: shares of the way from the reference's mean reward to the reward's maximum, 1."""
    mixture, reward = reference(), REWARDS[reward_name]
    start = float(reward(mixture.sample(100_000, torch.Generator().manual_seed(0))).mean())
    return [round(start + share * (1 - start), 4) for share in shares]
