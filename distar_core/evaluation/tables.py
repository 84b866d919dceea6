"""Tables as text."""

from __future__ import annotations

from collections.abc import Sequence

Table = list[list[str]]
"""Rows of cells, the first the head."""


def scaled_name(name: str, factor: float) -> str:
    """What a column is called whose values are shown times a factor."""
    return name if factor == 1 else f"{factor:g} × {name}"


def markdown_table(cells: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first row its head."""
    head, *body = cells
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body))
