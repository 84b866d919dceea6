"""Published models that an evaluation draws by name: where their weights are, and how their authors draw with them."""

from __future__ import annotations

from typing import NamedTuple

SDXL_NAME = "stabilityai/stable-diffusion-xl-base-1.0"
DMD2, DIDR = "tianweiy/DMD2", "Junyi-W/DIDR"
LICENCES = {
    SDXL_NAME: "CreativeML Open RAIL++-M",
    DMD2: "CC BY-NC 4.0: not for commercial use",
    DIDR: "CC BY-NC 4.0: not for commercial use",
    "madebyollin/sdxl-vae-fp16-fix": "MIT",
}
"""Of repositories on the hub, as their pages state."""


class PublishedModel(NamedTuple):
    """A model on the hub, of SDXL's kind but for FLUX.

    Attributes:
        source: of a one-step generator its UNet, as load_unet takes it; of a diffusion its pipeline.
        about: what it is.
        licence: of the weights, where it is stated.
        steps, guidance_scale: how its authors draw; one step is that at time 399 without guidance.
    """

    source: str
    about: str
    licence: str
    steps: int = 1
    guidance_scale: float = 1.0


FLUX = "flux-dev"
_NOT_STATED = "see the model card"
MODELS = {
    "sdxl": PublishedModel(SDXL_NAME, "SDXL base 1.0 (Podell et al. 2023)", LICENCES[SDXL_NAME], 50, 7.5),
    FLUX: PublishedModel(
        "black-forest-labs/FLUX.1-dev",
        "FLUX.1 [dev] (Black Forest Labs 2024)",
        "FLUX.1 [dev] Non-Commercial License, to be accepted on its page",
        50,
        3.5,
    ),
    "dmd2": PublishedModel(f"{DMD2}/dmd2_sdxl_1step_unet_fp16.bin", "DMD2, one step (Yin et al. 2024)", LICENCES[DMD2]),
    "diff-instruct": PublishedModel("XDG-XHS/diff_instruct_1step/unet", "Diff-Instruct (Luo et al. 2023)", _NOT_STATED),
    "sim": PublishedModel("XDG-XHS/sim_1step/unet", "Score Implicit Matching (Luo et al. 2024)", _NOT_STATED),
    "di++": PublishedModel("XDG-XHS/dipp_1step/unet", "Diff-Instruct++ (Luo 2024)", _NOT_STATED),
    "di-star": PublishedModel("XDG-XHS/distar_short_1step/unet", "Diff-Instruct* (Luo et al. 2024)", _NOT_STATED),
    "di-star-long": PublishedModel("XDG-XHS/distar_long_1step/unet", "Diff-Instruct*, trained longer", _NOT_STATED),
    "didr": PublishedModel(f"{DIDR}/didr_sdxl_1step_unet_fp16.safetensors", "DIDR (Wu et al. 2026)", LICENCES[DIDR]),
    "didr-long": PublishedModel(
        f"{DIDR}/didr_longer_sdxl_1step_unet_fp16.safetensors", "DIDR, trained longer", LICENCES[DIDR]
    ),
}
"""By name. Sources and steps are as their repositories state them (pkulwj1994/diff_instruct_star's distar_1024.ipynb, and the
READMEs of tianweiy/DMD2, Junyi-W/DIDR and black-forest-labs/FLUX.1-dev). Not verified, since no weights were at hand: that each file holds what its name says,
and that the autoencoder and text encoders of XDG-XHS's pipelines, which its notebook puts every UNet into, are SDXL's own."""
