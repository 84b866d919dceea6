"""What every experiment is: settings to run, what to measure, a picture and its facts, both from its CSV alone."""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from ..evaluation.statistics import Interval, bootstrap_interval
from ..figures.charts import Line
from ..figures.picture import Picture, Style
from ..runs.folders import at_work, replacing, require_writable
from ..runs.parallel import in_parallel
from ..runs.progress import Progress, Tell, silent

Row = dict[str, Any]
"""One line of a CSV: text stays text, everything else is a float."""

PROFILES = ("ci", "fast", "full")


@dataclass(frozen=True)
class Study:
    """One experiment.

    Attributes:
        name: as in `distar lab NAME`.
        question: what it asks, one sentence.
        prediction: what we expected, written before the full run.
        settings: profile -> the runs, as dictionaries of what distinguishes them, the seed among them; every key a
            column, in the same order for all. The values are text and numbers.
        measure: one setting -> what was found, numbers by column. Called in a process of its own, so it must be
            importable by name.
        picture: rows -> the figure; its alternative text says what is drawn, not what was found.
        facts: rows -> what was found, as numbers with the names of `fact`. Words about them, each with the comparisons of
            facts that it claims, stand in tools/templates/EXPERIMENTS.md.j2.
    """

    name: str
    question: str
    prediction: str
    settings: Callable[[str], Sequence[Row]]
    measure: Callable[[Row], Mapping[str, float]]
    picture: Callable[[Sequence[Row]], Picture]
    facts: Callable[[Sequence[Row]], Mapping[str, float]]


def read_rows(name: str, path: Path | None = None) -> list[Row]:
    """The rows of a CSV; without a path, of the full profile's run that ships with the package.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    source = path or files("distar_core.lab") / "data" / f"{name}.csv"
    return [
        {key: _number(value) for key, value in row.items()}
        for row in csv.DictReader(source.read_text(encoding="utf-8").splitlines())
    ]


def _number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _text(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"


def as_read(setting: Row) -> Row:
    """A row as its CSV file gives it back: numbers have six digits."""
    return {key: _number(_text(value)) for key, value in setting.items()}


def _measured(measure: Callable[[Row], Mapping[str, float]], setting: Row) -> tuple[Row, Row]:
    torch.set_num_threads(1)
    started = time.process_time()
    found = dict(measure(setting))
    return setting, found | {"seconds": time.process_time() - started}


def perform(study: Study, profile: str, folder: Path, *, tell: Tell = silent) -> list[Row]:
    """Run what folder/NAME.csv still lacks of a profile, appending each run as it ends; then draw folder/NAME.png.

    Args:
        tell: called with the number of finished runs and of all, at the start and after every run.

    Raises:
        ValueError: for an unknown profile, or a CSV with other columns.
        FileExistsError: if another process is at work on the study there.
        PermissionError: if the folder cannot be written.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile {profile!r} is unknown; known are {', '.join(PROFILES)}")
    require_writable(folder)
    path = folder / f"{study.name}.csv"
    wanted = [as_read(setting) for setting in study.settings(profile)]
    keys = list(wanted[0])
    rows = read_rows(study.name, path) if path.exists() else []
    if rows and list(rows[0])[: len(keys)] != keys:
        raise ValueError(f"{path} has the columns {list(rows[0])}, not {keys} first; choose another folder")
    have = [{key: row[key] for key in keys} for row in rows]
    missing = [setting for setting in wanted if setting not in have]
    kept = len(wanted) - len(missing)
    tell(Progress("runs", kept, len(wanted)))
    with at_work(folder, study.name), closing(in_parallel(partial(_measured, study.measure), missing)) as finished:
        for done, (setting, found) in enumerate(finished, start=kept + 1):
            row = setting | found
            with open(path, "a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(row))
                if file.tell() == 0:
                    writer.writeheader()
                writer.writerow({key: _text(value) for key, value in row.items()})
            tell(Progress("runs", done, len(wanted)))
        rows = read_rows(study.name, path)
        of_profile = [row for setting in wanted for row in rows if {key: row[key] for key in keys} == setting]
        _write_rows(path, of_profile + [row for row in rows if row not in of_profile])
    study.picture(of_profile).save(folder / f"{study.name}.png")
    return of_profile


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Replace a CSV in one step, so that an interruption leaves the old one."""
    with replacing(path) as beside, open(beside, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({key: _text(value) for key, value in row.items()} for row in rows)


def where(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """The rows with these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def values_of(rows: Sequence[Row], key: str) -> list[Any]:
    """The different values of a column, in the order of their first appearance."""
    return list(dict.fromkeys(row[key] for row in rows))


def over_seeds(rows: Sequence[Row], key: str) -> Interval:
    """Mean of a column over rows that differ in their seed only, with its 95 % bootstrap interval.

    With five seeds such an interval covers less than it says, 75 to 90 % in our measurements. A value that is not
    finite makes mean and interval nan.
    """
    values = torch.tensor([row[key] for row in rows], dtype=torch.float64)
    if not bool(torch.isfinite(values).all()):
        return Interval(float("nan"), float("nan"), float("nan"))
    return bootstrap_interval(values)


def fact(*parts: str | float) -> str:
    """The name of a fact, an identifier: fact("excess", "kl-x0", 0.5) is "excess_kl_x0_0p5"."""
    words = (part if isinstance(part, str) else f"{part:g}" for part in parts)
    return re.sub(r"\W+", "_", re.sub(r"(?<=\d)\.(?=\d)", "p", "_".join(words)))


def facts_of(found: Interval, *parts: str | float) -> dict[str, float]:
    """An interval as facts: its mean under the name of the parts, and its ends as NAME_low and NAME_high."""
    name = fact(*parts)
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def interval_text(found: Interval, digits: int = 2) -> str:
    """mean [low, high]."""
    return f"{found.mean:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def interval_line(label: str, x: Sequence[float], found: Sequence[Interval], style: Style | None = None) -> Line:
    """A line through the means, with the intervals about it."""
    return Line(label, x, [i.mean for i in found], [i.low for i in found], [i.high for i in found], style)


def curve(label: str, rows: Sequence[Row], x: str, y: str) -> Line:
    """A line of one column against another: the mean over the rows that share x, with over_seeds' interval."""
    along = values_of(rows, x)
    return interval_line(label, along, [over_seeds(where(rows, **{x: value}), y) for value in along])
