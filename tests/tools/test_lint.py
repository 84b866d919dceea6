"""The notebooks keep the conventions that a machine can hold, and each convention has a notebook that breaks it."""

import copy
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools.build import COLAB_TITLE
from tools.lint import LONGEST_CELL, lint, problems

ROOT = Path(__file__).parent.parent.parent


def test_the_notebooks_of_the_course_have_no_problems():
    assert lint(ROOT / "notebooks") == []


def test_a_folder_without_notebooks_is_a_problem(tmp_path):
    (problem,) = lint(tmp_path)
    assert "holds no notebook" in problem


QUIZ = "\n".join(f"{k}. Why?\n   <details><summary>Answer</summary>So.</details>" for k in range(1, 6))
PROSE = f"""# Title

> **Goals.** Some. **Before you start.** This. **Time.** Ten minutes.

![A sentence that says what the picture shows.](picture.png)

## What you can now say

## Quiz

{QUIZ}

## Exercises

## Where this comes from
"""


def good():
    return new_notebook(
        cells=[
            new_markdown_cell(PROSE),
            new_code_cell('predict("04.a", "?")', metadata={"tags": ["predict"]}),
            new_code_cell('predict("04.b", "?")', metadata={"tags": ["predict"]}),
            new_code_cell("def f(x): ...", metadata={"tags": ["exercise"]}),
            new_code_cell('f = check("04.1", f)', metadata={"tags": ["check"]}),
            new_code_cell("settings = profile()", metadata={"tags": ["setup"]}),
            new_code_cell("figures.lines(curves)", metadata={"tags": ["figure"]}),
        ]
    )


def in_prose(old, new):
    def change(notebook):
        notebook.cells[0].source = notebook.cells[0].source.replace(old, new, 1)

    return change


def add_code(source, *tags):
    return lambda notebook: notebook.cells.append(new_code_cell(source, metadata={"tags": list(tags)}))


def add_output(notebook):
    notebook.cells[-1].outputs = [new_output("stream", text="2")]


def without(tag):
    def change(notebook):
        notebook.cells = [cell for cell in notebook.cells if tag not in cell.metadata.get("tags", [])]

    return change


def double(index):
    return lambda notebook: notebook.cells.append(copy.deepcopy(notebook.cells[index]))


def four_checks(notebook):
    for _ in range(3):
        double(3)(notebook)
        double(4)(notebook)


def many_long_cells(notebook):
    for _ in range(8):
        add_code("\n".join(["x = 1"] * 9))(notebook)


BROKEN = {
    "exactly one heading": in_prose("## Quiz", "# Quiz"),
    "do not skip a level": in_prose("## Quiz", "## Quiz\n\n#### Deep"),
    "'## Exercises' is missing": in_prose("## Exercises", "## Tasks"),
    "lacks **Time.**": in_prose("**Time.**", "Time."),
    "alternative text": in_prose("A sentence that says what the picture shows.", "figure 1"),
    "'EXPERIMENTS.md' breaks": in_prose("## Quiz", "## Quiz\n\n[The runs](EXPERIMENTS.md)."),
    "4 answers": in_prose("<summary>Answer", "<summary>Reply"),
    "not closed": in_prose("</details>", ""),
    "words; at most": in_prose("Title", "Title " + "word " * 4000),
    "median code cell": many_long_cells,
    "at most 30": add_code("\n".join(["x = 1"] * 31)),
    "carries outputs": add_output,
    "a magic or shell line": add_code("!pip install distar"),
    "sys.path": add_code("import sys\nsys.path.append('x')"),
    "matplotlib outside": add_code("plt.plot([1, 2])"),
    "an absolute path": add_code('open("/tmp/file")'),
    "a private attribute": add_code("schedule._at(t)"),
    "checks; at most 3": four_checks,
    "with a number of notebook 04": add_code('g = check("05.1", f)', "check"),
    "tagged exercise and 0 tagged check": without("check"),
    "predictions; at least 2": without("predict"),
    "nothing filled in": add_code('predict("04.a", "b")', "predict"),
    "unknown tags": add_code("1", "slow"),
    "calls profile()": without("setup"),
    "no cell is tagged figure": without("figure"),
}


def test_a_good_notebook_has_no_problems():
    notebook = good()
    nbformat.validate(notebook)
    assert problems(notebook, "04_name.ipynb") == []


def test_the_title_that_colab_wants_counts_as_no_line_and_links_to_the_web_and_within_are_fine():
    notebook = good()
    in_prose("## Quiz", "## Quiz\n\n[Web](https://example.org) and [within](#quiz), f[B](x) aside.")(notebook)
    add_code(COLAB_TITLE + "\n".join(["x = 1"] * LONGEST_CELL), "figure")(notebook)
    assert [problem for problem in problems(notebook, "04_name.ipynb") if "'x'" not in problem] == []


@pytest.mark.parametrize("words", BROKEN)
def test_each_broken_convention_is_named(words):
    notebook = good()
    BROKEN[words](notebook)
    found = problems(notebook, "04_name.ipynb")
    assert any(words in problem for problem in found), found
