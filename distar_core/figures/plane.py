"""Drawings of the plane: clouds, pulls, paths and maps over a reference in grey contours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image
from torch import Tensor

from ..mixture import GaussianMixture
from ..roles import Reward
from .names import label_of
from .picture import BLUE, CYCLE, STYLES, Picture, labelled, new_panels, shared_legend


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


def _window(axes: Axes, half_width: float) -> None:
    axes.set(xlim=(-half_width, half_width), ylim=(-half_width, half_width), aspect="equal")
    axes.set_xticks([-2, 0, 2])
    axes.set_yticks([-2, 0, 2])


def _lattice(half_width: float, count: int = 160) -> tuple[np.ndarray, Tensor]:
    axis = torch.linspace(-half_width, half_width, count)
    return axis.numpy(), torch.cartesian_prod(axis, axis)


SHADES = colormaps["YlOrBr"]
FRAME, LAST = 125, 2000
"""How long a frame of an animation is shown, and how much longer the last one, in milliseconds."""


def _legend(figure: Figure, reward: Reward | None, handles: Sequence[Artist] | None = None) -> None:
    """The shared legend, which ends with what the shading is."""
    shading = [] if reward is None else [Patch(color=SHADES(0.5), alpha=0.35, label="shading: reward")]
    shared_legend(figure, [*(labelled(figure.axes) if handles is None else handles), *shading])


def draw_reference(
    axes: Axes, mixture: GaussianMixture, reward: Reward | None = None, *, half_width: float = 3.4
) -> None:
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
    titles = [label_of(title) + (f"\n{notes[title]}" if notes and title in notes else "") for title in panels]
    figure, grid = new_panels(titles, columns)
    for axes, (title, points) in zip(grid, panels.items(), strict=True):
        draw_reference(axes, mixture, reward, half_width=half_width)
        style = STYLES.get(title, STYLES["distilled"])
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
        outside = float((points.abs() > half_width).any(1).double().mean())
        if outside > 0.005:
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2}
            axes.text(
                0, 0.15 - half_width, f"{outside:.0%} are outside", ha="center", va="bottom", fontsize=9, bbox=box
            )
    _legend(figure, reward)
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
    figure, grid = new_panels(list(panels), 3 if len(panels) < 4 else 2, width=3.4, height=3.7)
    moves = {
        title: dict(zip(("reward", "regularizer", "guidance"), motions, strict=False))
        | {"sum": torch.stack(motions).sum(0)}
        for title, (_, *motions) in panels.items()
    }
    longest = max(1e-12, *(float(move.norm(dim=1).max()) for parts in moves.values() for move in parts.values()))
    scale = longest / 1.3
    heads = [panels[title][0] + move / scale for title, parts in moves.items() for move in parts.values()]
    half_width = max(half_width, 1.05 * float(torch.cat(heads + [dots for dots, *_ in panels.values()]).abs().max()))
    for axes, (title, (dots, *_)) in zip(grid, panels.items(), strict=True):
        draw_reference(axes, mixture, reward, half_width=half_width)
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
    # only some panels may have guidance, and its place is before the sum
    _legend(figure, reward, max((labelled([axes]) for axes in grid), key=len))
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
    figure, grid = new_panels(list(frames), width=2.3, height=2.75)
    figure.set_dpi(80)
    movers = []
    for axes, (title, sequence) in zip(grid, frames.items(), strict=True):
        draw_reference(axes, mixture, reward, half_width=half_width)
        style = STYLES.get(title, STYLES["distilled"])
        (mover,) = axes.plot(*sequence[0][:500].T, ".", color=style.color, markersize=2.2, alpha=0.6, zorder=2)
        movers.append((mover, sequence))
    _legend(figure, reward)
    length = min(len(sequence) for sequence in frames.values())
    caption = figure.suptitle(captions[0], fontsize=10) if captions else None
    canvas = FigureCanvasAgg(figure)
    # laid out anew, the panels would creep from frame to frame
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    moving: list[Artist] = [mover for mover, _ in movers] + ([caption] if caption else [])
    for artist in moving:
        artist.set_animated(True)
    canvas.draw()
    standing = canvas.copy_from_bbox(figure.bbox)
    images = []
    for index in range(length):
        for mover, sequence in movers:
            mover.set_data(*sequence[index][:500].T)
        if caption:
            caption.set_text(captions[index])
        canvas.restore_region(standing)
        for artist in moving:
            figure.draw_artist(artist)
        images.append(Image.fromarray(np.asarray(canvas.buffer_rgba()).copy()).convert("RGB"))
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=[FRAME] * (length - 1) + [FRAME + LAST], loop=0
    )
    for artist in moving:
        artist.set_animated(False)
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
    figure, grid = new_panels(list(panels), width=3.1, height=3.3)
    largest = max(1e-12, *(float(vectors.norm(dim=1).max()) for _, vectors in panels.values()))
    for axes, (title, (points, vectors)) in zip(grid, panels.items(), strict=True):
        draw_reference(axes, mixture, half_width=half_width)
        if dots and title in dots:
            axes.plot(*dots[title][:800].T, ".", color="#b9b9be", markersize=1.5, zorder=1)
        scale = largest / longest
        axes.quiver(
            *points.T, *vectors.T, color=BLUE, angles="xy", scale_units="xy", scale=scale, width=0.006, zorder=3
        )
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
    figure, grid = new_panels(list(panels), width=3.6, height=3.1)
    for axes, (title, values) in zip(grid, panels.items(), strict=True):
        field = values.double().numpy()
        limit = float(np.nanmax(np.abs(field)))
        bounds = {"vmin": -limit, "vmax": limit, "cmap": "PuOr_r"} if signed else {"cmap": "cividis"}
        image = axes.imshow(field, origin="lower", aspect="auto", **bounds)
        axes.set_xticks(range(len(x)), [f"{value:g}" for value in x])
        axes.set_yticks(range(len(y)), [f"{value:g}" for value in y])
        axes.set(xlabel=xlabel, ylabel=ylabel, title=label_of(title))
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
    figure, grid = new_panels(list(panels), width=4.2, height=4.5)
    for axes, positions in zip(grid, panels.values(), strict=True):
        draw_reference(axes, mixture, half_width=half_width)
        axes.plot(positions[..., 0], positions[..., 1], color="#5c5c62", linewidth=0.9, zorder=2)
        for (label, index), style in zip((marks or {}).items(), CYCLE, strict=False):
            axes.plot(
                *positions[index].T,
                style.marker,
                color=style.color,
                markeredgecolor="black",
                markeredgewidth=0.5,
                markersize=5,
                label=label,
                zorder=3,
            )
    _legend(figure, None)
    return Picture(figure, alt)


def mapped(
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
    figure, grid = new_panels(list(panels), width=3.3, height=3.5)
    for axes, (title, (curves, points)) in zip(grid, panels.items(), strict=True):
        if mixtures and title in mixtures:
            draw_reference(axes, mixtures[title], half_width=half_width)
        else:
            _window(axes, half_width)
        axes.plot(*curves.permute(2, 1, 0), color=BLUE, linewidth=0.8, zorder=2)
        for number, (x, y) in enumerate(points.tolist(), start=1):
            box = {"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": "black", "linewidth": 0.6}
            axes.text(x, y, str(number), ha="center", va="center", fontsize=8, bbox=box, zorder=4)
    return Picture(figure, alt)
