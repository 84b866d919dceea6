"""The notebooks' machinery: editions from one source, exercises that recognise right and wrong answers."""

import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
import torch

from distar_core.course import EXERCISES, check, profile
from distar_core.course.build import EDITIONS, build, edition

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def test_the_notebooks_in_the_repository_are_what_the_sources_give():
    built = build(NOTEBOOKS)
    assert len(built) == 2 * len(list((NOTEBOOKS / "source").glob("[0-9]*.py")))
    for path, text in built.items():
        assert path.read_text(encoding="utf-8") == text, f"{path} has drifted: run make notebooks"
    assert set(NOTEBOOKS.rglob("*.ipynb")) - set(NOTEBOOKS.rglob(".ipynb_checkpoints/*")) == set(built)


def test_building_twice_gives_the_same_bytes():
    assert build(NOTEBOOKS) == build(NOTEBOOKS)


SOURCE = """# %% tags=["exercise"]
def double(x):
    # solution
    return 2 * x
    # end


# %% [markdown] tags=["solution"]
# It doubles.
"""


def test_the_student_edition_has_a_stub_and_no_solution():
    source = jupytext.reads(SOURCE, fmt="py:percent")
    student, solution = (edition(source, name) for name in EDITIONS)
    assert "return 2 * x" not in nbformat.writes(student)
    assert "It doubles" not in nbformat.writes(student)
    assert "return 2 * x" in nbformat.writes(solution)
    assert "It doubles" in nbformat.writes(solution)
    for notebook in (student, solution):
        nbformat.validate(notebook)
        assert "# solution" not in nbformat.writes(notebook)
    namespace = {}
    exec(student.cells[0].source, namespace)
    assert namespace["double"](1) is None


@pytest.mark.parametrize(
    "path", sorted(NOTEBOOKS.rglob("[0-9]*.ipynb")), ids=lambda path: str(path.relative_to(NOTEBOOKS))
)
def test_notebooks_carry_no_outputs_and_short_cells(path):
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    lengths = sorted(len(cell.source.splitlines()) for cell in code)
    assert lengths[len(lengths) // 2] <= 8
    assert lengths[-1] <= 30
    assert sum(cell.source.startswith("# ") for cell in cells if cell.cell_type == "markdown") == 1


@pytest.mark.parametrize("number", EXERCISES)
def test_the_reference_passes_and_every_mistake_gets_its_own_hint(number, capsys):
    exercise = EXERCISES[number]
    assert check(number, exercise.reference) is exercise.reference
    assert "passed" in capsys.readouterr().out
    hints = set()
    for mistake in exercise.mistakes:
        assert check(number, mistake.answer) is exercise.reference
        printed = capsys.readouterr().out
        assert "not yet" in printed
        assert mistake.hint in printed
        hints.add(mistake.hint)
        with pytest.raises(AssertionError):
            check(number, mistake.answer, strict=True)
        capsys.readouterr()
    assert len(hints) == len(exercise.mistakes) >= 3


RIGHT = {
    "00.1": (
        lambda assistant, reference, sigma: assistant * sigma - reference * sigma,
        lambda assistant, reference, sigma: -(reference.double() - assistant.double()) * sigma.double(),
        lambda assistant, reference, sigma: torch.einsum("bi,bj->bi", assistant - reference, sigma),
    )
}


@pytest.mark.parametrize("number", EXERCISES)
def test_differently_written_right_answers_pass(number, capsys):
    assert len(RIGHT[number]) >= 2
    for answer in RIGHT[number]:
        assert check(number, answer, strict=True) is answer
        assert "passed" in capsys.readouterr().out


def raising(*_):
    raise NotImplementedError


@pytest.mark.parametrize("blank", [lambda *_: None, lambda *_: ..., raising])
def test_a_blank_stub_says_not_tried_and_the_notebook_goes_on(blank, capsys):
    assert check("00.1", blank) is EXERCISES["00.1"].reference
    assert "not tried" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (lambda a, r, s: 1 / 0, "ZeroDivisionError"),
        (lambda a, r, s: torch.zeros(3), "shape"),
        (lambda a, r, s: s * (a - r) + 0.1, "numbers"),
        (lambda a, r, s: "text", "one tensor is wanted"),
        (lambda a, r, s: (a, r), "one tensor is wanted"),
    ],
)
def test_other_wrong_answers_never_raise_for_a_learner(answer, word, capsys):
    assert check("00.1", answer) is EXERCISES["00.1"].reference
    assert word in capsys.readouterr().out


def test_an_unknown_exercise_lists_the_known():
    with pytest.raises(KeyError, match=r"00\.1"):
        check("99.9", lambda: None)


def test_an_unknown_profile_lists_the_known(monkeypatch):
    monkeypatch.setenv("DISTAR_PROFILE", "huge")
    with pytest.raises(ValueError, match="ci, fast, full"):
        profile()


def test_the_offline_guard_of_the_notebook_tests_blocks():
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    environment = {"PYTHONPATH": str(Path(__file__).parent / "offline")}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "the network is blocked in this test" in result.stderr
