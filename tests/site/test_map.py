"""The map is complete: every claim has its statement, its source, its functions and its section, and none is made up."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import jupytext
import pytest
import yaml

from distar_core import METHODS
from tools.claims_map import claims
from tools.site import PAPERS, ROOT, SOURCES, mapped, slug, stems

CLAIMS = claims()
MAPPED = mapped()


def test_every_claim_is_mapped_in_order() -> None:
    assert [claim.number for claim in CLAIMS] == [added["claim"] for added in MAPPED] == list(range(1, len(CLAIMS) + 1))
    marks = re.findall(
        r"mark\.claim\((\d+)\)", "".join(path.read_text("utf-8") for path in ROOT.glob("tests/claims/*.py"))
    )
    assert set(map(int, marks)) == {claim.number for claim in CLAIMS}
    for claim, added in zip(CLAIMS, MAPPED, strict=True):
        assert set(added) - {"formula"} == {"claim", "paper", "what", "library", "taught"}
        assert len(claim.statement) > 30


@pytest.mark.parametrize(("claim", "added"), list(zip(CLAIMS, MAPPED, strict=True)), ids=lambda one: None)
def test_what_is_mapped_is_reached_by_the_claims_tests(claim, added) -> None:
    assert added["library"]
    for name in added["library"]:
        assert f"distar_core.{name}" in claim.names
        module, _, leaf = f"distar_core.{name}".rpartition(".")
        assert hasattr(import_module(module), leaf)


def test_every_part_of_a_method_is_held_by_a_claim() -> None:
    names = {name.rpartition(".")[2] for added in MAPPED for name in added["library"]}
    parts = {method.regularizer.__name__ for method in METHODS.values() if method.regularizer}
    parts |= {type(method.distance).__name__ for method in METHODS.values() if method.distance}
    assert parts <= names
    assert "score_divergence" in parts


def test_sources_are_cited_papers() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["references"]
    papers = {paper["url"].rsplit("/", 1)[-1] for paper in cited}
    assert {added["paper"] for added in MAPPED} <= papers | set(PAPERS)


def test_sections_exist() -> None:
    for added in MAPPED:
        assert added["taught"]
        for number, heading in added["taught"].items():
            (stem,) = [stem for stem in stems() if stem.startswith(number)]
            text = "\n".join(cell.source for cell in jupytext.read(SOURCES / f"{stem}.py").cells)
            assert heading in re.findall(r"^#{2,3} (.+)$", text, re.MULTILINE)


def test_anchors_are_made_as_myst_makes_them() -> None:
    assert slug("Your loss, and its stop-gradients") == "your-loss-and-its-stop-gradients"
    assert slug(r"Diff-Instruct\* in sixty lines") == "diff-instruct-in-sixty-lines"


def test_control_a_claim_without_its_statement(tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text(
        'import pytest\n@pytest.mark.claim(7)\ndef test_it():\n    """It holds."""\n', "utf-8"
    )
    with pytest.raises(ValueError, match=r"test_x\.py.*test_it.*7"):
        claims(tmp_path)
