"""How far a long piece of work is: what the work says, whoever shows it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Progress(NamedTuple):
    """One event.

    Attributes:
        stage: name of the part that is under way; parts follow one another.
        done, total: how many of its units are finished, and of how many.
        note: a word on how it goes, such as "loss 0.12".
        made: a file that has just been written and can be opened while the work continues.
    """

    stage: str
    done: int
    total: int
    note: str = ""
    made: Path | None = None


Tell = Callable[[Progress], None]


def silent(event: Progress) -> None:
    """Tell nobody."""
