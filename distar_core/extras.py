"""The optional packages: which of them an extra needs, and what is missing here."""

from __future__ import annotations

import shlex
import sys
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from .errors import MissingPackagesError

PURPOSES = {
    "notebooks": "for the notebooks",
    "models": "for the miniature world and SDXL",
    "evaluation": "for Parquet and distances",
    "tensorboard": "to log for TensorBoard",
}
"""What an extra is for; one that only developers need is not here."""


def install(extra: str = "") -> str:
    """The shell command that installs this project from its clone, with an extra or without."""
    target = f'".[{extra}]"' if extra else "."
    return f"{shlex.quote(sys.executable)} -m pip install -e {target}"


def requirements(extra: str = "") -> list[Requirement]:
    """What the installed project requires: an extra's packages, or without a name those that every installation needs.

    Raises:
        MissingPackagesError: if the project is on the path, but was never installed.
    """
    try:
        lines = requires("distar-core") or []
    except PackageNotFoundError:
        raise MissingPackagesError(f"distar-core itself is not installed; in its clone run: {install()}") from None
    every = [Requirement(line) for line in lines]
    always = [one for one in every if one.marker is None or one.marker.evaluate({"extra": ""})]
    if not extra:
        return always
    return [one for one in every if one not in always and one.marker and one.marker.evaluate({"extra": extra})]


def installed_version(name: str) -> str | None:
    """The version of a distribution, or None if it is not here."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def missing(extra: str) -> list[str]:
    """The packages of an extra that are not here. Raises MissingPackagesError as `requirements`."""
    return [one.name for one in requirements(extra) if installed_version(one.name) is None]


def require(extra: str) -> None:
    """Nothing if the packages of an extra of this project ("models", say) are installed.

    Raises:
        MissingPackagesError: one sentence with the packages that are missing and the command that installs them.
    """
    if absent := missing(extra):
        is_not = "is not installed" if len(absent) == 1 else "are not installed"
        raise MissingPackagesError(
            f"{', '.join(absent)} {is_not}, but needed {PURPOSES.get(extra, f'for the extra {extra}')}: {install(extra)}"
        )
