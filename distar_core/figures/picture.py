"""Pictures with an alternative text, the figures under them, and the colours of the methods."""

from __future__ import annotations

import base64
import html
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor


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


def new_panels(count: int, columns: int, *, width: float = 2.9, height: float = 2.9) -> tuple[Figure, Any]:
    """A figure with `count` visible axes in rows of at most `columns`; otherwise as new_figure."""
    columns = min(columns, count)
    figure, grid = new_figure(columns, -(-count // columns), width=width, height=height)
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    return figure, grid


CYCLE = tuple(
    Style(color, marker, line)
    for color, marker, line in zip(
        (BLUE, RED, ORANGE, VIOLET, "#5c5c62", PURPLE),
        ("o", "s", "^", "D", "v", "P"),
        ("-", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (4, 2)), (0, (6, 1, 1, 1))),
        strict=True,
    )
)
TRUTH = STYLES["tilted optimum"]


def image_grid(images: Tensor, titles: Sequence[str], *, alt: str, columns: int = 6, width: float = 1.5) -> Picture:
    """A sheet of pictures [B, 3, H, W] in [0, 1], a title above each."""
    figure, grid = new_panels(len(images), columns, width=width, height=1.3 * width)
    for axes, image, title in zip(grid.flat, images, titles, strict=False):
        axes.axis("off")
        axes.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
        axes.set_title(textwrap.fill(title, 22), fontsize=7)
    return Picture(figure, alt)
