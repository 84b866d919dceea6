"""A notebook's page: what its outputs depend on, and what of the run is shown."""

from __future__ import annotations

from pathlib import Path

import grimp
import nbformat
import pytest

from distar_core.course import reveal
from tools import notebook_pages
from tools.notebook_pages import fingerprint, imported_modules, outputs, page

SOURCE = notebook_pages.ROOT / "notebooks" / "source" / "04_theorem_3_1.py"


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("distar_core")


def test_imports_are_followed(graph: grimp.ImportGraph) -> None:
    found = imported_modules("from distar_core.toy import ring as toy\n", graph)
    assert {
        "distar_core.toy.ring",
        "distar_core.toy",
        "distar_core",
        "distar_core.mixture",
        "distar_core.training",
    } <= found
    assert "distar_core.sdxl.models" not in found
    assert imported_modules("import torch\n", graph) == set()


def test_the_hash_is_of_all_that_outputs_depend_on(graph: grimp.ImportGraph, tmp_path: Path) -> None:
    own = fingerprint(SOURCE, "fast", graph)
    assert own == fingerprint(SOURCE, "fast", graph)
    assert own != fingerprint(SOURCE, "ci", graph)
    other = tmp_path / SOURCE.name
    other.write_text(SOURCE.read_text("utf-8") + "\n# %%\n1 + 1\n", "utf-8")
    assert own != fingerprint(other, "fast", graph)


def test_the_hash_changes_with_a_module_and_with_data(graph: grimp.ImportGraph, tmp_path: Path, monkeypatch) -> None:
    notebook = tmp_path / "00_x.py"
    notebook.write_text("# %%\nfrom distar_core.toy.records import read_runs\n", "utf-8")
    before = fingerprint(notebook, "fast", graph)
    (tmp_path / "distar_core").symlink_to(notebook_pages.ROOT / "distar_core")
    monkeypatch.setattr(notebook_pages, "ROOT", tmp_path)
    assert fingerprint(notebook, "fast", graph) == before
    (tmp_path / "distar_core").unlink()
    for path in (SOURCE.parents[2] / "distar_core").rglob("*"):
        if path.is_file() and path.suffix in (".py", ".csv", ".j2"):
            copy = tmp_path / path.relative_to(SOURCE.parents[2])
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    assert fingerprint(notebook, "fast", graph) == before
    for changed in ("mixture.py", "toy/data/fixed_points.csv"):
        path = tmp_path / "distar_core" / changed
        kept = path.read_bytes()
        path.write_bytes(kept + b"\n")
        assert fingerprint(notebook, "fast", graph) != before
        path.write_bytes(kept)
    (tmp_path / "distar_core" / "sdxl" / "models.py").write_text("", "utf-8")
    assert fingerprint(notebook, "fast", graph) == before


def test_a_prediction_that_nobody_made_is_not_shown(capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DISTAR_FOLDER", str(tmp_path))
    reveal("04.a", "nothing reaches the generator")
    cell = nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("stream", text=capsys.readouterr().out)])
    (shown,) = outputs(cell, tmp_path, "figures")
    assert shown.text == "04.a, the run: nothing reaches the generator\n"


def test_a_warning_is_shown_without_the_place_that_raised_it(tmp_path: Path) -> None:
    text = "/home/me/lib/python3.11/site-packages/torch/utils/_contextlib.py:124: UserWarning: 'purple' is new\n  return func()\n"
    cell = nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("stream", name="stderr", text=text)])
    (shown,) = outputs(cell, tmp_path, "figures")
    assert shown.text == "UserWarning: 'purple' is new\n"


def test_a_page_has_each_answer_once_and_folded(tmp_path: Path) -> None:
    made = page(SOURCE, None, tmp_path, "figures")
    folded = [cell for cell in made.cells if '<details class="solution">' in cell.source]
    stubs = [cell for cell in made.cells if "exercise" in cell.metadata.get("tags", [])]
    assert len(stubs) == 3
    assert len(folded) >= len(stubs)
    for stub in stubs:
        name = stub.source.split("def ")[1].split("(")[0]
        assert "# your line here" in stub.source
        assert any(f"def {name}(" in cell.source for cell in folded)
    assert "Board plan" not in str(made.cells)
    assert not list(tmp_path.iterdir())


def test_a_link_to_a_playground_leads_into_the_sites_folder(tmp_path: Path) -> None:
    made = page(SOURCE, None, tmp_path, "figures")
    text = "\n".join(cell.source for cell in made.cells)
    assert '<a href="../play/theorem.html#line,huber,frozen,slope">' in text
    assert "docs/web" not in text
