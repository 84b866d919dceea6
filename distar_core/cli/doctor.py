"""What this machine has and lacks."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from ..extras import PURPOSES, install, installed_version, requirements

if TYPE_CHECKING:
    from packaging.requirements import Requirement


class Finding(NamedTuple):
    """One line of the examination and, where something is to be done, how; fatal means that the demo cannot run."""

    what: str
    found: str
    verdict: str
    fatal: bool = False
    remedy: str = ""


def memory_gib() -> float | None:
    """Physical memory in GiB, or None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return None


def examine() -> list[Finding]:
    """Python, packages, memory, disk and accelerator, each with what to do about it."""
    good = sys.version_info >= (3, 11)
    verdict = "fine" if good else "install Python 3.11 or newer"
    findings = [
        Finding("distar_core", version("distar-core"), "fine"),
        Finding("system", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores", "fine"),
        Finding("Python", platform.python_version(), verdict, fatal=not good),
    ]
    for extra in ("", *PURPOSES):
        findings += [_package(requirement, extra) for requirement in requirements(extra)]
    findings.append(_torchvision())
    memory = memory_gib()
    if memory is not None:
        findings.append(Finding("memory", f"{memory:.1f} GiB", "fine" if memory >= 4 else "the demo wants 4 GiB"))
    free = shutil.disk_usage(".").free / 2**30
    findings.append(Finding("free disk here", f"{free:.0f} GiB", "fine" if free >= 1 else "make room: 1 GiB"))
    findings.append(_accelerator())
    return findings


def _package(requirement: Requirement, extra: str) -> Finding:
    name, here = requirement.name, installed_version(requirement.name)
    fatal = here is None and not extra
    if here is not None and requirement.specifier.contains(here, prereleases=True):
        return Finding(name, here, "fine")
    remedy = f"{PURPOSES[extra] if extra else 'to run anything'}: {install(extra)}"
    if here is not None:
        return Finding(name, here, f"wanted: {requirement.specifier}", remedy=remedy)
    return Finding(
        name, "missing" if fatal else "not installed", "needed" if fatal else "not needed yet", fatal, remedy
    )


def _torchvision() -> Finding:
    if find_spec("torchvision") is None:
        return Finding("torch with torchvision", "not installed", "not needed yet")
    try:
        import torchvision

        return Finding("torch with torchvision", f"{torchvision.__version__} loads", "fine")
    except Exception as error:
        remedy = "install torch and torchvision from the same place: make clean, then your make command again"
        return Finding("torch with torchvision", type(error).__name__, "do not fit together", remedy=remedy)


def _accelerator() -> Finding:
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return Finding("accelerator", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB", "fine")
    if torch.backends.mps.is_available():
        return Finding("accelerator", "Apple GPU", "not used, the CPU does it")
    return Finding("accelerator", "none", "not needed, the CPU does it")
