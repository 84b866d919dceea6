"""What the commands share: how they speak, refuse, stop and show progress.

Commands raise. `Program` is the one place that turns an error into a sentence on the standard error and an exit code.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Column, Table
from typer.core import TyperGroup

from ..errors import DistarError
from ..runs.progress import Progress
from ..runs.signals import Interrupted

Item = TypeVar("Item")
Known = TypeVar("Known")

PACKAGE = Path(__file__).resolve().parent.parent
TRACEBACK = "DISTAR_TRACEBACK"
STOP_CODE = "DISTAR_STOP_CODE"
LINES_PER_STAGE = 10
SECONDS_PER_LINE = 5.0

console = Console(force_jupyter=False)  # to the standard output, also where a notebook calls a command


class Stopped(DistarError):
    """A command was asked to stop outside of a run that keeps itself (that one raises Interrupted)."""

    def __init__(self, received: signal.Signals, rest: str) -> None:
        super().__init__(f"stopped by {received.name} {rest}")
        self.exit_code = 128 + received


class Program(TyperGroup):
    """The commands, inside one boundary for errors, warnings and characters.

    An error that a person can mend (see `is_refusal`) becomes one sentence and an exit code; any other is a bug and keeps
    its traceback. With DISTAR_TRACEBACK=1 in the environment every error does. A warning becomes a sentence, said once.
    A run that SIGTERM stopped, with a checkpoint written, leaves 143 to the shell, or what DISTAR_STOP_CODE says: 0 where who
    sends the signal, such as a queue that takes machines back, would take anything else for a failure.
    A character that the terminal, file or pipe cannot encode comes out as a question mark.
    """

    def main(self, *args: Any, **options: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
                stream.reconfigure(errors="replace")
        return super().main(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        stop_code = read_stop_code()
        with warnings_as_sentences():
            try:
                return super().invoke(ctx)
            except Exception as error:
                if os.environ.get(TRACEBACK) == "1" or not is_refusal(error):
                    raise
                complain(" ".join([sentence_of(error), *getattr(error, "__notes__", ())]))
                raise typer.Exit(exit_code_of(error, stop_code)) from error


def read_stop_code() -> int | None:
    """What DISTAR_STOP_CODE says, None where it is not set; a command ends at once if it is no exit code."""
    written = os.environ.get(STOP_CODE, "")
    if written and not (written.isdecimal() and int(written) < 256):
        complain(f"{STOP_CODE} is {written!r} in the environment; give a number from 0 to 255, or unset it")
        raise typer.Exit(1)
    return int(written) if written else None


def exit_code_of(error: Exception, stop_code: int | None) -> int:
    """What an error leaves to the shell; for a run that SIGTERM stopped and that was saved, stop_code, if there is one."""
    if stop_code is not None and isinstance(error, Interrupted) and error.signal == signal.SIGTERM:
        return stop_code
    return getattr(error, "exit_code", 1)


def is_refusal(error: Exception) -> bool:
    """Whether the error tells a person what to mend, and is no bug.

    That is a DistarError, trouble with files, or a ValueError, TypeError or RuntimeError that a `raise` statement of this
    package wrote. An error that comes out of another process has lost its frames and counts as a bug. What Python or another library
    raises, such as int("x"), is a bug of ours that nobody has foreseen. A
    reader who has closed the pipe is neither: typer ends the program quietly then.
    """
    if isinstance(error, (DistarError, OSError)):
        return not isinstance(error, BrokenPipeError)
    frames = traceback.extract_tb(error.__traceback__)
    ours = bool(frames) and PACKAGE in Path(frames[-1].filename).resolve().parents
    written = ours and (frames[-1].line or "raise").startswith("raise")
    return written and isinstance(error, (ValueError, TypeError, RuntimeError))


def sentence_of(error: Exception) -> str:
    """The error's text; the file and the reason where the operating system raised it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def complain(sentence: str) -> None:
    """Print one sentence on the standard error."""
    Console(stderr=True, force_jupyter=False).print(
        f"distar: {sentence}", highlight=False, markup=False, soft_wrap=True
    )


@contextmanager
def warnings_as_sentences() -> Iterator[None]:
    """Inside, a warning is one sentence on the standard error, without file and line, and the same one is said once."""
    known: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if (text := str(message)) not in known:
            known.add(text)
            complain(f"warning: {text}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextmanager
def hint(kind: type[Exception], words: Callable[[], str]) -> Iterator[None]:
    """Errors of a kind leave with some more words, about what only the command knows: its options, and how to resume it."""
    try:
        yield
    except kind as error:
        error.add_note(words())
        raise


def look_up(what: str, name: str, known: Mapping[str, Known]) -> Known:
    """The entry of that name. Raises ValueError with the names that are known."""
    if name not in known:
        raise ValueError(f"{what} {name!r} is unknown; known are {', '.join(known)}")
    return known[name]


def program() -> str:
    """How this program is called in the shell."""
    return "distar" if shutil.which("distar") else sys.argv[0]


def say(line: str) -> None:
    """Print a line as it is: paths keep their brackets, and a command is not broken."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def stoppable(describe: Callable[[], str]) -> Iterator[None]:
    """Ctrl-C and SIGTERM raise Stopped, whose text ends with what `describe` says.

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
        raise Stopped(signal.Signals(*(caught.args or (signal.SIGINT,))), describe()) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def silent_unless(speaks: bool) -> Iterator[None]:
    """Of several processes that do the same, one speaks. Inside, the others say and show nothing; errors and warnings come from
    each.
    """
    before, console.quiet = console.quiet, not speaks
    try:
        yield
    finally:
        console.quiet = before


def print_table(rows: list[list[str]], title: str) -> None:
    """A table whose first row is its head."""
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column)
    for row in rows[1:]:
        table.add_row(*map(escape, row))
    console.print(table)


class Shown:
    """Shows the progress that it is called with, inside `with`: in a terminal a bar for each stage with the time gone and
    left; in a file or pipe a line at the end of each stage and, in slow ones, at each tenth.

    Attributes:
        latest: the last event, None before the first.
    """

    def __init__(self) -> None:
        self.latest: Progress | None = None
        self._started = time.perf_counter()
        self._tasks: dict[str, TaskID] = {}
        self._tenths: dict[str, int] = {}
        self._spoke = self._started
        self._bars = RichProgress(
            TextColumn("{task.description}", justify="right", table_column=Column(min_width=12, no_wrap=True)),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]:>12}"),
            TimeElapsedColumn(),
            TextColumn("elapsed,"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            disable=console.quiet or not console.is_terminal,
        )

    def __enter__(self) -> Shown:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, event: Progress) -> None:
        self.latest = event
        now = time.perf_counter()
        seconds = now - self._started
        if event.made:
            say(f"ready after {seconds:.0f} s: {event.made}")
        elif console.is_terminal:
            if event.stage not in self._tasks:
                self._tasks[event.stage] = self._bars.add_task(event.stage, total=event.total, note="")
            self._bars.update(self._tasks[event.stage], completed=event.done, note=event.note)
        else:
            tenth = LINES_PER_STAGE * event.done // max(event.total, 1)
            due = event.done == event.total or now - self._spoke >= SECONDS_PER_LINE
            if due and tenth > self._tenths.get(event.stage, 0):
                self._tenths[event.stage], self._spoke = tenth, now
                note = f", {event.note}" if event.note else ""
                say(f"{event.stage}: {event.done} of {event.total}{note}, after {seconds:.0f} s")

    def each(self, items: Iterable[Item], stage: str, total: int) -> Iterator[Item]:
        """The items, of which there are `total`, one by one; each counts as done when the next is asked for."""
        self(Progress(stage, 0, total))
        for done, item in enumerate(items, start=1):
            yield item
            self(Progress(stage, done, total))
