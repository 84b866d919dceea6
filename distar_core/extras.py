"""The optional packages: which of them an extra needs, and what is missing here."""

from __future__ import annotations

import shlex
import sys
from importlib.metadata import PackageNotFoundError, version

PACKAGES = {
    "torch": "",
    "matplotlib": "",
    "safetensors": "",
    "jupyterlab": "notebooks",
    "jupytext": "notebooks",
    "torchvision": "models",
    "diffusers": "models",
    "transformers": "models",
    "peft": "models",
    "accelerate": "models",
    "open_clip_torch": "models",
    "pyyaml": "models",
}
EXTRAS = {"notebooks": "for the notebooks", "models": "for the miniature world"}


def is_installed(name: str) -> bool:
    """Whether a distribution of this name is here."""
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def missing_packages(extra: str) -> str:
    """One sentence about what is missing of an extra and how to install it; empty if nothing is."""
    missing = [name for name, of in PACKAGES.items() if of == extra and not is_installed(name)]
    if not missing:
        return ""
    is_not = "is not installed" if len(missing) == 1 else "are not installed"
    remedy = f'{shlex.quote(sys.executable)} -m pip install -e ".[{extra}]"'
    return f"{', '.join(missing)} {is_not}, but needed {EXTRAS[extra]}: {remedy}"
