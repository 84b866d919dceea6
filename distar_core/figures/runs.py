"""What a run draws of itself: a sheet of pictures at a step, and its numbers over the steps."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from torch import Tensor

from .charts import Line, draw_line, log_axis, reference_line
from .picture import CYCLE, Picture, new_panels

POINTS = 60
"""A log of more steps is drawn as means over so many stretches of it."""

TERMS = {"pull_regularizer": "regularizer", "pull_reward": "reward", "pull_cfg": "guidance"}
PICTURE_NUMBERS = {"saturation": "saturation", "high_frequency": "high frequencies", "clipped": "clipped pixels"}

Rows = Sequence[Mapping[str, Any]]


def picture_sheet(columns: Mapping[str, Tensor], prompts: Sequence[str], *, alt: str) -> Picture:
    """Pictures in a grid: a row for each prompt, a column for each title, [P, 3, H, W] in [0, 1] each."""
    titles = [title if row == 0 else "" for row in range(len(prompts)) for title in columns]
    figure, grid = new_panels(titles, len(columns), width=1.9, height=2.05)
    cells = iter(grid)
    for row, prompt in enumerate(prompts):
        for column, pictures in enumerate(columns.values()):
            axes = next(cells)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            axes.title.set_fontsize(9)
            if column == 0:
                short = textwrap.shorten(prompt, 66, placeholder=" …")
                axes.set_ylabel(textwrap.fill(short, 22), fontsize=7)
            axes.imshow(pictures[row].permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
    return Picture(figure, alt)


def stretches(rows: Rows, name: str) -> tuple[list[float], list[float]]:
    """Steps and values of a column where it has any: all of them, or the means over POINTS stretches of a longer log."""
    found = [(row["step"], row[name]) for row in rows if name in row and math.isfinite(row[name])]
    length = max(math.ceil(len(found) / POINTS), 1)
    parts = [found[start : start + length] for start in range(0, len(found), length)]
    return [fmean(step for step, _ in part) for part in parts], [fmean(value for _, value in part) for part in parts]


class _Chart(NamedTuple):
    """A panel: its title, its axis and its curves; and what else is done to it."""

    title: str
    ylabel: str
    curves: list[Line]
    more: Callable[[Axes], None] = lambda axes: None


def run_curves(log: Rows, panels: Rows) -> Picture | None:
    """The numbers of a run over its steps, whichever there are: those of its log, as means over stretches, and those of its
    panels, with a marker at each; two steps make a curve. None if there is none yet.

    Args:
        log: rows as row_of makes them.
        panels: rows of panels.jsonl, see sdxl.panels.
    """
    charts = [chart for chart in _charts(log, panels) if any(len(line.x) > 1 for line in chart.curves)]
    if not charts:
        return None
    figure, grid = new_panels([chart.title for chart in charts], 4, width=3.1, height=2.6)
    for axes, chart in zip(grid, charts, strict=True):
        styles = iter(CYCLE * 2)
        for line in chart.curves:
            if len(line.x) > 1:
                draw_line(axes, line, next(styles), every=1 if len(line.x) <= POINTS // 2 else 0, markersize=3.5)
        axes.set_xlabel("step")
        axes.set_ylabel(chart.ylabel)
        axes.title.set_fontsize(10)
        chart.more(axes)
        if sum(bool(line.label) for line in chart.curves) > 1:
            axes.legend(fontsize=7, frameon=False)
    last = max(row["step"] for row in [*log, *panels])
    told = "; ".join(f"{chart.title} ({', '.join(x.label for x in chart.curves if x.label)})" for chart in charts)
    return Picture(figure, f"The run until step {last:g}, in charts over the steps: {told}".replace(" ()", "") + ".")


def _charts(log: Rows, panels: Rows) -> list[_Chart]:
    def logged(name: str, label: str = "") -> Line:
        return Line(label, *stretches(log, name))

    def seen(name: str, label: str = "") -> Line:
        return Line(label, *stretches(panels, name))

    def nested(name: str, says: Callable[[str], str] = str) -> list[Line]:
        keys = dict.fromkeys(key for row in panels for key in row.get(name, {}))
        flat = [{"step": row["step"], **row.get(name, {})} for row in panels]
        return [Line(says(key), *stretches(flat, key)) for key in keys]

    def zero(axes: Axes) -> None:
        reference_line(axes, 0)

    def logarithmic(axes: Axes) -> None:
        log_axis(axes, "y")

    steps, rewards = stretches(log, "reward")
    spreads = stretches(log, "reward_spread")[1]
    band: tuple[Any, Any] = (None, None)
    if len(spreads) == len(rewards):
        both = list(zip(rewards, spreads, strict=True))
        band = [reward - spread for reward, spread in both], [reward + spread for reward, spread in both]
    return [
        _Chart(
            "Reward", "reward", [Line("batch, ± its spread", steps, rewards, *band), seen("reward", "fixed prompts")]
        ),
        _Chart(
            "Pull of each term", "norm a sample", [logged(name, label) for name, label in TERMS.items()], logarithmic
        ),
        _Chart("Gap by noise level", "gap/‖eps‖", nested("gap", lambda t: f"t = {t}")),
        _Chart("Lag of the assistant", "share of the gap", [logged("lag")], zero),
        _Chart("Diversity", "distance of two seeds", [seen("diversity")]),
        _Chart("Pictures", "mean", [seen(name, label) for name, label in PICTURE_NUMBERS.items()]),
        _Chart("Seconds of a step", "seconds", nested("seconds")),
        _Chart("Peak memory", "GiB", [logged("peak_gib")]),
    ]
