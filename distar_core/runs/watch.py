"""What a run's files say about how it goes, also while it goes on, and the signs by which such runs fail.

Only files are read: log.csv, panels/panels.jsonl where there is one, and config.json.
"""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any, Literal, NamedTuple

from .logs import COLUMNS, numbers_in

LOG = "log.csv"
PANELS = "panels"
PANELS_FILE = "panels.jsonl"
WINDOW = (10, 50)
"""A value now is a mean over a quarter of the generator's steps, but at least and at most so many; one at the start over the
least, since a reward that nothing holds is soon elsewhere."""
SURE = 3.0
"""How many standard errors away from 0 a mean has to be to be told from it."""

State = Literal["fine", "look", "alarm", "not known yet"]


def read_log(folder: Path) -> list[dict[str, float]]:
    """The rows of a run's log as numbers by column, in the order of its steps; a last line that is still being written is left
    out.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if a column is unknown or a cell is no number.
    """
    path = folder / LOG
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {LOG} in {folder}; name the folder of a run, or wait until its first step is done"
        )
    text = path.read_text("utf-8")
    reader = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
    columns = reader.fieldnames or []
    if "step" not in columns or not set(columns) <= set(COLUMNS):
        strange = ", ".join(name for name in columns if name not in COLUMNS)
        raise ValueError(f"{path} has columns that no run writes ({strange or 'no step'}); name the folder of a run")
    try:
        return [numbers_in(row) for row in reader]
    except (TypeError, ValueError):
        raise ValueError(f"line {reader.line_num} of {path} is no row of a run's log; restore it from a copy") from None


def read_panels(folder: Path) -> list[dict[str, Any]]:
    """The numbers of a run's panels, in the order of their steps; none if the run has drawn none.

    Raises:
        ValueError: if a line is none that a run writes.
    """
    path = folder / PANELS / PANELS_FILE
    if not path.is_file():
        return []
    rows = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            rows.append(row | {"step": int(row["step"])})
        except (ValueError, TypeError, KeyError):
            raise ValueError(f"line {number} of {path} is no panel of a run; delete the file, or restore it") from None
    return rows


class Value(NamedTuple):
    """A number of a run at its start and now: means over a window of the log, or of the first panel and the last."""

    name: str
    start: float
    now: float


class Sign(NamedTuple):
    """One way in which such runs fail, judged on one number.

    Attributes:
        name: of the failure.
        measured: the number; None where it is not known yet.
        number: what it is, in words.
        look, alarm: from where on it is worth a look, and an alarm; it is worse the larger it is.
        state: what the number comes to.
        advice: what to do about it, or what is missing.
    """

    name: str
    measured: float | None
    number: str
    look: float
    alarm: float
    state: State
    advice: str


@dataclass(frozen=True)
class Report:
    """How a run goes.

    Attributes:
        step: the last step that is in the log, negative in the warm-up.
        steps: how many the run is to have; None where its configuration is not there.
        seconds: of a step, the median over the window.
        left: seconds until the end; None where that is not known, as in the warm-up, whose steps are shorter.
        age: seconds since the log was written to.
        window: how many of the generator's steps the means are over.
    """

    folder: Path
    step: int
    steps: int | None
    seconds: float
    left: float | None
    age: float
    window: int
    values: tuple[Value, ...]
    signs: tuple[Sign, ...]

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.steps is not None and self.step + 1 >= self.steps

    @property
    def worst(self) -> State:
        """The gravest state among the signs; fine if none is known."""
        states = {sign.state for sign in self.signs}
        return next((state for state in ("alarm", "look") if state in states), "fine")


class _Files(NamedTuple):
    """The generator's steps of a log, the panels, and how many rows a window has; 0 if that would be more than there are."""

    log: list[dict[str, float]]
    panels: list[dict[str, Any]]
    window: int

    def column(self, name: str, where: str = "now") -> list[float]:
        """The values of a column in the window, or in the one at the "start"; those that are there."""
        rows = (self.log[: WINDOW[0]] if where == "start" else self.log[-self.window :]) if self.window else []
        return [row[name] for row in rows if name in row]

    def mean(self, name: str, where: str = "now") -> float | None:
        """Their mean; None if there are none."""
        found = self.column(name, where)
        return fmean(found) if found else None

    def panel(self, name: str) -> tuple[float, float] | None:
        """A number of the first panel and of the last; None unless there are two."""
        found = [row[name] for row in self.panels if name in row]
        return (found[0], found[-1]) if len(found) > 1 else None


def look_at(folder: Path) -> Report:
    """How the run in a folder goes, from its files.

    Raises:
        FileNotFoundError: if there is no log, or no step in it yet.
        ValueError: as read_log and read_panels.
    """
    log = read_log(folder)
    if not log:
        raise FileNotFoundError(f"the log in {folder} has no step yet; wait until the first is done")
    moving = [row for row in log if row["step"] >= 0]
    window = min(max(WINDOW[0], len(moving) // 4), WINDOW[1])
    files = _Files(moving, read_panels(folder), window if len(moving) >= 2 * WINDOW[0] else 0)
    config = _config(folder)
    step, steps = int(log[-1]["step"]), config.get("steps")
    seconds = median([row["seconds"] for row in log[-WINDOW[1] :]])
    return Report(
        folder=folder,
        step=step,
        steps=steps,
        seconds=seconds,
        left=None if steps is None or step < 0 else (steps - 1 - step) * seconds,
        age=time.time() - (folder / LOG).stat().st_mtime,
        window=window,
        values=tuple(_values(files)),
        signs=tuple(judge(files) for judge in SIGNS),
    )


def _config(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "config.json").read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _values(files: _Files) -> list[Value]:
    names = [name for name in COLUMNS if name not in ("step", "seconds")]
    logged = [(name, files.mean(name, "start"), files.mean(name)) for name in names]
    found = [Value(name, start, now) for name, start, now in logged if start is not None and now is not None]
    for name in ("reward", "diversity", "saturation", "high_frequency", "clipped"):
        if (seen := files.panel(name)) is not None:
            found.append(Value(f"{name} of the panels", *seen))
    return found


NO_PANELS = "It takes two panels, which runs on pictures draw: distar train sdxl with --set panels_every=100, also when it is resumed."
NO_WINDOW = f"It takes {2 * WINDOW[0]} steps of the generator."


def _stale(files: _Files) -> Sign:
    lags, missing = files.column("lag"), NO_WINDOW
    measured: float | None = None
    size, floor = files.mean("gap_norm"), files.mean("gap_floor")
    if size == 0:
        measured = math.inf
    elif size is not None and floor is not None and size < 2 * floor:
        missing = "The gap is within the rounding of the networks' type, see gap_floor, so it is not known who lags."
    elif len(lags) > 2:
        measured = max(abs(fmean(lags)) - SURE * stdev(lags) / math.sqrt(len(lags)), 0.0)
    elif files.window and not lags:
        missing = "This method has no assistant that learns, or the log is from before there was a column lag."
    return _judged(
        "stale assistant",
        "|lag|: by which share of the assistant's gap the true gap along it is longer or shorter, at least",
        (0.5, 1.0),
        measured,
        "The regularizer is that of a generator that is no more. After the first steps raise assistant_updates or assistant_lr, "
        "or lower lr.",
        missing,
    )


def _strong(files: _Files) -> Sign:
    reward, regularizer = files.mean("pull_reward"), files.mean("pull_regularizer")
    measured = None
    if reward is not None and regularizer is not None:
        measured = reward / regularizer if regularizer else math.inf
    return _judged(
        "strong reward",
        "length of the reward's pull over the regularizer's, each at the point where it acts",
        (5.0, 20.0),
        measured,
        "The regularizer hardly holds such a reward: see to the reward's weight and unit, and start anew with a reward_scale at which "
        "both pull about as long.",
        NO_WINDOW if not files.window else "It takes the pulls of a reward on the samples and of a regularizer.",
    )


def _runaway(files: _Files) -> Sign:
    start, now, spread = files.mean("reward", "start"), files.mean("reward"), files.mean("reward_spread", "start")
    known = start is not None and now is not None and spread
    return _judged(
        "runaway reward",
        "gain of the reward since the first steps, in spreads of a batch then",
        (1.2, 1.6),
        (now - start) / spread if known else None,  # type: ignore[operator]
        "The average sample now has what was rare at the start: look at the panels, ask a second judge (distar evaluate), and "
        "take a lower reward_scale if they are worse.",
        NO_WINDOW if not files.window else "The log has no reward, or not its spread.",
    )


def _alike(files: _Files) -> Sign:
    start, now = files.mean("reward_spread", "start"), files.mean("reward_spread")
    return _judged(
        "all rewards alike",
        "share of the reward's spread over a batch that is lost since the first steps",
        (0.5, 0.8),
        1 - now / start if start and now is not None else None,
        "The samples differ less and less for the judge: look for collapse and for a reward that everything saturates.",
        NO_WINDOW if not files.window else "The log has no reward, or not its spread.",
    )


def _collapse(files: _Files) -> Sign:
    seen = files.panel("diversity")
    return _judged(
        "collapse",
        "share of the distance between pictures of one prompt that is lost since the first panel",
        (0.5, 0.8),
        None if seen is None or not seen[0] else 1 - seen[1] / seen[0],
        "The pictures of a prompt become alike: take an earlier checkpoint, and start anew with a lower reward_scale.",
        NO_PANELS,
    )


def _change(name: str, column: str, number: str, limits: tuple[float, float], advice: str) -> Judge:
    """A sign that is judged on how much a number of the panels has risen."""

    def judge(files: _Files) -> Sign:
        seen = files.panel(column)
        return _judged(name, number, limits, None if seen is None else seen[1] - seen[0], advice, NO_PANELS)

    return judge


def _judged(
    name: str, number: str, limits: tuple[float, float], measured: float | None, advice: str, missing: str
) -> Sign:
    look, alarm = limits
    state: State = "fine"
    if measured is None:
        state, advice = "not known yet", missing
    elif measured >= look:
        state = "alarm" if measured >= alarm else "look"
    return Sign(name, measured, number, look, alarm, state, advice)


Judge = Callable[[_Files], Sign]
PAINTED = "Pictures become painting-like or burnt: compare the panels, and take a lower reward_scale or cfg_scale."
SIGNS: tuple[Judge, ...] = (
    _stale,
    _strong,
    _runaway,
    _alike,
    _collapse,
    _change("saturation", "saturation", "rise of the mean saturation since the first panel", (0.04, 0.08), PAINTED),
    _change(
        "clipped",
        "clipped",
        "rise of the share of pixels with a channel at 0 or 255 since the first panel",
        (0.05, 0.08),
        PAINTED,
    ),
)
"""The signs that a report has, in its order."""
