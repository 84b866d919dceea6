"""What this machine has and lacks."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..extras import PURPOSES, install, installed_version, requirements

if TYPE_CHECKING:
    from packaging.requirements import Requirement

    from ..evaluation.tables import Table


GIB = 2**30


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


def examine_sdxl() -> list[Finding]:
    """What post-training SDXL needs and what of it is here: packages, accelerators, models in the caches, disk. Nobody is asked,
    and nothing is loaded.
    """
    import torch

    from ..extras import missing
    from ..sdxl.plan import GB, checkpoint_bytes, counted, known_downloads
    from ..sdxl.recipe import SdxlRecipe, find_recipe

    absent = missing("models")
    remedy = f"to post-train SDXL: {install('models')}" if absent else ""
    packages = Finding(
        "packages", f"without {', '.join(absent)}" if absent else "all", "wanted" if absent else "fine", remedy=remedy
    )
    findings = [packages]
    cards = torch.cuda.device_count()
    needs = {name: one.ledger.need for name, one in counted().items() if one.processes <= max(cards, 1)}
    for number in range(cards):
        free = torch.cuda.mem_get_info(number)[0]
        fitting = [name for name, need in needs.items() if need <= free]
        verdict = f"enough for {', '.join(fitting)}" if fitting else "too small for every recipe"
        found = f"{torch.cuda.get_device_name(number)}, {free / GIB:.1f} GiB free"
        findings.append(Finding(f"accelerator {number}", found, verdict))
    if not torch.cuda.is_available():
        findings.append(
            Finding("accelerator", "none that torch can use", "needed for SDXL; --dry-run and small models do without")
        )
    if absent:
        return findings
    from huggingface_hub.constants import HF_HUB_CACHE

    missing_gb = 0.0
    wanted = {
        one.what: one
        for name, known in counted().items()
        for one in known_downloads(SdxlRecipe.read(find_recipe(name)), known.gigabytes)
    }
    for one in wanted.values():
        size = "of unknown size" if one.gigabytes is None else f"{one.gigabytes:.1f} GB"
        missing_gb += 0 if one.cached else one.gigabytes or 0
        here = "in the cache" if one.cached else "not in the cache"
        findings.append(Finding(one.what, f"{size}, {here}: {one.source}", f"licence: {one.licence}"))
    findings.append(_disk("downloads", Path(HF_HUB_CACHE), missing_gb))
    for name, known in counted().items():
        recipe = SdxlRecipe.read(find_recipe(name))
        room = (recipe.checkpoints + 1) * checkpoint_bytes(known.ledger, recipe.parts(known.processes)) / GB
        findings.append(_disk(f"checkpoints of {name}", Path(), room))
    return findings


def _disk(what: str, folder: Path, gigabytes: float) -> Finding:
    """Whether there is room for so much in a folder, which may not be there yet."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(there).free / 1e9
    enough = free >= gigabytes
    verdict = "fine" if enough else f"make room, or choose another disk: {gigabytes - free:.0f} GB are lacking"
    return Finding(f"disk for {what}", f"{gigabytes:.3g} GB, of {free:.0f} free in {there}", verdict)


def estimates(share: float, price: float | None) -> Table:
    """Hours, and with a price per hour of a card the cost, of every recipe on CARDS that are large enough; estimates."""
    from ..sdxl.cards import CARDS
    from ..sdxl.plan import counted, hours_at
    from ..sdxl.recipe import SdxlRecipe, find_recipe

    rows = [
        ["recipe", "card", "GiB needed", f"hours at {share:.0%} of its peak", *(["cost"] if price is not None else [])]
    ]
    for name, known in counted().items():
        recipe = SdxlRecipe.read(find_recipe(name))
        for card in CARDS:
            several = f"{known.processes} × " if known.processes > 1 else ""
            row = [name, f"{several}{card.name}, {card.tflops:g} TFLOP/s", f"{known.ledger.need / GIB:.1f}"]
            if not card.has(known.ledger.need):
                rows.append([*row, "too small", *([""] if price is not None else [])])
                continue
            hours = hours_at(recipe, known.ledger, card.tflops, share)
            rows.append(
                [*row, f"{hours / known.processes:.1f}", *([f"{hours * price:.2f}"] if price is not None else [])]
            )
    return rows
