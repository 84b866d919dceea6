"""`python -m tools.constraints`: the versions of everything that this package and its extras need, as they are installed here.

Names and versions only. CUDA's own packages are left out: torch requires them in exact versions itself, and its builds for the
CPU do without.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE, EXTRA = "distar-core", "dev"
CUDA = ("nvidia-", "cuda-", "triton")
HEAD = """# Versions with which `make test` last passed, on Python {python}, {system}: everything that the package and its extras need, made by
# `make constraints` from the environment of that run. For use with pip's option --constraint, or make's CONSTRAINTS=constraints.txt.
"""


def required(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> Iterator[tuple[str, str]]:
    """Names and versions of an installed distribution with these extras and of all that it requires; `seen` stops circles."""
    if (name, extras) in seen:
        return
    seen.add((name, extras))
    try:
        found = distribution(name)
    except PackageNotFoundError:  # an alternative that pip did not choose here
        return
    yield name, found.version
    for text in found.requires or []:
        need = Requirement(text)
        if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras or {""}):
            yield from required(canonicalize_name(need.name), frozenset(need.extras), seen)


def constraints() -> dict[str, str]:
    """Version by name, in alphabetical order, without this package and CUDA's own."""
    found = dict(required(PACKAGE, frozenset({EXTRA}), set()))
    return {name: found[name] for name in sorted(found) if name != PACKAGE and not name.startswith(CUDA)}


if __name__ == "__main__":
    print(HEAD.format(python=platform.python_version(), system=platform.system()), end="")
    print("\n".join(f"{name}=={version}" for name, version in constraints().items()))
