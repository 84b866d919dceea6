"""What this machine has and lacks."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import NamedTuple

from ..extras import EXTRAS, PACKAGES


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
    findings = [Finding("Python", platform.python_version(), verdict, fatal=not good)]
    for name, extra in PACKAGES.items():
        try:
            findings.append(Finding(name, version(name), "fine"))
        except PackageNotFoundError:
            install = f"{sys.executable} -m pip install -e"
            if extra:
                remedy = f'{EXTRAS[extra]}: {install} ".[{extra}]"'
                findings.append(Finding(name, "not installed", "not needed yet", remedy=remedy))
            else:
                findings.append(Finding(name, "missing", "needed", fatal=True, remedy=f"to run anything: {install} ."))
    findings.append(_torchvision())
    memory = memory_gib()
    if memory is not None:
        findings.append(Finding("memory", f"{memory:.1f} GiB", "fine" if memory >= 4 else "the demo wants 4 GiB"))
    free = shutil.disk_usage(".").free / 2**30
    findings.append(Finding("free disk here", f"{free:.0f} GiB", "fine" if free >= 1 else "make room: 1 GiB"))
    findings.append(_accelerator())
    return findings


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
