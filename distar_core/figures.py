"""The only door to matplotlib. Every picture carries an alternative text; colours differ under colour blindness.

The reference is always drawn in grey contours, the known optimum in black dashes; methods have a colour, a marker and
a line style of their own.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
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


def _window(axes: Axes, half_width: float) -> None:
    axes.set(xlim=(-half_width, half_width), ylim=(-half_width, half_width), aspect="equal")
    axes.set_xticks([-2, 0, 2])
    axes.set_yticks([-2, 0, 2])


def _lattice(half_width: float, count: int = 160) -> tuple[np.ndarray, Tensor]:
    axis = torch.linspace(-half_width, half_width, count)
    return axis.numpy(), torch.cartesian_prod(axis, axis)


def draw_world(axes: Axes, mixture: GaussianMixture, reward: Reward | None = None, *, half_width: float = 3.4) -> None:
    """The reference as grey contours and, if given, the reward as shading (darker is better)."""
    axis, points = _lattice(half_width)
    shape = (len(axis), len(axis))
    if reward is not None:
        values = reward(points, None).reshape(shape).T.numpy()
        axes.contourf(axis, axis, values, levels=12, cmap=colormaps["YlOrBr"], alpha=0.35, zorder=0)
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
) -> Picture:
    """Sample clouds side by side on equal axes: title -> points [N, 2]; notes are printed below the titles."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = new_figure(columns, rows)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, points) in zip(grid.flat, panels.items(), strict=False):
        draw_world(axes, mixture, reward, half_width=half_width)
        style = STYLES.get(title, STYLES["distilled generator"])
        shown = points[:1500]
        axes.plot(shown[:, 0], shown[:, 1], ".", color=style.color, markersize=2.2, alpha=0.55, zorder=2)
        axes.set_title(title + (f"\n{notes[title]}" if notes and title in notes else ""))
        outside = float((points.abs() > half_width).any(1).double().mean())
        if outside > 0.005:
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2}
            axes.text(
                0, 0.15 - half_width, f"{outside:.0%} are outside", ha="center", va="bottom", fontsize=9, bbox=box
            )
    return Picture(figure, alt)


def pull_picture(
    panels: Mapping[str, tuple[Tensor, Tensor, Tensor]],
    mixture: GaussianMixture,
    *,
    alt: str,
    reward: Reward | None = None,
    backgrounds: Mapping[str, Tensor] | None = None,
    half_width: float = 3.4,
) -> Picture:
    """At each dot the way the reward moves it, the way the regularizer moves it, and their sum.

    Args:
        panels: title -> (dots [N, 2], the reward's motion [N, 2], the regularizer's motion [N, 2]).
        backgrounds: title -> cloud of samples [M, 2] drawn faintly.
    """
    figure, grid = new_figure(len(panels), width=3.4, height=3.9)
    largest = max(1e-12, *(float(part.norm(dim=1).max()) for _, *parts in panels.values() for part in parts))
    for axes, (title, (dots, by_reward, by_regularizer)) in zip(grid.flat, panels.items(), strict=True):
        draw_world(axes, mixture, reward, half_width=half_width)
        if backgrounds and title in backgrounds:
            cloud = backgrounds[title][:800]
            axes.plot(cloud[:, 0], cloud[:, 1], ".", color="#b9b9be", markersize=1.5, zorder=1)
        arrows = (
            ("reward", by_reward, ORANGE, 0.011),
            ("regularizer", by_regularizer, BLUE, 0.011),
            ("sum", by_reward + by_regularizer, "black", 0.006),
        )
        for label, motion, color, width in arrows:
            axes.quiver(
                *dots.T,
                *motion.T,
                color=color,
                angles="xy",
                scale_units="xy",
                scale=largest / 1.3,
                width=width,
                label=label,
                zorder=3,
            )
        axes.plot(*dots.T, "o", color="white", markeredgecolor="black", markersize=3.5, zorder=4)
        axes.set_title(title)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
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
    """A GIF of clouds that move, title -> points [N, 2] per frame; returns the last frame as the still."""
    figure, grid = new_figure(len(frames), width=2.3, height=2.75)
    figure.set_dpi(80)
    movers = []
    for axes, (title, sequence) in zip(grid.flat, frames.items(), strict=True):
        draw_world(axes, mixture, reward, half_width=half_width)
        style = STYLES.get(title, STYLES["distilled generator"])
        (mover,) = axes.plot(*sequence[0][:500].T, ".", color=style.color, markersize=2.2, alpha=0.6, zorder=2)
        axes.set_title(title)
        movers.append((mover, sequence))
    length = min(len(sequence) for sequence in frames.values())

    def show(index: int) -> list[Any]:
        for mover, sequence in movers:
            mover.set_data(*sequence[index][:500].T)
        if captions:
            figure.suptitle(captions[index], fontsize=10)
        return [mover for mover, _ in movers]

    FigureCanvasAgg(figure)
    FuncAnimation(figure, show, frames=length, blit=False).save(path, writer=PillowWriter(fps=8), dpi=80)
    show(length - 1)
    return Picture(figure, alt)


def trajectories(
    series: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]],
    styles: Mapping[str, Style],
    *,
    alt: str,
    xlabel: str,
    ylabel: str,
    log: bool = False,
) -> Picture:
    """Lines over steps: label -> one (x, y) pair a seed."""
    figure, grid = new_figure(1, width=6.2, height=3.4)
    axes = grid[0, 0]
    for label, lines in series.items():
        style = styles[label]
        for index, (x, y) in enumerate(lines):
            axes.plot(
                x,
                y,
                color=style.color,
                linestyle=style.line,
                linewidth=1.6,
                marker=style.marker,
                markevery=6,
                markersize=4.5,
                label=label if index == 0 else None,
            )
    axes.set(xlabel=xlabel, ylabel=ylabel, yscale="log" if log else "linear")
    axes.legend(frameon=False)
    return Picture(figure, alt)
