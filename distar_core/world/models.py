"""The trained world: where its weights lie, which words it knows, and how its reference is drawn by default."""

from __future__ import annotations

from pathlib import Path

import torch

from ..extras import require
from ..sdxl.models import TextToImage, load_text_to_image
from ..sdxl.published import MIT, Origin
from .scenes import WORDS

SHIPPED = Path(__file__).parent / "weights"
STEPS, GUIDANCE_SCALE = 20, 2.0
ROWS_AT_ONCE = 250
_NAME = "distar_core's miniature world"
ORIGINS = [
    Origin("reference", _NAME, None, MIT),
    Origin("one-step generator at the start", _NAME, None, MIT),
    Origin("reward", _NAME, None, MIT, inside=False),
]
"""What a run in the world is made of: the weights that come with the package, under its own licence."""


def load_world(
    folder: Path | str = SHIPPED, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> TextToImage:
    """The world in a folder of weights, the shipped one by default, frozen.

    Raises:
        FileNotFoundError: if a part is missing; the message names it.
        ValueError: if a file is damaged or does not fit.
        MissingPackagesError: if the extra “models” is not installed.
    """
    require("models")
    folder = Path(folder)
    if not (folder / "generator" / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} has no generator/config.json; name a folder of weights, or make one with: distar world build FOLDER"
        )
    return load_text_to_image(
        folder / "reference",
        generator=folder / "generator",
        dtype=dtype,
        device=device,
        vocabulary=WORDS,
        steps=STEPS,
        guidance_scale=GUIDANCE_SCALE,
        rows_at_once=ROWS_AT_ONCE,
    )
