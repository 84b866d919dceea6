"""FLUX.1, which an evaluation sets beside one-step models of SDXL's kind: drawn with by diffusers' own pipeline, never trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..runs.weights import read_json, reading
from .files import DIFFUSERS_WEIGHTS, TRANSFORMERS_WEIGHTS, place_of, stored, weight_files
from .loading import StoredNetwork, quiet

if TYPE_CHECKING:
    from diffusers import FluxPipeline

PIPELINE = "FluxPipeline"
NETWORKS = {
    "transformer": DIFFUSERS_WEIGHTS,
    "vae": DIFFUSERS_WEIGHTS,
    "text_encoder": TRANSFORMERS_WEIGHTS,
    "text_encoder_2": TRANSFORMERS_WEIGHTS,
}
"""The parts that have weights, and how the names of their files begin."""
OTHERS = ("tokenizer", "tokenizer_2", "scheduler")
SMALL = (
    "model_index.json",
    *(f"{part}/*{end}" for part in (*NETWORKS, *OTHERS) for end in (".json", ".txt", ".model")),
)
"""The files, as patterns, in which a folder says all about itself but its weights."""


def is_flux_folder(folder: Path) -> bool:
    """Whether a folder says that it is a pipeline of FLUX. Raises ValueError as read_json."""
    index = folder / "model_index.json"
    return index.is_file() and read_json(index).get("_class_name") == PIPELINE


def takes_guidance(folder: Path) -> bool:
    """Whether the network in a pipeline folder of FLUX takes guidance as an input, as FLUX.1 [dev] does and [schnell] does not."""
    return read_json(folder / "transformer" / "config.json").get("guidance_embeds") is True


def load_flux(
    source: Path | str, *, dtype: torch.dtype = torch.bfloat16, device: torch.device | str = "cpu"
) -> FluxPipeline:
    """The FluxPipeline in a folder or on the hub, frozen.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged or quantized, weights do not fit their network by name and shape, or are not finite.
    """
    with quiet():
        from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
        from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

    place = place_of(source, SMALL)
    if lacking := next((part for part in (*NETWORKS, *OTHERS) if not (place.folder / part).is_dir()), None):
        raise FileNotFoundError(f"pipeline folder {place} lacks {lacking}; {place.remedy}")
    kinds = dict(zip(NETWORKS, (FluxTransformer2DModel, AutoencoderKL, CLIPTextModel, T5EncoderModel), strict=True))
    found = {}
    for part, stems in NETWORKS.items():
        variant, files = weight_files(place.inside(part), stems)
        stored(files)
        found[part] = StoredNetwork(kinds[part], place.folder / part, variant, tuple(files))
    others: dict[str, Any] = {}
    for part, kind in zip(OTHERS, (CLIPTokenizer, T5TokenizerFast, FlowMatchEulerDiscreteScheduler), strict=True):
        with quiet(), reading(place.folder / part):
            others[part] = kind.from_pretrained(place.folder / part, local_files_only=True)
    networks = {part: one.load(dtype) for part, one in found.items()}
    with quiet():
        return FluxPipeline(**networks, **others).to(device)


@torch.no_grad()
def draw(
    pipeline: FluxPipeline, prompts: Sequence[str], seeds: Sequence[int], *, steps: int, guidance_scale: float
) -> Tensor:
    """Pictures [B, 3, H, W] in [0, 1], one prompt and one seed per row, drawn one by one by diffusers' own pipeline.

    Args:
        guidance_scale: an input of the network, which was distilled from guided sampling; it is not that of SDXL.

    Raises:
        ValueError: unless there is one seed per prompt.
    """
    pipeline.set_progress_bar_config(disable=True)
    pictures = []
    for prompt, seed in zip(prompts, seeds, strict=True):
        with quiet():
            drawn = pipeline(
                prompt,
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                generator=torch.Generator().manual_seed(seed),
                output_type="pt",
            )
        pictures.append(drawn.images.float())
    return torch.cat(pictures)
