"""A post-trained generator as diffusers knows it: a pipeline folder, or a LoRA for the pipeline that it started from.

Either draws in one step: pipeline(prompt, num_inference_steps=1, timesteps=[399], guidance_scale=0.0).
"""

from __future__ import annotations

import copy
import hashlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from .loading import quiet

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

LORA = "pytorch_lora_weights.safetensors"
BASE = "distar_core.base"


def one_step_pipeline(pipeline: Any, unet: Any) -> StableDiffusionXLPipeline:
    """The pipeline's other parts around a one-step generator's UNet, with LCMScheduler, which turns its prediction at
    timesteps=[399] into x_0 and adds nothing.
    """
    from diffusers import LCMScheduler, StableDiffusionXLPipeline

    config = pipeline.scheduler.config
    betas = {name: config[name] for name in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")}
    scheduler = LCMScheduler(**betas)
    parts = {**pipeline.components, "unet": unet, "scheduler": scheduler}
    return StableDiffusionXLPipeline(**parts, add_watermarker=False)


def fingerprint(network: Any, precision: torch.dtype = torch.float16) -> str:
    """Which base weights a network has, adapters aside, rounded to a precision; sixteen hexadecimal digits.

    Half precision by default, so that a network loaded in half and in single precision is the same one.
    """
    found = hashlib.blake2b(digest_size=8)
    weights = {name.replace(".base_layer.", "."): value for name, value in network.state_dict().items()}
    for name in sorted(name for name in weights if ".lora_" not in name):
        found.update(name.encode())
        found.update(weights[name].detach().to("cpu", precision).contiguous().numpy().tobytes())
    return found.hexdigest()


def merged(unet: Any) -> Any:
    """A copy of a network with its LoRA, if it has one, added into the weights."""
    unet = copy.deepcopy(unet)
    if getattr(unet, "peft_config", None):
        unet.fuse_lora()
        unet.unload_lora()
    return unet


def export_pipeline(pipeline: Any, unet: Any, folder: Path) -> None:
    """Write a folder that StableDiffusionXLPipeline.from_pretrained loads as it is, scheduler included."""
    with quiet():
        one_step_pipeline(pipeline, unet).save_pretrained(folder)


def export_lora(unet: Any, folder: Path) -> None:
    """Write the adapters of a UNet that add_lora made, for pipeline.load_lora_weights(folder).

    Raises:
        ValueError: if the network has none, or one whose alpha is not its rank.
    """
    from peft import get_peft_model_state_dict

    if not getattr(unet, "peft_config", None):
        raise ValueError("the network has no LoRA; it was trained as a full copy, so export it as a pipeline")
    for adapter in unet.peft_config.values():
        if adapter.lora_alpha != adapter.r:
            raise ValueError(
                f"the LoRA has alpha {adapter.lora_alpha} and rank {adapter.r}, and this file is written without alpha; "
                "make them equal, or export it merged"
            )
    layers = {f"unet.{name}": value.contiguous() for name, value in get_peft_model_state_dict(unet).items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(layers, folder / LORA, metadata={"format": "pt", BASE: fingerprint(unet)})


def load_lora(pipeline: Any, folder: Path | str) -> Any:
    """What pipeline.load_lora_weights(folder) does, after a look whether the LoRA belongs to this pipeline's UNet.

    Returns:
        The pipeline.

    Raises:
        FileNotFoundError: if the folder holds no LoRA.
        ValueError: if it was trained on another base.

    Warns:
        UserWarning: if the UNet is in bfloat16, which has too few digits to tell.
    """
    path = Path(folder) / LORA
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; write one with: distar export RUN {folder} --lora")
    with safe_open(path, framework="pt") as file:
        wanted = (file.metadata() or {}).get(BASE)
    here = fingerprint(pipeline.unet)
    if pipeline.unet.dtype == torch.bfloat16:
        warnings.warn(
            "a UNet in bfloat16 does not show whether it is the LoRA's own base; see that it is", stacklevel=2
        )
    elif wanted not in (None, here):
        raise ValueError(
            f"the LoRA in {folder} was trained on base {wanted}, but this UNet is {here}; load its own base"
        )
    pipeline.unet.load_lora_adapter(load_file(path), prefix="unet")
    return pipeline
