"""Student and solution editions of every notebook from one source, notebooks/source/*.py (jupytext percent format).

`python -m tools.build [notebooks]` writes them. In the source a learner's lines stand between the comments
`# solution` and `# end`; cells tagged "solution" are left out of the student edition, cells tagged "instructor" (board
plan, misconceptions) out of both. With `--instructor` a third edition with all cells is written beside them. The code of
cells tagged "hide-input" is folded away in Jupyter and in Colab; their output is not. A link to a page of docs/web is written
from the clone's root; each edition has it from its own folder. The same source gives the same bytes.
"""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

SOLUTION = re.compile(r"^(?P<indent>[ \t]*)# solution\n(?P<lines>.*?)^[ \t]*# end\n?", re.MULTILINE | re.DOTALL)
EDITIONS = {"student": "", "solution": "solutions"}
INSTRUCTOR = {"instructor": "instructor"}
FOLDED = {"jupyter": {"source_hidden": True}, "cellView": "form"}
COLAB_TITLE = "# @title The code of this figure is folded away\n"
"""Colab folds the code of a cell in form view only if the cell has a title."""
PLAYGROUND = re.compile(r"\]\((?=docs/web/)")
LEFT_OUT = {"student": {"solution", "instructor"}, "solution": {"instructor"}, "instructor": set()}


def edition(source: NotebookNode, name: str) -> NotebookNode:
    """One edition of a source notebook, without outputs and with stable cell ids."""
    cells: list[NotebookNode] = []
    for cell in source.cells:
        tags = cell.metadata.get("tags", [])
        if LEFT_OUT[name] & set(tags):
            continue
        replacement = r"\g<indent>...  # your line here\n" if name == "student" else r"\g<lines>"
        text = SOLUTION.sub(replacement, cell.source + "\n").rstrip("\n")
        text = PLAYGROUND.sub("](../" if name == "student" else "](../../", text)
        make = nbformat.v4.new_markdown_cell if cell.cell_type == "markdown" else nbformat.v4.new_code_cell
        metadata = {"tags": tags} if tags else {}
        if "hide-input" in tags:
            text, metadata = COLAB_TITLE + text, metadata | FOLDED
        cells.append(make(text, id=f"cell-{len(cells):02d}", metadata=metadata))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    about = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=about)


def build(folder: Path, editions: Mapping[str, str] = EDITIONS) -> dict[Path, str]:
    """The text of every edition by path, from folder/source/*.py; editions: name -> folder.

    Raises:
        FileNotFoundError: if there is no source.
    """
    sources = sorted((folder / "source").glob("[0-9]*.py"))
    if not sources:
        raise FileNotFoundError(f"{folder / 'source'} holds no notebook; give the folder above the sources")
    texts = {}
    for path in sources:
        source = jupytext.read(path)
        for name, place in editions.items():
            texts[folder / place / f"{path.stem}.ipynb"] = nbformat.writes(edition(source, name), indent=1) + "\n"
    return texts


def main(arguments: Sequence[str]) -> None:
    """Write all editions."""
    parser = ArgumentParser(description="Build the editions of every notebook from notebooks/source.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("notebooks"))
    parser.add_argument(
        "--instructor", action="store_true", help="also write folder/instructor, with the teacher's notes"
    )
    options = parser.parse_args(arguments)
    for path, text in build(options.folder, EDITIONS | (INSTRUCTOR if options.instructor else {})).items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
