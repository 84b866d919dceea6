"""`python -m tools.publish_demo FOLDER`: make the tables of a full demo in FOLDER the ones that ship."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

from distar_core.toy.frontier import Point, read_points
from distar_core.toy.report import (
    Row,
    gap_sentence,
    markdown_table,
    ranking,
    read_runs,
    reward_names,
    unbounded_sentence,
    verdict_table,
)
from distar_core.toy.ring import REWARDS

README_MARKS = ("<!-- results -->\n", "<!-- /results -->")


def readme_results(rows: Sequence[Row], points: Sequence[Point]) -> str:
    """The README's paragraph and table of results, at the highest mean reward that all seeds reach."""
    seeds = len({row.seed for row in rows if not math.isnan(row.seed)})
    lines = [
        *(f"{ranking(rows, name)}\n" for name in reward_names(rows)),
        f"What Diff-Instruct\\* (pseudo-Huber) wins and loses, at the highest mean reward that all seeds of both reach, {seeds} seeds. “Wins” means better "
        "for every seed than every seed of the other; brackets give the smallest and the largest seed. Better is: more modes, "
        "spread closer to the reference's 0.244, less off the data, less KL. Modes count the nearest mode at any distance, so "
        "they say little where much is off the data.",
        "",
    ]
    formulas = "; ".join(f"{name} is r(x) = {REWARDS[name].formula}" for name in reward_names(rows))
    lines += [markdown_table(verdict_table(rows, highest_only=True)), "", f"Rewards: {formulas}."]
    notes = [gap_sentence(rows, points), unbounded_sentence(rows)]
    text = "\n".join([*lines, "", *(f"{note}\n" for note in notes)])
    return text.replace("‖", "\\|\\|")


def with_results(readme: str, results: str) -> str:
    """The README with its results replaced. Raises ValueError if the marks are missing."""
    start, end = README_MARKS
    if start not in readme or end not in readme:
        raise ValueError(f"the README has no place for results; put the marks {start.strip()} and {end} into it")
    before, rest = readme.split(start, 1)
    return before + start + results + rest[rest.index(end) :]


def publish(run: Path, root: Path) -> None:
    """Make a run of the full profile the one that ships: its tables, the README's figure and the README's results."""
    from distar_core.toy import pictures

    data = root / "distar_core" / "toy" / "data"
    for name in ("runs", "distances"):
        text = (run / f"{name}.csv").read_text(encoding="utf-8")
        (data / f"{name}_full.csv").write_text(text, encoding="utf-8", newline="\n")
    rows, points = read_runs(data / "runs_full.csv"), read_points()
    pictures.frontier(rows, points, "mode").save(root / "notebooks" / "figures" / "frontier_mode.png")
    readme = root / "README.md"
    text = with_results(readme.read_text(encoding="utf-8"), readme_results(rows, points))
    readme.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    publish(Path(sys.argv[1]), Path())
