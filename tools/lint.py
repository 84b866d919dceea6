"""Conventions of the notebooks that a machine can hold: `python -m tools.lint [notebooks]`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median

import nbformat
from nbformat import NotebookNode

from tools.build import COLAB_TITLE, EDITIONS

TAGS = {"setup", "exercise", "check", "solution", "instructor", "predict", "figure", "hide-input"}
SECTIONS = ("What you can now say", "Quiz", "Exercises", "Where this comes from")
BOX = ("**Goals.**", "**Before you start.**", "**Time.**")
FOREIGN = {
    r"^\s*[%!]": "a magic or shell line",
    r"\bsys\.path\b": "sys.path",
    r"\bmatplotlib\b|\bplt\.": "matplotlib outside distar_core.figures",
    r"[\"'](/|~/|[A-Z]:\\)": "an absolute path",
    r"\.(?!__)_(?!repr)\w+": "a private attribute",
}
LONGEST_CELL, MEDIAN_CELL = 30, 8
MOST_WORDS, MOST_CHECKS, QUESTIONS, FEWEST_PREDICTIONS = 3800, 3, 5, 2


def _headings(text: str) -> list[int]:
    """Levels of the headings of a Markdown text, code fences aside."""
    outside_fences = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return [len(marks) for marks in re.findall(r"^(#+) ", outside_fences, flags=re.MULTILINE)]


def _code_problems(cells: list[NotebookNode]) -> Iterator[str]:
    # a title is for Colab, not for a reader
    codes = [cell.source.removeprefix(COLAB_TITLE) for cell in cells]
    lengths = [len(code.splitlines()) for code in codes]
    if lengths and median(lengths) > MEDIAN_CELL:
        yield f"the median code cell has {median(lengths):g} lines; at most {MEDIAN_CELL}: one idea a cell"
    for cell, code, length in zip(cells, codes, lengths, strict=True):
        head = code.splitlines()[0] if code else "(empty cell)"
        if length > LONGEST_CELL:
            yield f"the cell {head!r} has {length} lines; at most {LONGEST_CELL}: move code to the library"
        if cell.outputs or cell.execution_count is not None:
            yield f"the cell {head!r} carries outputs; clear them"
        for pattern, what in FOREIGN.items():
            if re.search(pattern, cell.source, flags=re.MULTILINE):
                yield f"the cell {head!r} uses {what}; go through the library"


def _check_problems(cells: list[NotebookNode], number: str) -> Iterator[str]:
    checks = [cell for cell in cells if "check" in cell.metadata.get("tags", [])]
    if len(checks) > MOST_CHECKS:
        yield f"{len(checks)} checks; at most {MOST_CHECKS}, and those well"
    for cell in checks:
        called = re.findall(r"check\(\"(\d\d)\.\d+\"", cell.source)
        if called != [number]:
            yield f"the check cell {cell.source!r} must call check once, with a number of notebook {number}"
    exercises = [cell for cell in cells if "exercise" in cell.metadata.get("tags", [])]
    if len(exercises) != len(checks):
        yield f"{len(exercises)} cells tagged exercise and {len(checks)} tagged check; each stub has its check"
    predictions = [cell for cell in cells if "predict" in cell.metadata.get("tags", [])]
    if len(predictions) < FEWEST_PREDICTIONS:
        yield f"{len(predictions)} predictions; at least {FEWEST_PREDICTIONS}"
    for cell in predictions:
        if not re.fullmatch(rf"predict\(\"{number}\.\w+\", \"\?\"\)", cell.source.strip()):
            yield f'the cell {cell.source!r} must be predict("{number}.x", "?"), with nothing filled in'


def _prose_problems(cells: list[NotebookNode]) -> Iterator[str]:
    text = "\n\n".join(cell.source for cell in cells)
    levels = _headings(text)
    if not levels or levels[0] != 1 or levels.count(1) != 1:
        yield "exactly one heading of level 1, the first, is wanted"
    for before, after in pairwise(levels):
        if after > before + 1:
            yield f"a heading of level {after} follows one of level {before}; do not skip a level"
    for title in SECTIONS:
        if not re.search(rf"^## {title}", text, flags=re.MULTILINE):
            yield f"the section '## {title}' is missing"
    for label in BOX:
        if label not in text:
            yield f"the box at the top lacks {label}"
    for image in re.findall(r"!\[(.*?)\]\(", text):
        if len(image) < 20:
            yield f"an image has the alternative text {image!r}; say in a sentence what it shows"
    for target in re.findall(r"(?<!!)\[[^\]]*\]\((?!https?://|#|(?:\.\./)+docs/web/)([^)\s]+)\)", text):
        yield f"the link to {target!r} breaks in one of the folders of the editions; name its path from the clone's root"
    quiz = text.partition("## Quiz")[2].partition("\n## ")[0]
    if quiz.count("<summary>Answer") != QUESTIONS:
        yield f"the quiz has {quiz.count('<summary>Answer')} answers; {QUESTIONS} are wanted"
    if text.count("<details") != text.count("</details>"):
        yield "a <details> is not closed"
    words = len(re.findall(r"\w+", re.sub(r"\]\([^)\s]+\)", "]", text)))
    if words > MOST_WORDS:
        yield f"{words} words; at most {MOST_WORDS}"


def problems(notebook: NotebookNode, name: str) -> list[str]:
    """What is against the conventions in a notebook named like 04_theorem.ipynb; each entry says how to mend it."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    found = [*_prose_problems(prose), *_code_problems(code), *_check_problems(code, name[:2])]
    for cell in notebook.cells:
        unknown = set(cell.metadata.get("tags", [])) - TAGS
        if unknown:
            found.append(f"unknown tags {sorted(unknown)}; known are {sorted(TAGS)}")
    if not any("setup" in cell.metadata.get("tags", []) and "profile()" in cell.source for cell in code):
        found.append("no cell tagged setup calls profile(), which announces runs that are too short")
    if not any("figure" in cell.metadata.get("tags", []) for cell in code):
        found.append("no cell is tagged figure")
    return [f"{name}: {problem}" for problem in found]


def lint(folder: Path) -> list[str]:
    """The problems of the student and solution editions in a folder."""
    paths = [path for place in EDITIONS.values() for path in sorted((folder / place).glob("[0-9]*.ipynb"))]
    if not paths:
        return [f"{folder} holds no notebook; give the folder that `make notebooks` writes"]
    return [problem for path in paths for problem in problems(nbformat.read(path, as_version=4), path.name)]


if __name__ == "__main__":
    found = lint(Path(sys.argv[1] if len(sys.argv) > 1 else "notebooks"))
    print(*found, sep="\n")
    sys.exit(bool(found))
