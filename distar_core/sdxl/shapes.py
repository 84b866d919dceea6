"""Models from configurations alone: on the meta device, with shapes and types but no numbers, or with random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from .loading import DescribedPipeline, quiet, type_of_vae
from .miniature import make_tokenizer
from .models import TextToImage

if TYPE_CHECKING:
    from diffusers import FluxPipeline

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
"""What the config.json files of published.SDXL_NAME state beyond their classes' defaults, by part."""

FLUX_DEV: dict[str, dict[str, Any]] = {
    "transformer": {
        "in_channels": 64,
        "num_layers": 19,
        "num_single_layers": 38,
        "attention_head_dim": 128,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 768,
        "axes_dims_rope": (16, 56, 56),
        "guidance_embeds": True,
    },
    "vae": {
        **SDXL["vae"],
        "latent_channels": 16,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    "text_encoder": SDXL["text_encoder"],
    "text_encoder_2": {
        "vocab_size": 32128,
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10240,
        "num_layers": 24,
        "num_heads": 64,
        "feed_forward_proj": "gated-gelu",
    },
}
"""FLUX.1-dev by part. Source: black-forest-labs/flux, src/flux/util.py, configs["flux-dev"], whose autoencoder has SDXL's widths
(ch 128, ch_mult 1 2 4 4, two blocks a level, no convolution around the latents) and whose texts go through openai/clip-vit-large-patch14
and google/t5-v1_1-xxl, here by that model's config.json."""

TOKENS = 77


@contextmanager
def _made_on(device: torch.device | str, dtype: torch.dtype) -> Iterator[None]:
    """Modules that are made inside are born there, in that type: no copy in another one has to fit first."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def _frozen(make: Callable[[], Any], device: torch.device | str, dtype: torch.dtype) -> Any:
    with quiet(), _made_on(device, dtype):
        return make().to(dtype).requires_grad_(False).eval()


def _autoencoder(
    config: Mapping[str, Any], device: torch.device | str, dtype: torch.dtype, own: torch.dtype | None
) -> Any:
    from diffusers import AutoencoderKL

    vae = _frozen(lambda: AutoencoderKL.from_config(dict(config)), device, torch.float32)
    with quiet():
        return vae.to(type_of_vae(vae.config, dtype, own))


def untrained(
    configs: Mapping[str, Mapping[str, Any]],
    tokenizers: Mapping[str, Any],
    scheduler: Any,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    vae_dtype: torch.dtype | None = None,
    **options: Any,
) -> TextToImage:
    """Reference and one-step generator of these configurations, frozen, with the weights that their classes begin with.

    Args:
        configs: by part, as SDXL; keys that are left out are at their classes' defaults.
        tokenizers: "tokenizer" and "tokenizer_2".
        device: where they are made; on the meta device they have no weights.
        dtype, vae_dtype: in which the networks compute, as in load_pipeline.
        options: of TextToImage.

    Raises:
        ValueError: as type_of_vae and TextToImage.
    """
    with quiet():
        from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    def text(part: str, kind: Any) -> Any:
        return _frozen(lambda: kind(CLIPTextConfig.from_dict(dict(configs[part]))), device, dtype)

    unet, start = (
        _frozen(lambda: UNet2DConditionModel.from_config(dict(configs["unet"])), device, dtype) for _ in range(2)
    )
    parts = {
        "vae": _autoencoder(configs["vae"], device, dtype, vae_dtype),
        "text_encoder": text("text_encoder", CLIPTextModel),
        "text_encoder_2": text("text_encoder_2", CLIPTextModelWithProjection),
    }
    with quiet():
        pipeline = StableDiffusionXLPipeline(
            unet=unet, **parts, **tokenizers, scheduler=scheduler, add_watermarker=False
        )
    return TextToImage(pipeline, start, **options)


def described_on_meta(found: DescribedPipeline, **options: Any) -> TextToImage:
    """The shapes of a pipeline, before its weights are there; as `untrained`."""
    types = {"dtype": found.dtype, "vae_dtype": found.types["vae"]}
    return untrained(found.configs, found.tokenizers, found.scheduler, device="meta", **types, **options)


def untrained_sdxl(
    device: torch.device | str,
    dtype: torch.dtype = torch.bfloat16,
    *,
    vae_dtype: torch.dtype | None = None,
    **options: Any,
) -> TextToImage:
    """SDXL in true size with nothing downloaded; its tokenizer knows letters alone. As `untrained`."""
    with quiet():
        from diffusers import EulerDiscreteScheduler

    tokenizer = make_tokenizer(())
    tokenizer.model_max_length = TOKENS
    scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    tokenizers = {"tokenizer": tokenizer, "tokenizer_2": tokenizer}
    return untrained(SDXL, tokenizers, scheduler, device=device, dtype=dtype, vae_dtype=vae_dtype, **options)


def sdxl_on_meta(dtype: torch.dtype = torch.bfloat16, **options: Any) -> TextToImage:
    """The shapes of SDXL; as `untrained_sdxl`."""
    return untrained_sdxl("meta", dtype, **options)


def untrained_flux(
    configs: Mapping[str, Mapping[str, Any]] = FLUX_DEV,
    *,
    device: torch.device | str,
    dtype: torch.dtype = torch.bfloat16,
) -> FluxPipeline:
    """A FLUX pipeline with nothing downloaded, frozen, without tokenizers: it takes embedded prompts.

    Args:
        configs: by part, as FLUX_DEV.
        device, dtype: as in `untrained`.
    """
    with quiet():
        from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
        from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    makers: dict[str, Callable[[], Any]] = {
        "transformer": lambda: FluxTransformer2DModel.from_config(dict(configs["transformer"])),
        "text_encoder": lambda: CLIPTextModel(CLIPTextConfig.from_dict(dict(configs["text_encoder"]))),
        "text_encoder_2": lambda: T5EncoderModel(T5Config.from_dict(dict(configs["text_encoder_2"]))),
    }
    parts = {name: _frozen(make, device, dtype) for name, make in makers.items()}
    with quiet():
        return FluxPipeline(
            vae=_autoencoder(configs["vae"], device, dtype, dtype),
            tokenizer=None,
            tokenizer_2=None,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
            **parts,
        )
