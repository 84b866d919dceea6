"""`python -m tools.publish_demo FOLDER`: make the tables of a full demo in FOLDER the ones that ship."""

from __future__ import annotations

import sys
from pathlib import Path

from distar_core.toy import pictures
from distar_core.toy.frontier import read_points
from distar_core.toy.records import read_runs

from .publish_lab import write_page


def publish(run: Path, root: Path) -> None:
    """Make a run of the full profile the one that ships: its tables, its figure, and its section of
    notebooks/EXPERIMENTS.md."""
    data = root / "distar_core" / "toy" / "data"
    for name in ("runs", "distances"):
        text = (run / f"{name}.csv").read_text(encoding="utf-8")
        (data / f"{name}_full.csv").write_text(text, encoding="utf-8", newline="\n")
    rows = read_runs(data / "runs_full.csv")
    pictures.frontier(rows, read_points(), "mode").save(root / "notebooks" / "figures" / "frontier_mode.png")
    write_page(root)


if __name__ == "__main__":
    publish(Path(sys.argv[1]), Path())
