"""Promises about the project's own files: the budget of lines, what the core may know, and the thin conda file."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "distar_core"
LONGEST_LOOP = 200
FORBIDDEN = ("cuda", "isinstance", "adapter", "lora", "accelerate", "unet", "sdxl")
HEAVY = ("diffusers", "transformers", "open_clip", "matplotlib", "sklearn")


def lines_of_code(source: str) -> int:
    """Lines that hold code: blank lines, comments and docstrings do not count."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or not body:
            continue
        first = body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            assert first.end_lineno is not None
            docstrings |= set(range(first.lineno, first.end_lineno + 1))
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent:
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(code - docstrings)


def test_lines_are_counted_as_stated() -> None:
    source = '''"""Module
docstring."""

# a comment
x = 1  # a comment behind code


def f():
    """Docstring."""
    return (
        x +
        1
    )

text = """not a docstring

but data"""
'''
    assert lines_of_code(source) == 1 + 1 + 4 + 3


def test_the_loop_stays_short() -> None:
    assert 0 < lines_of_code((PACKAGE / "training.py").read_text("utf-8")) <= LONGEST_LOOP


def mentions(text: str) -> set[str]:
    return {word for word in FORBIDDEN if word in text.lower()}


def test_the_loop_knows_no_device_no_adapter_and_no_size() -> None:
    assert mentions((PACKAGE / "training.py").read_text("utf-8")) == set()


def test_control_of_the_forbidden_words() -> None:
    assert mentions("# for SDXL with LoRA on CUDA, is-instance") == {"sdxl", "lora", "cuda"}
    assert mentions("if isinstance(UNet2D, Accelerate): add_adapter()") == {
        "isinstance",
        "unet",
        "accelerate",
        "adapter",
    }


@pytest.mark.parametrize(
    "modules", ["distar_core", "distar_core.training, distar_core.methods, distar_core.toy.networks"]
)
def test_the_import_is_light(modules: str) -> None:
    code = f"import sys, {modules}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.split() == []


def test_control_of_the_light_import() -> None:
    code = f"import sys, matplotlib; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.split() == ["matplotlib"]


def read_conda_file(text: str) -> dict[str, list[str] | str]:
    """The few forms of YAML that a thin environment file uses: key: value, and lists, one of them nested under pip."""
    result: dict[str, list[str] | str] = {}
    entries: list[str] = []
    for line in text.splitlines():
        line = line.split(" #")[0].rstrip()
        if not line or line.startswith("#"):
            continue
        if not line.startswith((" ", "-")):
            key, _, value = line.partition(":")
            entries = []
            result[key] = value.strip() or entries
        else:
            item = line.strip()
            assert item.startswith("- "), f"not understood: {line!r}"
            item = item.removeprefix("- ").strip().strip("\"'")
            if item == "pip:":
                entries = []
                result["pip"] = entries
            else:
                entries.append(item)
    return result


def test_the_conda_file_installs_the_package_and_pins_nothing_of_its_own() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    environment = read_conda_file((ROOT / "environment.yml").read_text("utf-8"))
    assert set(environment) == {"name", "channels", "dependencies", "pip"}
    assert environment["name"] == "distar"
    assert environment["channels"] == ["conda-forge"]
    python, *others = environment["dependencies"]
    assert python.replace(" ", "") == f"python{project['requires-python']}"
    assert others == ["pip"]
    assert len(environment["pip"]) == 1
    (target,) = environment["pip"]
    matched = re.fullmatch(r"(?:-e|--editable) \.(?:\[([\w, ]+)\])?", str(target))
    assert matched, f"{target!r} does not install this package"
    extras = {extra.strip() for extra in (matched.group(1) or "").split(",") if extra.strip()}
    assert extras <= set(project["optional-dependencies"])


def test_control_of_the_conda_file_reader() -> None:
    text = """name: distar  # a comment
channels:
  - conda-forge
dependencies:
  - python>=3.11
  - pip
  - pip:
      - "-e .[notebooks]"
"""
    assert read_conda_file(text) == {
        "name": "distar",
        "channels": ["conda-forge"],
        "dependencies": ["python>=3.11", "pip"],
        "pip": ["-e .[notebooks]"],
    }
