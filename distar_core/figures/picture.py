"""Pictures with an alternative text, the figures under them, and the colours of the methods."""

from __future__ import annotations

import base64
import html
import io
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import Container
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from .names import label_of


class Style(NamedTuple):
    """How a method is drawn."""

    color: str
    marker: str
    line: Any


BLUE, ORANGE, RED, PURPLE, GREY, VIOLET = "#5790fc", "#f89c20", "#e42536", "#964a8b", "#9c9ca1", "#7a21dd"
GUIDE = "#8a8a90"
STYLES = {
    "reward-only": Style("#5c5c62", "X", (0, (1, 1))),
    "kl-x0": Style(RED, "s", (0, (5, 1))),
    "kl-one": Style(ORANGE, "^", (0, (3, 1, 1, 1))),
    "star": Style(BLUE, "o", "-"),
    "l2": Style(VIOLET, "D", (0, (4, 2))),
    "distilled": Style(GREY, "P", "-"),
    "tilt": Style("black", "", (0, (2, 1.5))),
}
RC: dict[Any, Any] = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}


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
        return shown(self.png(), self.alt)


class SavedPicture:
    """A PNG that a Picture has written, with its alternative text; shows itself in a notebook.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has no alternative text.
    """

    def __init__(self, path: Path) -> None:
        from PIL import Image

        self._png = path.read_bytes()
        with Image.open(io.BytesIO(self._png)) as image:
            self.alt = str(image.info.get("Description", ""))
        if not self.alt:
            raise ValueError(f"{path} has no alternative text, so no Picture wrote it; name another file")

    def png(self) -> bytes:
        """The file's bytes."""
        return self._png

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return shown(self._png, self.alt)


def shown(png: bytes, alt: str) -> dict[str, Any]:
    """A picture by media type, as a notebook takes it."""
    data = base64.b64encode(png).decode()
    page = f'<figure><img alt="{html.escape(alt, quote=True)}" style="max-width:100%" src="data:image/png;base64,{data}"></figure>'
    return {"text/html": page, "image/png": data, "text/plain": alt}


def new_panels(
    titles: Sequence[str], columns: int = 6, *, width: float = 2.9, height: float = 2.9
) -> tuple[Figure, list[Axes]]:
    """A figure with one panel per title, in rows of at most `columns`; width and height are inches per panel."""
    columns = min(columns, len(titles))
    rows = math.ceil(len(titles) / columns)
    figure = _new_figure(width * columns, height * rows)
    with mpl.rc_context(RC):
        grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, title in zip(grid, titles, strict=False):
        axes.set_title(label_of(title))
    for axes in grid[len(titles) :]:
        axes.set_visible(False)
    return figure, grid[: len(titles)]


def new_mosaic(
    rows: Sequence[Sequence[str]], heights: Sequence[float], *, width: float, height: float
) -> tuple[Figure, list[Axes]]:
    """A figure whose panels differ in size: rows of names, a panel wherever one name stands; width and height of the
    figure in inches, and how high the rows are to each other. The panels come in the order of their names."""
    figure = _new_figure(width, height)
    with mpl.rc_context(RC):
        named = figure.subplot_mosaic([list(row) for row in rows], height_ratios=list(heights))
    return figure, [named[name] for name in dict.fromkeys(name for row in rows for name in row)]


def _new_figure(width: float, height: float) -> Figure:
    # square axes leave too little room for their titles with the default padding
    return Figure(figsize=(width, height), dpi=144, layout=ConstrainedLayoutEngine(h_pad=0.1))


def labelled(axes: Sequence[Axes]) -> list[Artist]:
    """What stands for each label of these panels in a legend: the first artist that has it."""
    found: dict[str, Artist] = {}
    for panel in axes:
        for artist, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, artist)
    return list(found.values())


def shared_legend(figure: Figure, handles: Sequence[Artist | Container] | None = None) -> None:
    """One legend below all panels, in as few and as even rows as fit; the figure grows by its height.

    Args:
        handles: artists with their labels; by default one for each label in the figure.
    """
    handles = labelled(figure.axes) if handles is None else handles
    renderer = FigureCanvasAgg(figure).get_renderer()
    for rows in range(1, len(handles) + 1):
        columns = math.ceil(len(handles) / rows)
        legend = figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
        box = legend.get_window_extent(renderer)
        if box.width <= figure.bbox.width or columns == 1:
            figure.set_figheight(figure.get_figheight() + box.height / figure.dpi)
            break
        legend.remove()


CYCLE = tuple(
    Style(color, marker, line)
    for color, marker, line in zip(
        (BLUE, RED, ORANGE, VIOLET, "#5c5c62", PURPLE),
        ("o", "s", "^", "D", "v", "P"),
        ("-", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (4, 2)), (0, (6, 1, 1, 1))),
        strict=True,
    )
)
TRUTH = STYLES["tilt"]


def image_grid(images: Tensor, titles: Sequence[str], *, alt: str, columns: int = 6, width: float = 1.5) -> Picture:
    """A sheet of pictures [B, 3, H, W] in [0, 1], a title above each."""
    figure, grid = new_panels([textwrap.fill(title, 22) for title in titles], columns, width=width, height=1.3 * width)
    for axes, image in zip(grid, images, strict=True):
        axes.axis("off")
        axes.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
        axes.title.set_fontsize(7)
    return Picture(figure, alt)
