"""The notebooks' machinery: editions from one source, exercises that recognise right and wrong answers."""

import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

from distar_core.course import profile
from distar_core.course.build import EDITIONS, INSTRUCTOR, build, edition

NOTEBOOKS = Path(__file__).parent.parent.parent / "notebooks"


def test_the_notebooks_in_the_repository_are_what_the_sources_give():
    built = build(NOTEBOOKS)
    assert len(built) == 2 * len(list((NOTEBOOKS / "source").glob("[0-9]*.py")))
    for path, text in built.items():
        assert path.read_text(encoding="utf-8") == text, f"{path} has drifted: run make notebooks"
    assert set(NOTEBOOKS.rglob("*.ipynb")) - set(NOTEBOOKS.rglob(".ipynb_checkpoints/*")) == set(built)


def test_building_twice_gives_the_same_bytes():
    assert build(NOTEBOOKS) == build(NOTEBOOKS)


def test_a_folder_without_sources_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no notebook"):
        build(tmp_path)


SOURCE = """# %% tags=["exercise"]
def double(x):
    # solution
    return 2 * x
    # end


# %% [markdown] tags=["solution"]
# It doubles.

# %% [markdown] tags=["instructor"]
# Many forget the factor.
"""


def test_the_student_edition_has_a_stub_and_no_solution():
    source = jupytext.reads(SOURCE, fmt="py:percent")
    student, solution, instructor = (edition(source, name) for name in (*EDITIONS, *INSTRUCTOR))
    for notebook, notes in ((student, False), (solution, False), (instructor, True)):
        assert ("Many forget" in nbformat.writes(notebook)) is notes
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


def test_an_unknown_profile_lists_the_known(monkeypatch):
    monkeypatch.setenv("DISTAR_PROFILE", "huge")
    with pytest.raises(ValueError, match="ci, fast, full"):
        profile()


def test_the_offline_guard_of_the_notebook_tests_blocks():
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    environment = {"PYTHONPATH": str(Path(__file__).parent.parent / "offline")}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "the network is blocked in this test" in result.stderr
