"""Published models that an evaluation draws by name: where their weights are, and how their authors draw with them."""

from __future__ import annotations

from typing import NamedTuple

SDXL_NAME = "stabilityai/stable-diffusion-xl-base-1.0"
DMD2, DIDR = "tianweiy/DMD2", "Junyi-W/DIDR"


class Licence(NamedTuple):
    """What weights may be used for, in short; the text at `url` is what counts.

    Attributes:
        name: as people call it.
        tag: what the hub calls it.
        allows, forbids: in a few words each.
        commercial: whether use for commercial advantage or payment is allowed.
    """

    name: str
    tag: str
    url: str
    allows: str
    forbids: str
    commercial: bool = True

    def __str__(self) -> str:
        return self.name if self.commercial else f"{self.name}: not for commercial use"


OPEN_RAIL = Licence(
    "CreativeML Open RAIL++-M",
    "openrail++",
    "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/blob/main/LICENSE.md",
    "use, change and distribution of the model and of what is derived from it, for payment too; no rights in the pictures are "
    "claimed",
    "the uses in its Attachment A, among them breaking the law, harming or exploiting people, harassment, false information meant "
    "to harm, discrimination, medical advice and law enforcement. Whoever passes on the model or a derivative, by distillation or "
    "training too, binds the next user to these restrictions, includes the licence, keeps its notices and says what was changed",
)
BY_NC = Licence(
    "CC BY-NC 4.0",
    "cc-by-nc-4.0",
    "https://creativecommons.org/licenses/by-nc/4.0/legalcode",
    "copying, changing and sharing, with the authors' names, a link to the licence and a note of what was changed",
    "any use that is primarily meant for commercial advantage or payment, of the weights and of what is adapted from them",
    commercial=False,
)
MIT = Licence(
    "MIT",
    "mit",
    "https://opensource.org/license/mit",
    "use, change and distribution, for payment too",
    "leaving out the copyright notice and the licence's text from copies",
)
LICENCES = {SDXL_NAME: OPEN_RAIL, DMD2: BY_NC, DIDR: BY_NC, "madebyollin/sdxl-vae-fp16-fix": MIT}
"""Of repositories on the hub, as the front matter of their pages states; what they allow and forbid is from the licences' texts
(for SDXL's Stability-AI/generative-models, model_licenses/LICENSE-SDXL1.0). DMD2's code is under CC BY-NC-SA 4.0."""


class Origin(NamedTuple):
    """Something that an export was made of.

    Attributes:
        role: what it was in the run.
        name: what it is called, without the place on the trainer's disk.
        url: its page, if it has one.
        licence: None where nobody stated it here.
        inside: whether its weights, or weights that started as them, are part of the export.
    """

    role: str
    name: str
    url: str | None
    licence: Licence | str | None
    inside: bool = True

    @property
    def licence_words(self) -> str:
        """The name of the licence, or what else is known of it."""
        return self.licence.name if isinstance(self.licence, Licence) else self.licence or "not stated here"

    @property
    def terms(self) -> Licence | None:
        """The licence, where what it allows is known."""
        return self.licence if isinstance(self.licence, Licence) else None


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
    "sdxl": PublishedModel(SDXL_NAME, "SDXL base 1.0 (Podell et al. 2023)", str(LICENCES[SDXL_NAME]), 50, 7.5),
    FLUX: PublishedModel(
        "black-forest-labs/FLUX.1-dev",
        "FLUX.1 [dev] (Black Forest Labs 2024)",
        "FLUX.1 [dev] Non-Commercial License, to be accepted on its page",
        50,
        3.5,
    ),
    "dmd2": PublishedModel(
        f"{DMD2}/dmd2_sdxl_1step_unet_fp16.bin", "DMD2, one step (Yin et al. 2024)", str(LICENCES[DMD2])
    ),
    "diff-instruct": PublishedModel("XDG-XHS/diff_instruct_1step/unet", "Diff-Instruct (Luo et al. 2023)", _NOT_STATED),
    "sim": PublishedModel("XDG-XHS/sim_1step/unet", "Score Implicit Matching (Luo et al. 2024)", _NOT_STATED),
    "di++": PublishedModel("XDG-XHS/dipp_1step/unet", "Diff-Instruct++ (Luo 2024)", _NOT_STATED),
    "di-star": PublishedModel("XDG-XHS/distar_short_1step/unet", "Diff-Instruct* (Luo et al. 2024)", _NOT_STATED),
    "di-star-long": PublishedModel("XDG-XHS/distar_long_1step/unet", "Diff-Instruct*, trained longer", _NOT_STATED),
    "didr": PublishedModel(
        f"{DIDR}/didr_sdxl_1step_unet_fp16.safetensors", "DIDR (Wu et al. 2026)", str(LICENCES[DIDR])
    ),
    "didr-long": PublishedModel(
        f"{DIDR}/didr_longer_sdxl_1step_unet_fp16.safetensors", "DIDR, trained longer", str(LICENCES[DIDR])
    ),
}
"""By name. Sources and steps are as their repositories state them (pkulwj1994/diff_instruct_star's distar_1024.ipynb, and the
READMEs of tianweiy/DMD2, Junyi-W/DIDR and black-forest-labs/FLUX.1-dev). Not verified, since no weights were at hand: that each file holds what its name says,
and that the autoencoder and text encoders of XDG-XHS's pipelines, which its notebook puts every UNet into, are SDXL's own."""
