"""The examples in docstrings print what they show."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHOWN = [
    path
    for path in sorted((ROOT / "distar_core").rglob("*.py"))
    if re.search(r"^\s+>>> ", path.read_text("utf-8"), re.M)
]


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_print_what_they_show(path: Path) -> None:
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_the_core_has_examples() -> None:
    assert {"losses.py", "methods.py", "mixture.py", "schedule.py"} <= {path.name for path in SHOWN}


def test_control_of_the_examples() -> None:
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    assert doctest.DocTestRunner().run(wrong, out=lambda text: None).failed == 1
