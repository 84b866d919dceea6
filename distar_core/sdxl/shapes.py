"""Models on the meta device: the shapes and types of their networks without weights, from configurations alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from .loading import DescribedPipeline, quiet, type_of_vae
from .miniature import make_tokenizer
from .models import TextToImage

if TYPE_CHECKING:
    from transformers import CLIPVisionModelWithProjection

SDXL_NAME = "stabilityai/stable-diffusion-xl-base-1.0"
SDXL: dict[str, dict[str, Any]] = {
    "unet": {
        "sample_size": 128,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (320, 640, 1280),
        "cross_attention_dim": 2048,
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "vae": {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": 1024,
        "scaling_factor": 0.13025,
        "force_upcast": True,
    },
    "text_encoder": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "projection_dim": 768,
    },
    "text_encoder_2": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "projection_dim": 1280,
        "hidden_act": "gelu",
    },
}
"""What the config.json files of SDXL_NAME state beyond their classes' defaults, by part."""

TOKENS = 77


def on_meta(
    configs: Mapping[str, Mapping[str, Any]],
    tokenizers: Mapping[str, Any],
    scheduler: Any,
    *,
    dtype: torch.dtype,
    vae_dtype: torch.dtype | None = None,
    **options: Any,
) -> TextToImage:
    """Reference and one-step generator of these configurations on the meta device, frozen.

    Args:
        configs: by part, as SDXL; keys that are left out are at their classes' defaults.
        tokenizers: "tokenizer" and "tokenizer_2".
        dtype, vae_dtype: in which the networks compute, as in load_pipeline.
        options: of TextToImage.

    Raises:
        ValueError: as type_of_vae and TextToImage.
    """
    with quiet():
        from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    def ready(network: Any, dtype: torch.dtype) -> Any:
        return network.to(dtype).requires_grad_(False).eval()

    with quiet(), torch.device("meta"):
        vae = AutoencoderKL.from_config(dict(configs["vae"]))
        unet, start = (ready(UNet2DConditionModel.from_config(dict(configs["unet"])), dtype) for _ in range(2))
        texts = {
            part: ready(kind(CLIPTextConfig.from_dict(dict(configs[part]))), dtype)
            for part, kind in (("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection))
        }
    with quiet():
        pipeline = StableDiffusionXLPipeline(
            vae=ready(vae, type_of_vae(vae.config, dtype, vae_dtype)),
            unet=unet,
            **texts,
            **tokenizers,
            scheduler=scheduler,
            add_watermarker=False,
        )
    return TextToImage(pipeline, start, **options)


def described_on_meta(found: DescribedPipeline, **options: Any) -> TextToImage:
    """The shapes of a pipeline, before its weights are there; as `on_meta`."""
    return on_meta(
        found.configs, found.tokenizers, found.scheduler, dtype=found.dtype, vae_dtype=found.types["vae"], **options
    )


def sdxl_on_meta(
    dtype: torch.dtype = torch.bfloat16, *, vae_dtype: torch.dtype | None = None, **options: Any
) -> TextToImage:
    """SDXL in true size with nothing downloaded; its tokenizer knows letters alone. As `on_meta`."""
    with quiet():
        from diffusers import EulerDiscreteScheduler

    tokenizer = make_tokenizer(())
    tokenizer.model_max_length = TOKENS
    scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    tokenizers = {"tokenizer": tokenizer, "tokenizer_2": tokenizer}
    return on_meta(SDXL, tokenizers, scheduler, dtype=dtype, vae_dtype=vae_dtype, **options)


def pickscore_on_meta(dtype: torch.dtype = torch.bfloat16) -> CLIPVisionModelWithProjection:
    """PickScore's picture tower, frozen: pixel_values [B, 3, 224, 224] -> image_embeds [B, 1024]."""
    with quiet():
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        from ..rewards.published import PICKSCORE_NETWORK as known

    config = CLIPVisionConfig(**known["vision_config"], intermediate_size=5120, projection_dim=known["projection_dim"])
    with torch.device("meta"):
        tower = CLIPVisionModelWithProjection(config)
    return tower.to(dtype).requires_grad_(False).eval()
