"""The only door to matplotlib. Every picture carries an alternative text; colours differ under colour blindness.

The reference is always drawn in grey contours, the known optimum in black dashes; methods have a colour, a marker and
a line style of their own.
"""

from __future__ import annotations

import base64
import html
import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.ticker import ScalarFormatter
from torch import Tensor

from .mixture import GaussianMixture
from .roles import Reward


class Style(NamedTuple):
    """How a method is drawn."""

    color: str
    marker: str
    line: Any


BLUE, ORANGE, RED, PURPLE, GREY, VIOLET = "#5790fc", "#f89c20", "#e42536", "#964a8b", "#9c9ca1", "#7a21dd"
STYLES = {
    "reward only": Style("#5c5c62", "X", (0, (1, 1))),
    "KL, w = σ²/α²": Style(RED, "s", (0, (5, 1))),
    "KL, w = 1": Style(ORANGE, "^", (0, (3, 1, 1, 1))),
    "score, pseudo-Huber": Style(BLUE, "o", "-"),
    "score, squared L2": Style(VIOLET, "D", (0, (4, 2))),
    "distilled generator": Style(GREY, "P", "-"),
    "tilted optimum": Style("black", "", (0, (2, 1.5))),
}


class Arrow(NamedTuple):
    """How a pull is drawn: colour of its inside and of its edge, width of the shaft as a share of the panel's."""

    color: str
    edge: str
    width: float


# no colour of a method, lest an arrow be taken for one
ARROWS = {
    "reward": Arrow("#c849a9", "#c849a9", 0.014),
    "regularizer": Arrow("#92dadd", "black", 0.011),
    "guidance": Arrow("#fbf0b6", "black", 0.009),
    "sum": Arrow("black", "black", 0.004),
}
RC: dict[Any, Any] = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10}


class Picture:
    """A drawn figure with its alternative text; shows itself in a notebook and saves itself as PNG.

    Raises:
        ValueError: if the alternative text says next to nothing.
    """

    def __init__(self, figure: Figure, alt: str) -> None:
        if len(alt.strip()) < 20:
            raise ValueError(f"the alternative text {alt!r} is too short; say in a sentence what the picture shows")
        self.figure = figure
        self.alt = alt

    def png(self) -> bytes:
        """The picture as PNG bytes, 144 dpi, with the alternative text in its metadata."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", metadata={"Description": self.alt})
        return buffer.getvalue()

    def save(self, path: Path) -> Picture:
        """Write the PNG."""
        path.write_bytes(self.png())
        return self

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        data = base64.b64encode(self.png()).decode()
        page = f'<figure><img alt="{html.escape(self.alt, quote=True)}" style="max-width:100%" src="data:image/png;base64,{data}"></figure>'
        return {"text/html": page, "image/png": data, "text/plain": self.alt}


def new_figure(columns: int, rows: int = 1, *, width: float = 2.9, height: float = 2.9) -> tuple[Figure, Any]:
    """A figure with rows x columns axes; width and height are inches per panel. Axes come as a 2D array."""
    import matplotlib as mpl

    with mpl.rc_context(RC):
        # square axes leave too little room for their titles with the default padding
        layout = ConstrainedLayoutEngine(h_pad=0.1)
        figure = Figure(figsize=(width * columns, height * rows), dpi=144, layout=layout)
        return figure, figure.subplots(rows, columns, squeeze=False)


def new_panels(count: int, columns: int, *, width: float = 2.9, height: float = 2.9) -> tuple[Figure, Any]:
    """A figure with `count` visible axes in rows of at most `columns`; otherwise as new_figure."""
    columns = min(columns, count)
    figure, grid = new_figure(columns, -(-count // columns), width=width, height=height)
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    return figure, grid


def _window(axes: Axes, half_width: float) -> None:
    axes.set(xlim=(-half_width, half_width), ylim=(-half_width, half_width), aspect="equal")
    axes.set_xticks([-2, 0, 2])
    axes.set_yticks([-2, 0, 2])


def _lattice(half_width: float, count: int = 160) -> tuple[np.ndarray, Tensor]:
    axis = torch.linspace(-half_width, half_width, count)
    return axis.numpy(), torch.cartesian_prod(axis, axis)


SHADES = colormaps["YlOrBr"]


def _legend(figure: Figure, reward: Reward | None, handles: Sequence[Artist] = ()) -> None:
    if reward is not None:
        handles = [*handles, Patch(color=SHADES(0.5), alpha=0.35, label="shading: reward")]
    if handles:
        columns = min(len(handles), max(1, int(figure.get_figwidth() / 1.3)))  # an entry is about 1.3 inches wide
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
        figure.set_figheight(figure.get_figheight() + 0.15 + 0.25 * math.ceil(len(handles) / columns))


def draw_world(axes: Axes, mixture: GaussianMixture, reward: Reward | None = None, *, half_width: float = 3.4) -> None:
    """The reference as grey contours and, if given, the reward as shading (darker is better)."""
    axis, points = _lattice(half_width)
    shape = (len(axis), len(axis))
    if reward is not None:
        values = reward(points, None).reshape(shape).T.numpy()
        axes.contourf(axis, axis, values, levels=12, cmap=SHADES, alpha=0.35, zorder=0)
    density = mixture.log_density(points).exp().reshape(shape).T.numpy()
    axes.contour(axis, axis, density, levels=density.max() * np.array([0.05, 0.4]), colors="#6f6f75", linewidths=0.8)
    _window(axes, half_width)


def clouds(
    panels: Mapping[str, Tensor],
    mixture: GaussianMixture,
    *,
    alt: str,
    reward: Reward | None = None,
    notes: Mapping[str, str] | None = None,
    columns: int = 3,
    half_width: float = 3.4,
    groups: Mapping[str, Tensor] | None = None,
) -> Picture:
    """Sample clouds side by side on equal axes: title -> points [N, 2]; notes are printed below the titles.

    Args:
        groups: name -> which of the points belong to it, [N] true or false for every panel; each group has a colour and
            a marker of its own, and fewer points are drawn.
    """
    figure, grid = new_panels(len(panels), columns)
    for axes, (title, points) in zip(grid.flat, panels.items(), strict=False):
        draw_world(axes, mixture, reward, half_width=half_width)
        style = STYLES.get(title, STYLES["distilled generator"])
        shown = points[:1500]
        if groups is None:
            axes.plot(shown[:, 0], shown[:, 1], ".", color=style.color, markersize=2.2, alpha=0.55, zorder=2)
        for (name, member), look in zip((groups or {}).items(), CYCLE, strict=False):
            axes.plot(
                *points[:800][member[:800]].T,
                look.marker,
                color=look.color,
                markersize=3,
                markeredgewidth=0,
                alpha=0.6,
                zorder=2,
                label=name,
            )
        axes.set_title(title + (f"\n{notes[title]}" if notes and title in notes else ""))
        outside = float((points.abs() > half_width).any(1).double().mean())
        if outside > 0.005:
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2}
            axes.text(
                0, 0.15 - half_width, f"{outside:.0%} are outside", ha="center", va="bottom", fontsize=9, bbox=box
            )
    _legend(figure, reward, grid.flat[0].get_legend_handles_labels()[0])
    return Picture(figure, alt)


def pull_picture(
    panels: Mapping[str, tuple[Tensor, ...]],
    mixture: GaussianMixture,
    *,
    alt: str,
    reward: Reward | None = None,
    backgrounds: Mapping[str, Tensor] | None = None,
    half_width: float = 3.4,
) -> Picture:
    """At each dot the way the reward moves it, the way the regularizer moves it, and their sum, on one scale.

    Args:
        panels: title -> (dots [N, 2], the reward's motion [N, 2], the regularizer's motion [N, 2]), and a fourth, the
            motion by guidance as a term of its own, if any panel has one.
        backgrounds: title -> cloud of samples [M, 2] drawn faintly.
        half_width: of the window, which grows until it holds every arrow.
    """
    figure, grid = new_panels(len(panels), 3 if len(panels) < 4 else 2, width=3.4, height=3.7)
    moves = {
        title: dict(zip(("reward", "regularizer", "guidance"), motions, strict=False))
        | {"sum": torch.stack(motions).sum(0)}
        for title, (_, *motions) in panels.items()
    }
    longest = max(1e-12, *(float(move.norm(dim=1).max()) for parts in moves.values() for move in parts.values()))
    scale = longest / 1.3
    heads = [panels[title][0] + move / scale for title, parts in moves.items() for move in parts.values()]
    half_width = max(half_width, 1.05 * float(torch.cat(heads + [dots for dots, *_ in panels.values()]).abs().max()))
    for axes, (title, (dots, *_)) in zip(grid.flat, panels.items(), strict=False):
        draw_world(axes, mixture, reward, half_width=half_width)
        if backgrounds and title in backgrounds:
            cloud = backgrounds[title][:800]
            axes.plot(cloud[:, 0], cloud[:, 1], ".", color="#b9b9be", markersize=1.5, zorder=1)
        for label, motion in moves[title].items():
            arrow = ARROWS[label]
            axes.quiver(
                *dots.T,
                *motion.T,
                facecolor=arrow.color,
                edgecolor=arrow.edge,
                linewidth=0.6,
                angles="xy",
                scale_units="xy",
                scale=scale,
                width=arrow.width,
                label=label,
                zorder=3,
            )
        axes.plot(*dots.T, "o", color="white", markeredgecolor="black", markersize=3.5, zorder=4)
        axes.set_title(title)
    most = max(grid.flat, key=lambda axes: len(axes.get_legend_handles_labels()[0]))
    _legend(figure, reward, most.get_legend_handles_labels()[0])
    return Picture(figure, alt)


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


def animate(
    frames: Mapping[str, Sequence[Tensor]],
    mixture: GaussianMixture,
    path: Path,
    *,
    alt: str,
    reward: Reward | None = None,
    captions: Sequence[str] = (),
    half_width: float = 3.4,
) -> Picture:
    """A GIF of clouds that move, title -> points [N, 2] per frame; returns the last frame as the still.

    It rests two seconds on the last frame before it starts anew.
    """
    figure, grid = new_figure(len(frames), width=2.3, height=2.75)
    figure.set_dpi(80)
    movers = []
    for axes, (title, sequence) in zip(grid.flat, frames.items(), strict=True):
        draw_world(axes, mixture, reward, half_width=half_width)
        style = STYLES.get(title, STYLES["distilled generator"])
        (mover,) = axes.plot(*sequence[0][:500].T, ".", color=style.color, markersize=2.2, alpha=0.6, zorder=2)
        axes.set_title(title)
        movers.append((mover, sequence))
    _legend(figure, reward)
    length = min(len(sequence) for sequence in frames.values())

    def show(index: int) -> list[Any]:
        for mover, sequence in movers:
            mover.set_data(*sequence[index][:500].T)
        if captions:
            figure.suptitle(captions[index], fontsize=10)
        return [mover for mover, _ in movers]

    FigureCanvasAgg(figure)
    show(0)
    # laid out anew, the panels would creep from frame to frame
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    frames_a_second = 8
    shown = [*range(length), *[length - 1] * 2 * frames_a_second]
    FuncAnimation(figure, show, frames=shown, blit=False).save(path, writer=PillowWriter(fps=frames_a_second), dpi=80)
    show(length - 1)
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


CYCLE = tuple(
    Style(color, marker, line)
    for color, marker, line in zip(
        (BLUE, RED, ORANGE, VIOLET, "#5c5c62", PURPLE),
        ("o", "s", "^", "D", "v", "P"),
        ("-", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (4, 2)), (0, (6, 1, 1, 1))),
        strict=True,
    )
)
PLAIN = (
    Style("#46464b", "o", "-"),
    Style("#b9ac70", "s", (0, (5, 1))),
    Style("#9c9ca1", "^", (0, (3, 1, 1, 1))),
)
"""For what is no method, in charts where the methods' own colours mean the methods."""
TRUTH = STYLES["tilted optimum"]


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


def arrows(
    panels: Mapping[str, tuple[Tensor, Tensor]],
    mixture: GaussianMixture,
    *,
    alt: str,
    dots: Mapping[str, Tensor] | None = None,
    longest: float = 0.8,
    half_width: float = 3.4,
) -> Picture:
    """Vector fields over the reference's contours: title -> (points [N, 2], vectors [N, 2]), one scale for all panels.

    Args:
        dots: title -> samples [M, 2] drawn faintly.
        longest: length of the longest arrow in the units of the axes.
    """
    figure, grid = new_figure(len(panels), width=3.1, height=3.3)
    largest = max(1e-12, *(float(vectors.norm(dim=1).max()) for _, vectors in panels.values()))
    for axes, (title, (points, vectors)) in zip(grid.flat, panels.items(), strict=True):
        draw_world(axes, mixture, half_width=half_width)
        if dots and title in dots:
            axes.plot(*dots[title][:800].T, ".", color="#b9b9be", markersize=1.5, zorder=1)
        scaled = {"angles": "xy", "scale_units": "xy", "scale": largest / longest}
        axes.quiver(*points.T, *vectors.T, color=BLUE, width=0.006, zorder=3, **scaled)
        axes.set_title(title)
    return Picture(figure, alt)


def maps(
    panels: Mapping[str, Tensor],
    x: Sequence[float],
    y: Sequence[float],
    *,
    alt: str,
    xlabel: str,
    ylabel: str,
    signed: bool = False,
    digits: int | None = None,
) -> Picture:
    """Values over two settings, title -> [len(y), len(x)], each panel with its own colour bar.

    Args:
        signed: a diverging map with its light centre at 0.
        digits: write the values into the cells with so many digits after the point.
    """
    figure, grid = new_figure(len(panels), width=3.6, height=3.1)
    for axes, (title, values) in zip(grid.flat, panels.items(), strict=True):
        field = values.double().numpy()
        limit = float(np.nanmax(np.abs(field)))
        bounds = {"vmin": -limit, "vmax": limit, "cmap": "PuOr_r"} if signed else {"cmap": "cividis"}
        image = axes.imshow(field, origin="lower", aspect="auto", **bounds)
        axes.set_xticks(range(len(x)), [f"{value:g}" for value in x])
        axes.set_yticks(range(len(y)), [f"{value:g}" for value in y])
        axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
        figure.colorbar(image, ax=axes, shrink=0.85)
        if digits is not None:
            for (row, column), value in np.ndenumerate(field):
                shade = image.cmap(image.norm(value))
                dark = 0.299 * shade[0] + 0.587 * shade[1] + 0.114 * shade[2] < 0.5
                color = "white" if dark else "black"
                axes.text(column, row, f"{value:.{digits}f}", ha="center", va="center", fontsize=9, color=color)
    return Picture(figure, alt)


def paths(
    panels: Mapping[str, Tensor],
    mixture: GaussianMixture,
    *,
    alt: str,
    marks: Mapping[str, int] | None = None,
    half_width: float = 3.4,
) -> Picture:
    """Ways of points over the reference's contours: title -> positions [T, N, 2], a thin line each.

    Args:
        marks: label -> index along the way; each gets a marker of its own.
    """
    figure, grid = new_figure(len(panels), width=4.2, height=4.5)
    for axes, (title, positions) in zip(grid.flat, panels.items(), strict=True):
        draw_world(axes, mixture, half_width=half_width)
        axes.plot(positions[..., 0], positions[..., 1], color="#5c5c62", linewidth=0.9, zorder=2)
        for (label, index), style in zip((marks or {}).items(), CYCLE, strict=False):
            look = {"color": style.color, "markeredgecolor": "black", "markeredgewidth": 0.5, "markersize": 5}
            axes.plot(*positions[index].T, style.marker, label=label, zorder=3, **look)
        axes.set_title(title)
    _legend(figure, None, grid.flat[0].get_legend_handles_labels()[0])
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


def carried(
    panels: Mapping[str, tuple[Tensor, Tensor]],
    *,
    alt: str,
    mixtures: Mapping[str, GaussianMixture] | None = None,
    half_width: float = 3.0,
) -> Picture:
    """The same curves and numbered points before and after a map: title -> (curves [L, P, 2], points [K, 2]).

    Args:
        mixtures: title -> a mixture whose contours are drawn behind.
    """
    figure, grid = new_figure(len(panels), width=3.3, height=3.5)
    for axes, (title, (curves, points)) in zip(grid.flat, panels.items(), strict=True):
        if mixtures and title in mixtures:
            draw_world(axes, mixtures[title], half_width=half_width)
        else:
            _window(axes, half_width)
        axes.plot(*curves.permute(2, 1, 0), color=BLUE, linewidth=0.8, zorder=2)
        for number, point in enumerate(points.tolist(), start=1):
            box = {"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": "black", "linewidth": 0.6}
            axes.text(*point, str(number), ha="center", va="center", fontsize=8, bbox=box, zorder=4)
        axes.set_title(title)
    return Picture(figure, alt)


def pictures(images: Tensor, titles: Sequence[str], *, alt: str, columns: int = 6, width: float = 1.5) -> Picture:
    """A sheet of pictures [B, 3, H, W] in [0, 1], a title above each."""
    figure, grid = new_panels(len(images), columns, width=width, height=1.3 * width)
    for axes, image, title in zip(grid.flat, images, titles, strict=False):
        axes.axis("off")
        axes.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
        axes.set_title(textwrap.fill(title, 22), fontsize=7)
    return Picture(figure, alt)
