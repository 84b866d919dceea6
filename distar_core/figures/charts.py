"""Charts, composed of small drawers: lines, bars, dot plots and the frontier of reward against a metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import ScalarFormatter

from .names import label_of
from .picture import BLUE, CYCLE, GUIDE, STYLES, Picture, Style, new_panels, shared_legend

PLAIN = (
    Style("#46464b", "o", "-"),
    Style("#b9ac70", "s", (0, (5, 1))),
    Style("#9c9ca1", "^", (0, (3, 1, 1, 1))),
)
"""For what is no method, in charts where the methods' own colours mean the methods."""


@dataclass(frozen=True)
class Axis:
    """An axis that is more than its label.

    Attributes:
        log: whether it is logarithmic.
        limits: its lower and upper end; by default they follow the data.
        guides: values to compare with, each a thin line across the panel.
    """

    label: str
    log: bool = False
    limits: tuple[float, float] | None = None
    guides: Sequence[float] = ()


class Line(NamedTuple):
    """A curve, or separate markers if its style has no line: x and y, [N] each, with an optional interval about y.

    Lines with the same label share a style and one entry in the legend; an empty label has none.
    """

    label: str
    x: Any
    y: Any
    low: Any = None
    high: Any = None
    style: Style | None = None


def reference_line(axes: Axes, value: float, letter: str = "y") -> None:
    """A thin line across a panel where its "x" or "y" has this value."""
    across = axes.axhline if letter == "y" else axes.axvline
    across(value, color=GUIDE, linewidth=0.8, zorder=0)


def log_axis(axes: Axes, letter: str) -> None:
    """Make the "x" or "y" axis logarithmic; less than a decade keeps plain numbers."""
    axes.set(**{f"{letter}scale": "log"})
    axis = axes.xaxis if letter == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    if high < 10 * low:
        # matplotlib would write 1.8 × 10⁰ here
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(ScalarFormatter())


def set_axis(axes: Axes, letter: str, wanted: str | Axis) -> None:
    """Give the "x" or "y" axis its label and whatever else is wanted; the data must be there already."""
    wanted = Axis(wanted) if isinstance(wanted, str) else wanted
    axes.set(**{f"{letter}label": wanted.label})
    for value in wanted.guides:
        reference_line(axes, value, letter)
    if wanted.log:
        log_axis(axes, letter)
    if wanted.limits is not None:
        axes.set(**{f"{letter}lim": wanted.limits})


def same_heights(axes: Sequence[Axes]) -> None:
    """Give panels the y limits that hold what each of them holds."""
    limits = [panel.get_ylim() for panel in axes]
    for panel in axes:
        panel.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def draw_line(axes: Axes, line: Line, style: Style, *, every: int = 0, markersize: float = 5) -> None:
    """A line with the band of its interval, or markers with bars.

    Args:
        every: draw a marker at every so many points of a line; 0 for none.
    """
    dots = style.line == ""
    axes.plot(
        line.x,
        line.y,
        color=style.color,
        linestyle=style.line,
        marker=style.marker if every or dots else "",
        markevery=max(every, 1),
        linewidth=1.6,
        markersize=markersize,
        label=label_of(line.label),
    )
    if line.low is not None and dots:
        axes.vlines(line.x, line.low, line.high, color=style.color, linewidth=1.2)
    elif line.low is not None:
        axes.fill_between(line.x, line.low, line.high, color=style.color, alpha=0.18, linewidth=0)


def draw_run(axes: Axes, x: float, y: float, style: Style, limits: tuple[float, float] | None) -> None:
    """A filled marker; beyond the limits of y, or without a value, an open one at their edge, or none without limits."""
    low, high = limits or (math.nan, math.nan)
    known = math.isfinite(y) and not y < low and not y > high
    height = y if known else low if y < low else high
    if not math.isfinite(height):
        return
    axes.plot(
        x,
        height,
        style.marker,
        color=style.color,
        markerfacecolor=style.color if known else "none",
        markersize=5.5,
        markeredgewidth=0.9,
        markeredgecolor="white" if known else style.color,
        clip_on=False,
        zorder=3,
    )


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Sorted heights moved as little as need be, in the least squares, to have at least a gap between neighbours.

    Heights that touch form a block about the mean of what they wish for, and blocks that touch merge.
    """
    blocks: list[list[float]] = []  # of each height less its place in the block times the gap
    for height in heights:
        blocks.append([height])
        while len(blocks) > 1 and fmean(blocks[-1]) - fmean(blocks[-2]) < gap * len(blocks[-2]):
            last = blocks.pop()
            blocks[-1] += [wish - gap * len(blocks[-1]) for wish in last]
    return [fmean(block) + gap * place for block in blocks for place in range(len(block))]


def label_ends(axes: Axes, ends: Sequence[tuple[str, float, float, Any]], *, fontsize: float = 9) -> None:
    """Name lines at their ends instead of in a legend: (text, x, y, colour) of each, in one column right of the panel.

    The texts keep the order of the ends and move apart until none covers another; a thin line leads to each.
    """
    low, high = axes.get_ylim()
    ends = sorted(ends, key=lambda end: end[2])
    heights = apart(
        [(end[2] - low) / (high - low) for end in ends], 1.3 * fontsize / axes.bbox.height * axes.figure.dpi / 72
    )
    for (text, x, y, color), height in zip(ends, heights, strict=True):
        line = {"arrowstyle": "-", "color": color, "linewidth": 0.6, "relpos": (0, 0.5), "shrinkA": 0, "shrinkB": 3}
        axes.annotate(
            text,
            (x, y),
            (1.03, height),
            textcoords="axes fraction",
            color=color,
            fontsize=fontsize,
            va="center",
            arrowprops=line,
        )


def _for_each(wanted: str | Axis | Sequence[str | Axis], count: int) -> Sequence[str | Axis]:
    return [wanted] * count if isinstance(wanted, (str, Axis)) else wanted


def lines(
    panels: Mapping[str, Sequence[Line]],
    *,
    alt: str,
    xlabel: str | Axis | Sequence[str | Axis],
    ylabel: str | Axis | Sequence[str | Axis],
    markers: bool | int = False,
    columns: int = 6,
    width: float = 3.3,
    height: float = 3.1,
) -> Picture:
    """Curves in panels side by side, title -> lines, with equal heights where `ylabel` is one for all.

    A line without a style takes the style that `STYLES` has for its label, or the next of `CYCLE`, the same in every
    panel. Intervals are drawn as bands around lines and as bars at markers.

    Args:
        xlabel, ylabel: one label or `Axis` for all panels, or one per panel.
        markers: draw a marker at every point of every line, or at every so many.
        columns: panels in a row at most.
        width, height: inches per panel.
    """
    figure, grid = new_panels(list(panels), columns, width=width, height=height)
    labels = dict.fromkeys(line.label for content in panels.values() for line in content)
    fresh = iter(CYCLE * 4)
    styles = {label: STYLES[label] if label in STYLES else next(fresh) for label in labels}
    xlabels, ylabels = _for_each(xlabel, len(panels)), _for_each(ylabel, len(panels))
    for axes, content, x, y in zip(grid, panels.values(), xlabels, ylabels, strict=True):
        for line in content:
            draw_line(axes, line, line.style or styles[line.label], every=int(markers))
        set_axis(axes, "x", x)
        set_axis(axes, "y", y)
    if isinstance(ylabel, (str, Axis)):
        same_heights(grid)
    shared_legend(figure)
    return Picture(figure, alt)


class Curve(NamedTuple):
    """A line of the frontier: the known truth of a method over reward scales, metric -> values."""

    name: str
    reward: Sequence[float]
    values: Mapping[str, Sequence[float]]


class Dot(NamedTuple):
    """A trained run on the frontier, metric -> value."""

    name: str
    reward: float
    values: Mapping[str, float]


def frontier(curves: Sequence[Curve], dots: Sequence[Dot], metrics: Mapping[str, str | Axis], *, alt: str) -> Picture:
    """Metrics against mean reward: lines are fixed points, markers are trained runs.

    Args:
        metrics: metric -> its axis; one panel each. Runs beyond the limits are drawn at the edge as open markers.
    """
    figure, grid = new_panels([""] * len(metrics), width=2.5, height=3.5)
    for axes, (metric, wanted) in zip(grid, metrics.items(), strict=True):
        for curve in curves:
            draw_line(axes, Line("", curve.reward, curve.values[metric]), STYLES[curve.name])
        for dot in dots:
            limits = wanted.limits if isinstance(wanted, Axis) else None
            draw_run(axes, dot.reward, dot.values[metric], STYLES[dot.name], limits)
        set_axis(axes, "x", "mean reward")
        set_axis(axes, "y", wanted)
    known = {curve.name for curve in curves}
    for name in dict.fromkeys([*(curve.name for curve in curves), *(dot.name for dot in dots)]):
        style = STYLES[name]
        line = style.line if name in known else ""
        grid[0].plot([], [], color=style.color, marker=style.marker, linestyle=line, label=label_of(name))
    shared_legend(figure)
    return Picture(figure, alt)


def bars(
    panels: Mapping[str, Sequence[float]],
    truth: Sequence[float],
    ticks: Sequence[str],
    *,
    alt: str,
    ylabel: str,
    xlabel: str = "",
    columns: int = 2,
) -> Picture:
    """One value per tick as hatched bars, title -> values, with the truth as a black dash over each; equal axes."""
    figure, grid = new_panels(list(panels), columns, width=3.4, height=2.4)
    places = np.arange(len(ticks))
    for axes, values in zip(grid, panels.values(), strict=True):
        drawn = axes.bar(places, values, width=0.6, color="#cfe0fd", edgecolor=BLUE, hatch="////", label="this form")
        dashes = axes.hlines(truth, places - 0.42, places + 0.42, color="black", linewidth=2.2, label="truth")
        axes.set_xticks(places, ticks)
        set_axis(axes, "x", xlabel)
        set_axis(axes, "y", Axis(ylabel, guides=(0.0,)))
        axes.sharey(grid[0])
    shared_legend(figure, [drawn, dashes])
    return Picture(figure, alt)


class Mark(NamedTuple):
    """A value in the row of a `dot_plot`, its kind, and an optional interval about it."""

    row: str
    value: float
    kind: str
    low: float | None = None
    high: float | None = None


def draw_marks(axes: Axes, places: Sequence[float], marks: Sequence[Mark], style: Style) -> Artist:
    """Marks of one kind at the heights `places`, with intervals as bars."""
    bar = style.marker == "|"
    (drawn,) = axes.plot(
        [mark.value for mark in marks],
        places,
        color=style.color,
        marker=style.marker,
        markersize=13 if bar else 5,
        markeredgewidth=2 if bar else 0.5,
        linestyle="",
        zorder=3,
    )
    for place, mark in zip(places, marks, strict=True):
        if mark.low is not None and mark.high is not None:
            axes.hlines(place, mark.low, mark.high, color=style.color, linewidth=1.3, zorder=2)
    return drawn


def dot_plot(
    panels: Sequence[tuple[str, Sequence[Mark]]],
    rows: Sequence[str],
    kinds: Mapping[str, Style],
    *,
    alt: str,
    columns: int,
    width: float = 1.75,
    row_height: float = 0.27,
    guides: Sequence[float] = (),
) -> Picture:
    """Rows by name from top to bottom, panels side by side: (title, marks) of each, with intervals as bars.

    Marks of one row and panel that differ in kind are drawn a little apart, in the order of `kinds`.

    Args:
        kinds: kind -> colour and marker; a kind without a mark is not in the legend.
        columns: panels side by side; further ones go below.
        width, row_height: inches, of a panel and of a row.
        guides: values to compare with, each a thin line down every panel.
    """
    titles = [title for title, _ in panels]
    figure, grid = new_panels(titles, columns, width=width, height=row_height * len(rows) + 1.0)
    figure.set_figwidth(figure.get_figwidth() + 2.2)
    for index, (axes, (_, marks)) in enumerate(zip(grid, panels, strict=True)):
        for place in range(len(rows)):
            axes.axhline(place, color="#e3e3e8", linewidth=0.8, zorder=0)
        for guide in guides:
            reference_line(axes, guide, "x")
        for order, (kind, style) in enumerate(kinds.items()):
            own = [mark for mark in marks if mark.kind == kind and np.isfinite(mark.value)]
            offset = 0.0 if style.marker == "|" else 0.16 * (order - len(kinds) / 2)
            drawn = draw_marks(axes, [rows.index(mark.row) + offset for mark in own], own, style)
            drawn.set_label(kind if own else "")
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), list(map(label_of, rows)) if index % columns == 0 else [""] * len(rows))
        axes.tick_params(axis="y", length=0)
        axes.tick_params(labelsize=9)
        axes.title.set_fontsize(9)
        axes.locator_params(axis="x", nbins=4)
    shared_legend(figure)
    return Picture(figure, alt)
