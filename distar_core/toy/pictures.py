"""The pictures of the demo: which data go into which figure, and what each shows in words."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..figures import charts, plane
from ..figures.names import label_of
from ..figures.picture import STYLES, Picture
from ..mixture import GaussianMixture
from .frontier import TILT, Point, curve, heights
from .records import REGULARIZERS, START, Row, select
from .report import KNOWN_SPREAD, reward_names
from .ring import TOY_METHODS, ToyReward

METRICS = ("modes", "kl", "spread")


def _save(folder: Path, drawn: Mapping[str, Picture]) -> dict[str, str]:
    """Save each picture under its file name; file name -> alternative text."""
    for file, picture in drawn.items():
        picture.save(folder / file)
    return {file: picture.alt for file, picture in drawn.items()}


def start(folder: Path, mixture: GaussianMixture, reward: ToyReward, points: Tensor) -> dict[str, str]:
    """The first picture: the reference, and the exact generator where it starts; file name -> alternative text."""
    panels = {"reference": mixture.sample(1500, torch.Generator().manual_seed(0)), "exact generator": points}
    alt = (
        "Two panels with eight modes on a ring: samples of the reference, and of the exact generator before training, which "
        "cover the same eight modes; the shading shows where the reward is high."
    )
    return _save(folder, {"01_start.png": plane.clouds(panels, mixture, reward=reward, alt=alt)})


def _notes(runs: Mapping[str, Any]) -> dict[str, str]:
    return {name: f"reward {run.summary.reward:.2f}, {run.summary.modes:.1f} modes" for name, run in runs.items()}


def _pulls(mixture: GaussianMixture, reward: ToyReward, runs: Mapping[str, Any], at_rest: str) -> Picture:
    """The pulls of every run that has a regularizer; at_rest: what their sums look like, for the alternative text."""
    regularized = {regularizer: run for regularizer, run in runs.items() if run.motions}
    return plane.pull_picture(
        {r: (run.dots, run.motions["reward"], run.motions["regularizer"]) for r, run in regularized.items()},
        mixture,
        reward=reward,
        backgrounds={regularizer: run.clouds[-1] for regularizer, run in regularized.items()},
        alt=f"At fourteen samples chosen far apart, per method and under the reward “{reward.name}”: a wide pink arrow for "
        f"the reward's pull, an outlined turquoise one for the regularizer's, a thin black one for their sum; {at_rest}",
    )


def exact(folder: Path, mixture: GaussianMixture, reward: ToyReward, runs: Mapping[str, Any]) -> dict[str, str]:
    """Animation and pulls of the exact generators under one reward; file name -> alternative text.

    Args:
        runs: regularizer -> demo.Run.
    """
    name = reward.name
    animation = f"animation_{name}.gif"
    still = plane.animate(
        {regularizer: run.clouds for regularizer, run in runs.items()},
        mixture,
        folder / animation,
        reward=reward,
        captions=[f"step {step}" for step, _ in next(iter(runs.values())).distances],
        alt=f"Animation of the exact generators' samples during training under the reward “{name}”, one panel per regularizer: "
        "the modes near the reward fill and those far from it empty.",
    )
    pulls = _pulls(mixture, reward, runs, "with KL the pink and the turquoise arrow of a sample are nearly opposite.")
    saved = {f"animation_{name}_still.png": still, f"03_exact_pulls_{name}.png": pulls}
    return _save(folder, saved) | {animation: still.alt}


def networks(
    folder: Path, mixture: GaussianMixture, reward: ToyReward, points: Tensor, runs: Mapping[str, Any]
) -> dict[str, str]:
    """Clouds and pulls of the trained networks under one reward; file name -> alternative text.

    Args:
        points: of the distilled generator.
        runs: regularizer -> demo.Run.
    """
    name = reward.name
    clouds = plane.clouds(
        {START: points} | {regularizer: run.clouds[-1] for regularizer, run in runs.items()},
        mixture,
        reward=reward,
        notes=_notes(runs),
        alt=f"Sample clouds after post-training under the reward “{name}”, one panel per method over the reference's eight "
        "modes: without a regularizer all samples gather where the reward is highest, with one they keep several modes.",
    )
    pulls = _pulls(mixture, reward, runs, "many do not cancel.")
    return _save(folder, {f"04_clouds_{name}.png": clouds, f"05_pulls_{name}.png": pulls})


def frontiers(folder: Path, rows: Sequence[Row], points: Sequence[Point], stem: str) -> dict[str, str]:
    """A frontier for every bounded reward, as STEM_REWARD.png; file name -> alternative text."""
    return _save(folder, {f"{stem}_{name}.png": frontier(rows, points, name) for name in reward_names(rows)})


def from_distances(folder: Path) -> dict[str, str]:
    """The picture of distances.csv in the folder; file name -> alternative text."""
    return _save(folder, {"07_unbounded.png": unbounded(folder / "distances.csv")})


def frontier(rows: Sequence[Row], points: Sequence[Point], name: str) -> Picture:
    """Modes, KL and spread against mean reward: fixed points as lines, runs as markers."""
    lines = []
    for regularizer in (TILT, *REGULARIZERS):
        along = curve(points, name, regularizer)
        lines.append(
            charts.Curve(regularizer, [p.summary.reward for p in along], {m: heights(along, m) for m in METRICS})
        )
    dots = [
        charts.Dot(row.regularizer, row.summary.reward, row.summary._asdict())
        for regularizer in (START, *TOY_METHODS)
        for row in select(rows, name, regularizer)
    ]
    alt = (
        f"Three panels against mean reward under “{name}”: the number of modes falls and KL to the reference rises for every "
        "method, fastest for KL with w = σ²/α² in the middle panel; spread in the fullest mode is on the right. Lines are fixed "
        "points of four regularizers and the tilted optimum, markers trained runs."
    )
    tops = {m: 1.2 * max((d.values[m] for d in dots if math.isfinite(d.values[m])), default=1.0) for m in METRICS}
    axes = {
        "modes": charts.Axis("effective number of modes", limits=(0.0, 8.4), guides=[8.0]),
        "kl": charts.Axis("KL to the reference\n(blurred, nats)", limits=(-0.1, tops["kl"]), guides=[0.0]),
        "spread": charts.Axis("spread in the fullest mode", limits=(0.0, tops["spread"]), guides=[KNOWN_SPREAD]),
    }
    return charts.frontier(lines, dots, axes, alt=alt)


def unbounded(distances: Path) -> Picture:
    """Mean distance of the samples from the origin over steps, under the linear reward."""
    runs: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    with open(distances, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            run = runs.setdefault((row["regularizer"], row["reward_scale"], row["seed"]), [])
            run.append((float(row["step"]), float(row["distance"])))
    curves = []
    for (regularizer, scale, _), points in runs.items():
        style = STYLES[regularizer]._replace(line="-" if float(scale) <= 1 else (0, (4, 2)))
        steps, reached = zip(*points, strict=True)
        curves.append(
            charts.Line(f"{label_of(regularizer)}, reward scale {float(scale):g}", steps, reached, style=style)
        )
    farthest = {curve.label: curve for curve in sorted(curves, key=lambda curve: curve.y[-1])}
    alt = (
        "Mean distance of the samples from the origin over training steps under a linear reward, logarithmic axis, one line "
        "per seed: "
        + "; ".join(f"{label}: from {c.y[0]:.1f} to at most {c.y[-1]:.3g}" for label, c in farthest.items())
    )
    return charts.lines(
        {"linear reward x₁/2": curves},
        alt=alt,
        xlabel="generator step",
        ylabel=charts.Axis("mean distance from the origin", log=True),
        markers=6,
        width=6.2,
        height=3.8,
    )
