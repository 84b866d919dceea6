"""Charts: lines, bars, strips and the frontier of reward against a metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.ticker import ScalarFormatter

from .picture import BLUE, CYCLE, STYLES, Picture, Style, new_figure, new_panels


class Curve(NamedTuple):
    """A line of the frontier: the known truth of a method over reward scales."""

    name: str
    reward: Sequence[float]
    values: Mapping[str, Sequence[float]]


class Dot(NamedTuple):
    """A trained run on the frontier."""

    name: str
    reward: float
    values: Mapping[str, float]


def frontier(
    curves: Sequence[Curve],
    dots: Sequence[Dot],
    labels: Mapping[str, str],
    *,
    alt: str,
    limits: Mapping[str, tuple[float, float]] | None = None,
    guides: Mapping[str, float] | None = None,
) -> Picture:
    """Metrics against mean reward: lines are fixed points, markers are trained runs.

    Args:
        labels: metric -> label of its axis; one panel each.
        limits: metric -> limits of its axis; runs outside are drawn at the edge as open markers.
        guides: metric -> value of the reference, a thin horizontal line.
    """
    figure, grid = new_figure(len(labels), width=2.5, height=3.5)
    for axes, (metric, label) in zip(grid.flat, labels.items(), strict=True):
        low, high = (limits or {}).get(metric, (None, None))
        if guides and metric in guides:
            axes.axhline(guides[metric], color="#8a8a90", linewidth=0.8)
        for curve in curves:
            style = STYLES[curve.name]
            axes.plot(curve.reward, curve.values[metric], color=style.color, linestyle=style.line, linewidth=1.6)
        for dot in dots:
            style = STYLES[dot.name]
            value = dot.values[metric]
            below = low is not None and value < low
            clipped = below or not np.isfinite(value) or (high is not None and value > high)
            height = (low if below else high) if clipped else value
            if height is None:
                continue
            axes.plot(
                dot.reward,
                height,
                style.marker,
                color=style.color,
                markerfacecolor="none" if clipped else style.color,
                markersize=5.5,
                markeredgewidth=0.9,
                markeredgecolor=style.color if clipped else "white",
                clip_on=False,
                zorder=3,
            )
        axes.set(xlabel="mean reward", ylabel=label)
        if high is not None:
            axes.set_ylim(low, high)
    names = dict.fromkeys([curve.name for curve in curves] + [dot.name for dot in dots])
    for name in names:
        style = STYLES[name]
        line = style.line if any(curve.name == name for curve in curves) else ""
        grid.flat[0].plot([], [], color=style.color, marker=style.marker, linestyle=line, label=name)
    handles, texts = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=min(len(names), 4), frameon=False)
    return Picture(figure, alt)


class Line(NamedTuple):
    """A curve, or separate markers if its style has no line: x and y, [N] each, with an optional interval about y.

    Lines of one label share a style and one entry in the legend; an empty label has none.
    """

    label: str
    x: Any
    y: Any
    low: Any = None
    high: Any = None
    style: Style | None = None


PLAIN = (
    Style("#46464b", "o", "-"),
    Style("#b9ac70", "s", (0, (5, 1))),
    Style("#9c9ca1", "^", (0, (3, 1, 1, 1))),
)
"""For what is no method, in charts where the methods' own colours mean the methods."""


def lines(
    panels: Mapping[str, Sequence[Line]],
    *,
    alt: str,
    xlabel: str | Sequence[str],
    ylabel: str | Sequence[str],
    log: str | Sequence[str] = "",
    ylim: tuple[float, float] | None = None,
    guides: Sequence[float] = (),
    markers: bool | int = False,
    columns: int = 6,
    width: float = 3.3,
    height: float = 3.1,
) -> Picture:
    """Curves in panels side by side, title -> lines, on equal axes where `ylabel` is one string for all.

    A line without a style takes the style that `STYLES` has for its label, or the next of `CYCLE`, the same in every
    panel. Intervals are drawn as bands around lines and as bars at markers.

    Args:
        xlabel, ylabel: one label for all panels, or one a panel.
        log: axes that are logarithmic, "", "x", "y" or "xy", for all panels or one a panel.
        guides: heights of thin horizontal lines.
        markers: draw a marker at every point of every line, or at every so many.
        columns: panels in a row at most.
    """
    figure, grid = new_panels(len(panels), columns, width=width, height=height)
    labels = dict.fromkeys(line.label for content in panels.values() for line in content)
    fresh = iter(CYCLE * 4)
    styles = {label: STYLES[label] if label in STYLES else next(fresh) for label in labels}
    xlabels, ylabels, logs = ([s] * len(panels) if isinstance(s, str) else s for s in (xlabel, ylabel, log))
    handles: dict[str, Any] = {}
    for axes, (title, content), name, below, scale in zip(
        grid.flat[: len(panels)], panels.items(), ylabels, xlabels, logs, strict=True
    ):
        for guide in guides:
            axes.axhline(guide, color="#8a8a90", linewidth=0.8, zorder=0)
        for x, y, low, high, style, label in (
            (*line[1:5], line.style or styles[line.label], line.label) for line in content
        ):
            dots = style.marker if markers or style.line == "" else ""
            (handle,) = axes.plot(
                x,
                y,
                color=style.color,
                linestyle=style.line,
                marker=dots,
                markevery=max(markers, 1),
                linewidth=1.6,
                markersize=5,
            )
            if low is not None and style.line != "":
                axes.fill_between(x, low, high, color=style.color, alpha=0.18, linewidth=0)
            elif low is not None:
                axes.vlines(x, low, high, color=style.color, linewidth=1.2)
            if label:
                handles.setdefault(label, handle)
        axes.set(xlabel=below, ylabel=name, title=title)
        for letter in scale:
            getattr(axes, f"set_{letter}scale")("log")
            axis = getattr(axes, f"{letter}axis")
            low, high = axis.get_view_interval()
            if high < 10 * low:
                # matplotlib would write 1.8 × 10⁰ here
                axis.set_major_formatter(ScalarFormatter())
                axis.set_minor_formatter(ScalarFormatter())
        if ylim is not None:
            axes.set_ylim(ylim)
    if isinstance(ylabel, str) and ylim is None:
        shown = grid.flat[: len(panels)]
        limits = [axes.get_ylim() for axes in shown]
        for axes in shown:
            axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    if handles:
        # about eleven characters fit into an inch, and a sample of the line takes six
        widest = max(map(len, handles)) + 6
        fitting = max(1, min(len(handles), int(11 * width * min(len(panels), columns) / widest)))
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=fitting, frameon=False)
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
    figure, grid = new_panels(len(panels), columns, width=3.4, height=2.4)
    places = range(len(ticks))
    for axes, (title, values) in zip(grid.flat, panels.items(), strict=False):
        look = {"color": "#cfe0fd", "edgecolor": BLUE, "hatch": "////", "width": 0.6}
        drawn = axes.bar(places, values, label="this form", **look)
        dashes = axes.hlines(
            truth, [k - 0.42 for k in places], [k + 0.42 for k in places], color="black", linewidth=2.2
        )
        axes.axhline(0, color="#8a8a90", linewidth=0.8, zorder=0)
        axes.set_xticks(places, ticks)
        axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
        axes.sharey(grid.flat[0])
    figure.legend([drawn, dashes], ["this form", "truth"], loc="outside lower center", ncols=2, frameon=False)
    return Picture(figure, alt)


class Mark(NamedTuple):
    """A value on the line of a row in a `strips` panel, its kind, and an optional interval about it."""

    row: str
    value: float
    kind: str
    low: float | None = None
    high: float | None = None


def strips(
    panels: Mapping[str, Sequence[Mark]],
    rows: Sequence[str],
    kinds: Mapping[str, Style],
    *,
    alt: str,
    columns: int,
    width: float = 1.75,
    row_height: float = 0.27,
) -> Picture:
    """Rows by name from top to bottom, panels side by side: title -> marks, with intervals as bars.

    Marks of one row and panel that differ in kind are drawn a little apart, in the order of `kinds`.

    Args:
        kinds: kind -> colour and marker; a kind without a mark is not in the legend.
        columns: panels side by side; further ones go below.
    """
    height = row_height * len(rows) + 1.0
    figure, grid = new_figure(columns, -(-len(panels) // columns), width=width, height=height)
    figure.set_figwidth(figure.get_figwidth() + 2.2)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    handles: dict[str, Any] = {}
    for index, (axes, (title, marks)) in enumerate(zip(grid.flat, panels.items(), strict=False)):
        for place in range(len(rows)):
            axes.axhline(place, color="#e3e3e8", linewidth=0.8, zorder=0)
        for kind, style in kinds.items():
            own = [mark for mark in marks if mark.kind == kind and np.isfinite(mark.value)]
            apart = 0.0 if style.marker == "|" else 0.16 * (list(kinds).index(kind) - len(kinds) / 2)
            places = [rows.index(mark.row) + apart for mark in own]
            size = 13 if style.marker == "|" else 5
            look = {
                "color": style.color,
                "linestyle": "",
                "markersize": size,
                "markeredgewidth": 2 if size > 5 else 0.5,
            }
            (handle,) = axes.plot([mark.value for mark in own], places, marker=style.marker, zorder=3, **look)
            for mark, level in zip(own, places, strict=True):
                if mark.low is not None:
                    axes.hlines(level, mark.low, mark.high, color=style.color, linewidth=1.3, zorder=2)
            if own:
                handles.setdefault(kind, handle)
        axes.set_title(title, fontsize=9)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), rows if index % columns == 0 else [""] * len(rows))
        axes.tick_params(axis="y", length=0)
        axes.tick_params(labelsize=9)
        axes.locator_params(axis="x", nbins=4)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=max(1, len(handles)), frameon=False)
    return Picture(figure, alt)
