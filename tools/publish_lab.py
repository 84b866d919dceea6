"""`python -m tools.publish_lab FOLDER [NAME ...]`: make runs of the full profile the ones that ship.

Copies FOLDER/NAME.csv into the package, draws the figures, and writes notebooks/EXPERIMENTS.md from all CSV files that
ship. Without names only the figures and the page are made anew. Run it in the project's folder.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from distar_core.figures.picture import Picture
from distar_core.lab import STUDIES
from distar_core.lab.study import Row, read_rows, values_of

HEAD = """# Experiments behind the notebooks

Written by `python -m tools.publish_lab` from the CSV files in `distar_core/lab/data`; edit nothing here. Each was
made by the command beside it; the prediction was committed before the full run, unless it says otherwise, and is not changed afterwards. Intervals
are 95 % bootstrap intervals over seeds. With five seeds they cover less than they say, 75 to 90 % in our measurements.
"""


def figure_name(name: str) -> str:
    """The file name of a study's figure in notebooks/figures."""
    return f"lab_{name.replace('-', '_')}.png"


def page(records: Mapping[str, Sequence[Row]], pictures: Mapping[str, Picture]) -> str:
    """EXPERIMENTS.md for the given studies: name -> rows, and name -> the figure."""
    parts = [HEAD]
    for name, rows in records.items():
        study = STUDIES[name]
        seeds = len(values_of(rows, "seed"))
        minutes = sum(row["seconds"] for row in rows) / 60
        total = len(study.settings("full"))
        count = f"{len(rows)} runs" if len(rows) == total else f"{len(rows)} of {total} runs so far"
        parts.append(
            f"## {name}\n\n{study.question}\n\n`distar lab {name} --profile full` ({count}, {seeds} seeds, about "
            f"{minutes:.0f} core-minutes on a shared machine)\n\n![{pictures[name].alt}](figures/{figure_name(name)})\n\n"
            f"**Predicted.** {study.prediction}\n\n**Found.** {study.sentence(rows)}\n"
        )
        if study.details:
            parts.append(study.details(rows) + "\n")
    return "\n".join(parts)


def publish(root: Path, folder: Path | None = None, names: Sequence[str] = ()) -> None:
    """Take the CSV files of `names` from a folder, then draw and write everything from what ships."""
    data = root / "distar_core" / "lab" / "data"
    for name in names:
        assert folder is not None
        text = (folder / f"{name}.csv").read_text(encoding="utf-8")
        (data / f"{name}.csv").write_text(text, encoding="utf-8", newline="\n")
    records = {name: read_rows(name, data / f"{name}.csv") for name in STUDIES if (data / f"{name}.csv").exists()}
    pictures = {name: STUDIES[name].picture(rows) for name, rows in records.items()}
    for name, picture in pictures.items():
        picture.save(root / "notebooks" / "figures" / figure_name(name))
    (root / "notebooks" / "EXPERIMENTS.md").write_text(page(records, pictures), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    publish(Path(), Path(sys.argv[1]) if len(sys.argv) > 1 else None, sys.argv[2:])
