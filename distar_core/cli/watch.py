"""distar watch: how a run goes, from its files alone."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .terminal import print_table, say, stoppable

if TYPE_CHECKING:
    from ..runs.watch import Report

ALARMED = 3
"""The exit code where a sign is an alarm; 1 is a refusal, and 2 a wrong option."""


def watch(
    run: Annotated[Path, typer.Argument(help="Folder of a run of distar train, running or finished.")],
    every: Annotated[
        float | None, typer.Option(min=1, help="Look again after so many seconds, until the run ends or Ctrl-C.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a look instead.")] = False,
) -> None:
    """How a run goes: how far it is, its numbers at the start and now, and the signs of failure with what to do about them.

    Reads files and nothing else, so it disturbs no run. Exits with 3 if a sign is an alarm. Diversity and the look of the
    pictures are known from panels alone: --set panels_every=100 at the start of a run, or when it is resumed.
    """
    from ..runs.watch import look_at

    with stoppable(lambda: "while watching; the run is left alone"):
        while True:
            try:
                report = look_at(run)
            except FileNotFoundError as error:
                if every is None or not run.is_dir():
                    raise
                say(f"{error}; looking again in {every:g} s")
                time.sleep(every)
                continue
            tell_json(report) if as_json else tell(report)
            if every is None or report.finished:
                break
            time.sleep(every)
    if report.worst == "alarm":
        raise typer.Exit(ALARMED)


def tell_json(report: Report) -> None:
    """The report as one line."""

    def plain(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    found = asdict(report) | {"folder": str(report.folder), "worst": report.worst}
    found["values"] = {one.name: {"start": plain(one.start), "now": plain(one.now)} for one in report.values}
    found["signs"] = [{key: plain(value) for key, value in sign._asdict().items()} for sign in report.signs]
    say(json.dumps(found))


def tell(report: Report) -> None:
    """The report as tables and sentences."""
    of = "" if report.steps is None else f" of {report.steps}"
    left = "finished" if report.finished else "" if report.left is None else f"{duration(report.left)} left"
    where = f"warm-up, {-report.step - 1} steps of it left" if report.step < 0 else f"{report.step + 1}{of} steps"
    age = "" if report.finished else f"the last one written {duration(report.age)} ago"
    say(f"{report.folder}: " + ", ".join(filter(None, [where, f"{report.seconds:.3g} s a step", left, age])))
    if report.values:
        rows = [["", "at the start", "now"]]
        rows += [[one.name, f"{one.start:.4g}", f"{one.now:.4g}"] for one in report.values]
        print_table(rows, f"Means over {report.window} steps; of panels, the first and the last")
    rows = [["sign", "state", "measured", "look from", "alarm from"]]
    for sign in report.signs:
        measured = "" if sign.measured is None else f"{sign.measured:.3g}"
        rows.append([sign.name, sign.state, measured, f"{sign.look:g}", f"{sign.alarm:g}"])
    print_table(rows, "Signs of failure")
    for sign in report.signs:
        say(f"{sign.name}: {sign.number}. {'' if sign.state == 'fine' else sign.advice}".rstrip())


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
