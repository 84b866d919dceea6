"""Promises about the project's own files: what the core may know, what is installed, and what runs elsewhere."""

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
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_the_conda_file_installs_the_package_for_the_notebooks_and_pins_nothing_of_its_own() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    python, *others, by_pip = environment.pop("dependencies")
    assert environment == {"name": "distar", "channels": ["conda-forge"]}
    assert python.replace(" ", "") == f"python{PYPROJECT['project']['requires-python']}"
    assert others == ["pip"]
    assert by_pip == {"pip": ["-e .[notebooks,models,evaluation]"]}
    assert {"notebooks", "models", "evaluation"} <= set(PYPROJECT["project"]["optional-dependencies"])


def constraints() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def test_the_constraints_are_names_and_versions_of_all_that_is_required() -> None:
    """One exact version of every requirement of the package and its extras, within the bounds, and nothing else on a line."""
    pinned = {}
    for line in constraints():
        matched = re.fullmatch(r"([a-z0-9-]+)==([\w.]+)", line)
        assert matched, line
        pinned[matched[1]] = matched[2]
    assert list(pinned) == sorted(pinned)
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    needs = [
        Requirement(text) for text in project["dependencies"] + [one for group in extras.values() for one in group]
    ]
    for need in needs:
        if need.name != project["name"]:
            assert need.specifier.contains(pinned[canonicalize_name(need.name)]), need


def test_what_is_listed_as_slow_exists() -> None:
    listed = [
        line for line in (ROOT / "tests" / "slow.txt").read_text("utf-8").splitlines() if not line.startswith("#")
    ]
    assert len(listed) > 20
    gone = [name for name in listed if not defines(*name.split("::"))]
    assert gone == [], "take them out of tests/slow.txt"
    assert not defines("tests/test_project.py", "test_that_is_not_there")


def defines(path: str, name: str) -> bool:
    file = ROOT / path
    return file.is_file() and f"def {name}(" in file.read_text("utf-8")


def test_the_citation_is_of_this_version_and_names_the_papers() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert cited["version"] == PYPROJECT["project"]["version"]
    papers = {reference["url"].removeprefix("https://arxiv.org/abs/") for reference in cited["references"]}
    assert papers == set(re.findall(r"arxiv\.org/abs/([\d.]+)", (ROOT / "README.md").read_text("utf-8")))
    for reference in cited["references"]:
        assert reference["identifiers"] == [{"type": "other", "value": f"arXiv:{reference['url'].rsplit('/')[-1]}"}]


@pytest.mark.parametrize("path", sorted([*ROOT.glob(".github/**/*.yml"), ROOT / ".pre-commit-config.yaml"]), ids=str)
def test_what_runs_elsewhere_runs_what_is_here(path: Path) -> None:
    """Workflows and hooks are YAML, and their make targets and modules exist."""
    text = path.read_text("utf-8")
    assert yaml.safe_load(text)
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert set(re.findall(r"run: make (\w+)", text)) <= set(targets)
    for module in re.findall(r"python -m (tools\.\w+)", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
