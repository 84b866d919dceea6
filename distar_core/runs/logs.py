"""What a run writes down of each step: a row of log.csv and, if asked, of log.jsonl and for TensorBoard."""

from __future__ import annotations

import csv
import itertools
import json
import math
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from ..errors import MissingPackagesError
from ..extras import install, installed_version
from ..training import Record
from .folders import replacing

COLUMNS = ["step", "seconds", "reward", "gap_norm", "loss_assistant", "loss_regularizer", "loss_cfg", "loss_reward"]
COLUMNS += ["pull_regularizer", "pull_cfg", "pull_reward", "gap_floor", "peak_gib"]
COLUMNS += ["reward_spread", "lag"]
COMPARABLE = [name for name in COLUMNS if name not in ("step", "seconds", "gap_floor", "reward_spread", "lag")]
"""Columns by which one checkpoint may be better than another."""

Row = Mapping[str, float]


def row_of(record: Record, gap_floor: float | None = None, peak_gib: float | None = None) -> dict[str, float]:
    """A record as numbers by column: means over the batch; what it does not have is missing.

    Beside gap_norm stands gap_floor, where the roles compute with so few digits that a gap of this size is their rounding; and
    peak_gib is the most memory so far, where somebody counts it. reward_spread is the standard deviation over the batch. lag
    is how much longer the gap is, along the one that the assistant sees, than it sees it: 0 for an exact assistant up to
    chance, 1 for one that sees half of it; missing where it sees none. See Record.gap_missed.
    """
    row: dict[str, float] = {"step": record.step, "seconds": record.seconds}
    row |= {f"loss_{term}": float(value.mean()) for term, value in record.losses.items()}
    row |= {f"pull_{term}": float(value.mean()) for term, value in record.pull_norms.items()}
    extras = {"reward": record.reward, "gap_norm": record.gap_norm}
    row |= {name: float(value.mean()) for name, value in extras.items() if value is not None}
    if record.reward is not None and len(record.reward) > 1:
        row["reward_spread"] = float(record.reward.std())
    if record.gap_norm is not None and record.gap_missed is not None:
        seen = float(record.gap_norm.square().mean())
        row |= {"lag": float(record.gap_missed.mean()) / seen} if seen > 0 else {}
    if record.gap_norm is not None and gap_floor is not None:
        row["gap_floor"] = gap_floor
    if peak_gib is not None:
        row["peak_gib"] = round(peak_gib, 3)
    return row


class Log(Protocol):
    """Where rows go, each as soon as it is there."""

    def write(self, row: Row) -> None: ...

    def close(self) -> None: ...


class CsvLog:
    """One row a step in log.csv. On resume, rows from the checkpoint's step on are dropped.

    A log that is not as it was written, since a spreadsheet saved it or a hand changed it, is set aside under another
    name, with a warning, and a new one begins: what is learnt does not depend on it.
    """

    def __init__(self, folder: Path, next_step: int | None) -> None:
        path = folder / "log.csv"
        rows = _kept(path, next_step, rows_before)
        with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8") as kept:
            writer = csv.DictWriter(kept, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        self._file = open(path, "a", newline="", encoding="utf-8")  # noqa: SIM115
        self._writer = csv.DictWriter(self._file, COLUMNS)

    def write(self, row: Row) -> None:
        """Append the row."""
        self._writer.writerow({**row, "seconds": f"{row['seconds']:.6f}"})
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def numbers_in(row: Mapping[str, str | None]) -> dict[str, float]:
    """A row of a log's file as numbers by column, those that it has. Raises ValueError for a cell that is no number."""
    return {name: float(cell) for name, cell in row.items() if cell not in ("", None)}


def rows_before(next_step: int, path: Path) -> list[dict[str, str]]:
    """The rows of a log up to a step. From that step on a crash may have torn them, so they are not looked at.

    A column that the log does not have, since its run did not know it, stays empty.

    Raises:
        ValueError: if it is not UTF-8, a column is unknown, steps do not follow one another or a cell is no number.
    """
    rows: list[dict[str, str]] = []
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            columns = reader.fieldnames or []
            if "step" not in columns or not set(columns) <= set(COLUMNS):
                raise ValueError(f"its columns are {', '.join(columns)[:60]}")
            for row in reader:
                step = row["step"]
                if step.lstrip("-").isdecimal() and int(step) >= next_step:
                    break
                for name, cell in row.items():
                    if cell != "" or name == "step":
                        float(cell)
                if rows and int(step) != int(rows[-1]["step"]) + 1:
                    raise ValueError(f"step {step} follows step {rows[-1]['step']}")
                rows.append(row)
        except (TypeError, csv.Error) as error:
            raise ValueError(f"line {reader.line_num} is no row of it") from error
    return rows


class JsonLog:
    """One object a step in log.jsonl, with the names and numbers of log.csv; resumed and set aside as that is."""

    def __init__(self, folder: Path, next_step: int | None) -> None:
        path = folder / "log.jsonl"
        lines = _kept(path, next_step, lines_before)
        with replacing(path) as partial:
            partial.write_text("".join(lines), encoding="utf-8")
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def write(self, row: Row) -> None:
        """Append the row; JSON has no number for what is not finite, which becomes null."""
        numbers = {name: value if math.isfinite(value) else None for name, value in row.items()}
        self._file.write(json.dumps(numbers | {"seconds": round(row["seconds"], 6)}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def lines_before(next_step: int, path: Path) -> list[str]:
    """The lines of a log of JSON up to a step, as rows_before. Raises ValueError if one is no object with the next step."""
    lines: list[str] = []
    last: int | None = None
    with open(path, newline="", encoding="utf-8") as file:
        for line in file:
            if last is not None and last >= next_step - 1:
                break
            row = json.loads(line)
            if not isinstance(row, dict) or not set(row) <= set(COLUMNS) or type(row.get("step")) is not int:
                raise ValueError(f"line {len(lines) + 1} is no row of it")
            if row["step"] >= next_step:
                break
            if last is not None and row["step"] != last + 1:
                raise ValueError(f"step {row['step']} follows step {last}")
            last = row["step"]
            lines.append(line)
    return lines


class TensorBoardLog:
    """The columns as scalars in the folder tensorboard; on resume TensorBoard hides steps from the checkpoint's on.

    Raises:
        MissingPackagesError: if tensorboard is not installed.
    """

    def __init__(self, folder: Path, next_step: int | None) -> None:
        if installed_version("tensorboard") is None:
            raise MissingPackagesError(f"tensorboard is not installed, but asked for: {install('tensorboard')}")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=next_step)

    def write(self, row: Row) -> None:
        """Add the row's numbers at its step, and hand them to the disk."""
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(name, value, int(row["step"]))
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


ALSO: dict[str, Callable[[Path, int | None], Log]] = {"jsonl": JsonLog, "tensorboard": TensorBoardLog}
"""What a run may write beside log.csv."""


class Logs:
    """log.csv and whatever else is asked for, as one.

    Args:
        next_step: of a run that is resumed, the step that comes next.
        also: names of ALSO.

    Raises:
        ValueError: for another name.
    """

    def __init__(self, folder: Path, next_step: int | None, also: Collection[str] = ()) -> None:
        for name in also:
            if name not in ALSO:
                raise ValueError(f"also_log has {name!r}; known are {', '.join(ALSO)}")
        self._logs: list[Log] = [CsvLog(folder, next_step)]
        self._logs += [ALSO[name](folder, next_step) for name in dict.fromkeys(also)]

    def write(self, row: Row) -> None:
        """Append the row to each."""
        for log in self._logs:
            log.write(row)

    def close(self) -> None:
        """Close all."""
        for log in self._logs:
            log.close()


def _kept(path: Path, next_step: int | None, before: Callable[[int, Path], list[Any]]) -> list[Any]:
    """What a resumed run keeps of its log; nothing, and the log is set aside, if it is not as it was written."""
    if next_step is None or not path.is_file():
        return []
    try:
        return before(next_step, path)
    except ValueError as error:
        aside = set_aside(path)
        warnings.warn(f"{path} is not as it was written ({error}); it is kept as {aside}", stacklevel=3)
        return []


def set_aside(path: Path) -> Path:
    """Rename a file to a name beside it that is free."""
    names = (path.with_name(f"{path.stem}-aside{number or ''}{path.suffix}") for number in itertools.count())
    aside = next(name for name in names if not name.exists())
    return path.rename(aside)
