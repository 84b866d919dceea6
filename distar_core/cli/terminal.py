"""What the commands share: how they speak, refuse, stop and show progress."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from typer.core import TyperGroup

from ..extras import missing_packages

console = Console()


class Program(TyperGroup):
    """The commands; a character that the terminal, file or pipe cannot encode comes out as a question mark."""

    def main(self, *args: Any, **options: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
                stream.reconfigure(errors="replace")
        return super().main(*args, **options)


def fail(message: object, code: int = 1) -> typer.Exit:
    """Print one sentence about what went wrong and give the exit to raise."""
    Console(stderr=True).print(f"distar: {message}", highlight=False, markup=False, soft_wrap=True)
    return typer.Exit(code)


def program() -> str:
    """How this program is called in the shell."""
    return "distar" if shutil.which("distar") else sys.argv[0]


def say(line: str) -> None:
    """Print a line as it is: paths keep their brackets, and a command is not broken."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def stoppable(describe: Callable[[], str]) -> Iterator[None]:
    """On Ctrl-C or SIGTERM end with one sentence, "stopped by SIGINT" and what `describe` adds, and exit code 130 or 143.

    What is under way is unwound first; a second signal does not cut that short.
    """

    def interrupt(number: int, _: Any) -> None:
        for every in previous:
            signal.signal(every, signal.SIG_IGN)
        raise KeyboardInterrupt(number)

    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in previous:
        signal.signal(number, interrupt)
    try:
        yield
    except KeyboardInterrupt as caught:
        number = signal.Signals(*(caught.args or (signal.SIGINT,)))
        raise fail(f"stopped by {number.name} {describe()}", 128 + number) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def print_table(rows: list[list[str]], title: str) -> None:
    """A table whose first row is its head."""
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column)
    for row in rows[1:]:
        table.add_row(*map(escape, row))
    console.print(table)


def stages_in_progress(width: int) -> Progress:
    """Bars with a name of `width` characters, a note (the field `note` of a task), and the time gone and left."""
    return Progress(
        TextColumn("{task.description:>" + str(width) + "}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]:>12}"),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=console,
    )


def needs_packages() -> None:
    """Raise the exit with one sentence unless the extra "models" is installed."""
    if missing := missing_packages("models"):
        raise fail(missing)
