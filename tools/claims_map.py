"""What the claims say, and which public names each of them tests, read off tests/claims.

The statement of claim n is the docstring of the first test that is marked `claim(n)`; what it tests are the public functions and
classes of the library that its tests reach: named in them, or in the helpers of their file that they call.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "distar_core"


@dataclass
class Claim:
    """A numbered claim.

    Attributes:
        number: as in `@pytest.mark.claim(number)`.
        statement: one sentence or formula, and what qualifies it.
        file: name of its file in tests/claims.
        tests: names of its tests.
        names: module.name of what it tests, the module without the package.
    """

    number: int
    statement: str
    file: str
    tests: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)


def marked(test: ast.FunctionDef) -> Iterator[int]:
    """The numbers of the claims that a test is marked with."""
    for mark in test.decorator_list:
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.claim":
            yield ast.literal_eval(mark.args[0])


def imports(tree: ast.Module) -> dict[str, str]:
    """name in the file -> module.name in the package; a module that is imported as a whole -> module."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE:
            for name in node.names:
                found[name.asname or name.name] = f"{node.module}.{name.name}"
    return found


def reached(node: ast.AST, tree: ast.Module) -> set[str]:
    """The names of a file that a node reaches through the file's own functions, classes and constants."""
    own: dict[str, ast.AST] = {}
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            own[statement.name] = statement
        elif isinstance(statement, ast.Assign):
            own |= {target.id: statement for target in statement.targets if isinstance(target, ast.Name)}
    seen: set[str] = set()
    waiting = [node]
    while waiting:
        for part in ast.walk(waiting.pop()):
            if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
                seen.add(f"{part.value.id}.{part.attr}")
            if isinstance(part, ast.Name) and part.id not in seen:
                seen.add(part.id)
                waiting += [own[part.id]] if part.id in own else []
    return seen


def sentence(mark: str, text: str) -> str:
    """A statement on its own: a word after "Claim n:" or "Claim n," begins it, and a symbol stays as it is."""
    return text[0].upper() + text[1:] if mark in (":", ",") and re.match(r"[a-z]{2,} ", text) else text


def claims(folder: Path = ROOT / "tests" / "claims") -> list[Claim]:
    """All claims in the order of their numbers.

    Raises:
        ValueError: for a claim whose first test has no docstring that begins "Claim n".
    """
    found: dict[int, Claim] = {}
    for path in sorted(folder.glob("test_*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        known = imports(tree)
        for test in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
            for number in marked(test):
                if number not in found:
                    stated = re.match(rf"Claim {number}\b([.:,]?) *(.*)", ast.get_docstring(test) or "", re.DOTALL)
                    if not stated:
                        raise ValueError(
                            f"{path.name}: {test.name} is the first test of claim {number}; state it: Claim {number}. …"
                        )
                    found[number] = Claim(number, sentence(*stated.groups()), path.name)
                claim = found[number]
                claim.tests.append(test.name)
                names = reached(test, tree)
                claim.names |= {known[name] for name in names if name in known}
                claim.names |= {
                    f"{known[base]}.{name}"
                    for base, _, name in (one.partition(".") for one in names)
                    if base in known and name
                }
    return [found[number] for number in sorted(found)]
