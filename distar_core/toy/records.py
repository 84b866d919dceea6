"""What the demo's full profile recorded, as rows: where runs started, which regularizers they had, and what came of them."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from .ring import TOY_METHODS
from .summary import Summary

EXACT = "exact"
"""Generators of affine maps whose score is exact, as the demo's files call them."""
START = "distilled"
"""The generator that every run starts from, as the rows call it."""
REGULARIZERS = tuple(name for name, method in TOY_METHODS.items() if method.regularizer)


@dataclass(frozen=True)
class Row:
    """One line of runs.csv; numbers that do not apply are nan."""

    reward_name: str
    regularizer: str
    aim: float
    reward_scale: float
    seed: float
    steps: float
    seconds: float
    summary: Summary


def read_runs(path: Path | None = None) -> list[Row]:
    """The rows of runs.csv; without a path, of the full profile's run that ships with the package."""
    source = path or files("distar_core.toy") / "data" / "runs_full.csv"
    text = source.read_text(encoding="utf-8")
    return [
        Row(
            row["reward_name"],
            row["regularizer"],
            **{key: float(row[key] or "nan") for key in ("aim", "reward_scale", "seed", "steps", "seconds")},
            summary=Summary.read(row),
        )
        for row in csv.DictReader(text.splitlines())
    ]


def select(rows: Iterable[Row], reward_name: str, regularizer: str) -> list[Row]:
    """The rows of one regularizer under one reward."""
    return [row for row in rows if (row.reward_name, row.regularizer) == (reward_name, regularizer)]
