"""The README keeps its word."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def output_of(snippet: int, folder: Path) -> str:
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[snippet]
    result = subprocess.run(
        [sys.executable, "-c", code.replace("steps=500", "steps=3")], capture_output=True, text=True, cwd=folder
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_snippets_run(tmp_path):
    assert output_of(0, tmp_path).strip() == "tensor([True, True])"
    assert [path.name for path in tmp_path.iterdir()] == ["first.png"]
    assert output_of(1, tmp_path).startswith("step 0: mean reward ")


def test_local_links_exist():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert len(links) >= 4
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_no_gap_is_left_to_fill():
    assert re.findall(r"TODO|TBD|XXX|[A-Z]+_(?:DOWN|DISK|MIN)\b|MINUTES", README) == []


def test_every_method_and_make_target_is_named():
    from distar_core import METHODS

    assert [name for name in METHODS if f"`{name}`" not in README and f"`'{name}'`" not in README] == []
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"make ([a-z]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
