"""The notebooks' machinery: editions from one source, exercises that recognise right and wrong answers."""

import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

from distar_core import extras
from distar_core.course import profile, require
from tools.build import COLAB_TITLE, EDITIONS, INSTRUCTOR, build, edition

NOTEBOOKS = Path(__file__).parent.parent.parent / "notebooks"


def test_every_notebook_in_the_repository_has_a_source():
    built = build(NOTEBOOKS)
    assert len(built) == 2 * len(list((NOTEBOOKS / "source").glob("[0-9]*.py")))
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


@pytest.mark.parametrize("name", [*EDITIONS, *INSTRUCTOR])
def test_code_to_hide_is_folded_in_jupyter_and_in_colab_and_no_other(name):
    cells = (
        '# %% tags=["figure", "hide-input"]\nprint(1)\n\n# %% tags=["figure"]\nprint(2)\n\n# %% [markdown]\n# Words.\n'
    )
    notebook = edition(jupytext.reads(cells, fmt="py:percent"), name)
    nbformat.validate(notebook)
    folded, *others = notebook.cells
    assert folded.metadata.jupyter.source_hidden is True
    assert folded.metadata.cellView == "form"
    assert "outputs_hidden" not in folded.metadata.jupyter
    # Colab folds code in form view only below a title
    assert folded.source == COLAB_TITLE + "print(1)"
    assert COLAB_TITLE.startswith("# @title ")
    assert [cell.source for cell in others] == ["print(2)", "Words."]
    assert all({"jupyter", "cellView"}.isdisjoint(cell.metadata) for cell in others)


def test_an_unknown_profile_lists_the_known(monkeypatch):
    monkeypatch.setenv("DISTAR_PROFILE", "huge")
    with pytest.raises(ValueError, match="ci, fast, full"):
        profile()


@pytest.mark.parametrize(("name", "announced"), [("ci", True), ("fast", False), ("full", False), (None, False)])
def test_the_profile_whose_runs_are_too_short_announces_itself(name, announced, monkeypatch, capsys):
    if name is None:
        monkeypatch.delenv("DISTAR_PROFILE", raising=False)
    else:
        monkeypatch.setenv("DISTAR_PROFILE", name)
    assert profile().name == (name or "fast")
    printed = capsys.readouterr().out
    assert ("too short" in printed and "DISTAR_PROFILE" in printed) if announced else printed == ""


def test_a_missing_extra_is_one_sentence_with_the_command(monkeypatch):
    require("models")
    missing = {"diffusers", "peft"}
    whole = extras.installed_version
    monkeypatch.setattr(extras, "installed_version", lambda name: None if name in missing else whole(name))
    with pytest.raises(
        ModuleNotFoundError, match=r'(?s)^diffusers, peft are not installed.*pip install.*"\.\[models\]"$'
    ) as found:
        require("models")
    assert "\n" not in str(found.value)


WITHOUT_MODELS = """
import importlib.abc, importlib.metadata, json, sys
from pathlib import Path

GONE = ("torchvision", "diffusers", "transformers", "peft", "accelerate", "open_clip", "open_clip_torch", "pyyaml", "yaml")
installed = importlib.metadata.version


def version(name):
    if name in GONE:
        raise importlib.metadata.PackageNotFoundError(name)
    return installed(name)


class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in GONE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


importlib.metadata.version = version
sys.meta_path.insert(0, Blocked())
for path in sys.argv[1:]:
    cells = json.loads(Path(path).read_text("utf-8"))["cells"]
    (setup,) = ["".join(cell["source"]) for cell in cells if "setup" in cell["metadata"].get("tags", [])]
    try:
        exec(setup, {})
        print(path, "raised nothing")
    except ModuleNotFoundError as error:
        print(error)
"""


def test_without_the_models_the_notebooks_that_need_them_say_so_in_their_first_cell():
    paths = sorted(str(path) for number in (7, 8, 9, 10) for path in NOTEBOOKS.glob(f"{number:02d}_*.ipynb"))
    result = subprocess.run([sys.executable, "-c", WITHOUT_MODELS, *paths], capture_output=True, text=True)
    said = result.stdout.splitlines()
    assert len(said) == len(paths) == 4, result.stderr
    for line in said:
        assert "diffusers" in line
        assert line.endswith('-m pip install -e ".[models]"')


def test_make_lab_installs_what_the_notebooks_import():
    makefile = (NOTEBOOKS.parent / "Makefile").read_text("utf-8")
    (wanted,) = re.findall(r"^lab: (.*)$", makefile, re.MULTILINE)
    (made,) = re.findall(r"^(.*): \.venv/base\n\t.*\.\[\$\(@F\)\]", makefile, re.MULTILINE)
    assert {".venv/notebooks", ".venv/models"} <= set(wanted.split()) <= set(made.split())


def test_the_offline_guard_of_the_notebook_tests_blocks():
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    environment = {"PYTHONPATH": str(Path(__file__).parent.parent / "offline")}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "the network is blocked in this test" in result.stderr
