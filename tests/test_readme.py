"""The pages for people keep their word: examples run, commands exist, links lead somewhere, and lists are whole."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer

from distar_core import METHODS, post_train
from distar_core.cli.main import app
from distar_core.methods import ALIASES
from distar_core.rewards.base import is_differentiable, values_of

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "notebooks" / "README.md"]
LONGEST = 120


def fences(page: str, language: str = "") -> list[str]:
    """The contents of a page's code fences of one language."""
    text = (ROOT / page).read_text("utf-8")
    return [
        code for name, code in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE) if name == language
    ]


def said_and_printed(page: str, folder: Path) -> tuple[str, str]:
    """The output that a page shows right after its one example, and what the example prints."""
    (code,) = fences(page, "python")
    shown = re.search(r"^```\n\n```\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert shown, f"{page} shows no output"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return shown[1], done.stdout


def apart(text: str) -> tuple[str, list[float]]:
    """Words and numbers of a text."""
    number = r"(?<!\w)-?\d+(?:\.\d+)?"
    return re.sub(number, "#", text), [float(found) for found in re.findall(number, text)]


def test_the_example_prints_what_the_readme_shows(tmp_path):
    """Words to the letter; numbers within what another processor's arithmetic may change: a mode, 0.1 of reward."""
    (said, shown), (printed, computed) = (apart(text) for text in said_and_printed("README.md", tmp_path))
    assert printed == said
    assert len(shown) == 6
    for one, other in zip(computed, shown, strict=True):
        assert one == pytest.approx(other, abs=1 if float(other).is_integer() and other > 1 else 0.1)


def test_the_example_of_the_world_prints_what_the_page_shows(tmp_path):
    said, printed = said_and_printed("docs/world.md", tmp_path)
    assert printed == said
    assert [path.name for path in tmp_path.iterdir()] == ["first.png"]


def test_the_method_to_contribute_pulls_as_the_librarys_own(toy):
    names: dict = {}
    exec(fences("CONTRIBUTING.md", "python")[0], names)
    methods = [names["method"], replace(names["method"], regularizer=METHODS["diff-instruct++"].regularizer)]
    by_hand, library = (
        [record.pull_norms for record in post_train(toy.state(), method, toy.conditions, steps=2, seed=0, batch=8)]
        for method in methods
    )
    for mine, theirs in zip(by_hand, library, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_reward_to_contribute_is_one():
    names: dict = {}
    exec(fences("CONTRIBUTING.md", "python")[1], names)
    reward = names["Redness"]()
    red = torch.zeros(2, 3, 4, 4)
    red[0, 0] = 1
    assert is_differentiable(reward)
    assert values_of(reward, images=red, prompts=["", ""]).tolist() == [1, 0]


def commands(text: str) -> set[str]:
    """Every command of ours that a page names, in code or in a code fence."""
    lines = re.findall(r"`((?:distar|make) [^`\n]+)`", text) + re.findall(r"^((?:distar|make) .+)$", text, re.MULTILINE)
    return {line.split(" #")[0].split(";")[0].strip() for line in lines}


def problem(command: str, targets: set[str]) -> str | None:
    """What is wrong with a command, if anything."""
    program, *words = shlex.split(command)
    if program == "make":
        unknown = [word for word in words if "=" not in word and word not in targets]
        return f"no target {unknown}" if unknown else None
    place = typer.main.get_command(app)
    while words and hasattr(place, "commands"):
        if words[0] not in place.commands:
            return f"no command {words[0]}"
        place = place.commands[words.pop(0)]
    options = {option for parameter in place.params for option in parameter.opts}
    unknown = [word for word in words if word.startswith("--") and word.split("=")[0] not in options]
    return f"no option {unknown}" if unknown else None


TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_exists(page: Path):
    found = {command: problem(command, TARGETS) for command in commands(page.read_text("utf-8"))}
    assert {command: why for command, why in found.items() if why} == {}


def test_control_of_the_commands():
    text = "`make demo TORCH=cpu`, `make coffee`\ndistar train world runs/star --method di-star  # a comment\n`distar sing`\n"
    found = commands(text + "distar demo --louder\n")
    assert {command for command in found if problem(command, TARGETS)} == {
        "make coffee",
        "distar sing",
        "distar demo --louder",
    }
    assert len(found) == 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_local_links_lead_somewhere(page: Path):
    links = [link for link in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8")) if not link.startswith("http")]
    assert [link for link in links if not (page.parent / link.split("#")[0]).exists()] == []


def test_the_readme_is_a_landing_page():
    assert len(README.splitlines()) <= LONGEST
    assert re.findall(r"TODO|TBD|XXX|leash", README) == []


def test_every_method_is_named():
    glossary = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    assert [name for name in METHODS if f"`{name}`" not in README or f"`{name}`" not in glossary] == []
    assert [name for name in ALIASES if f"`{name}`" not in README] == []


def test_the_map_has_every_room_in_the_order_that_the_linter_holds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    (contract,) = project["tool"]["importlinter"]["contracts"]
    rooms = [layer for layer in contract["layers"] if (ROOT / "distar_core" / layer / "__init__.py").is_file()]
    drawn = re.findall(r"^\| `(\w+)` \|", README.split("## Map of the house")[1], re.MULTILINE)
    assert drawn == rooms
