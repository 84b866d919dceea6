"""Between pictures in [0, 1] and the latents that SDXL's UNet sees, for any AutoencoderKL."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from .adapters import tied_clone


def _mean_and_std(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation by channel that the VAE's configuration gives its latents, as SDXL's pipeline reads them."""
    config = vae.config

    def by_channel(values: list[float] | None, otherwise: float) -> Tensor:
        # made on the device: a copy from the host would make every step of a run wait
        each = [otherwise] * config.latent_channels if values is None else values
        return torch.cat([like.new_full((1, 1, 1, 1), value) for value in each], 1)

    return by_channel(config.latents_mean, 0.0), by_channel(config.latents_std, 1.0) / config.scaling_factor


def encode(vae: Any, pictures: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] in [0, 1] -> latents [B, C, h, w], the mean of the posterior, normalised.

    The network computes in its own type; the result is at least float32, and float64 stays float64.
    """
    outside = torch.promote_types(pictures.dtype, torch.float32)
    latents = vae.encode((2 * pictures - 1).to(vae.dtype)).latent_dist.mean.to(outside)
    mean, std = _mean_and_std(vae, latents)
    return (latents - mean) / std


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Latents [B, C, h, w] -> pictures [B, 3, H, W], in [0, 1] but for overshoots, which are left to the caller.

    The network computes in its own type; the result is at least float32, and float64 stays float64.
    """
    latents = latents.to(torch.promote_types(latents.dtype, torch.float32))
    mean, std = _mean_and_std(vae, latents)
    return vae.decode((latents * std + mean).to(vae.dtype)).sample.to(latents.dtype) / 2 + 0.5


def checkpointed(vae: Any) -> Any:
    """The same autoencoder over the same tensors, whose decoder keeps no activations within its residual, attention and
    upsampling blocks: the backward pass computes each block again. Gradients are the same to the last bit.

    diffusers' own checkpointing is by groups of three such blocks, of which the largest decides the memory.
    """
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.upsampling import Upsample2D
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
        apply_activation_checkpointing,
        checkpoint_wrapper,
    )

    twin = tied_clone(vae)
    # nothing is drawn inside, and to save the state of a device's random source is to wait for the device
    wrapper = partial(checkpoint_wrapper, preserve_rng_state=False)
    blocks = (ResnetBlock2D, Upsample2D, Attention)
    apply_activation_checkpointing(twin.decoder, wrapper, check_fn=lambda layer: isinstance(layer, blocks))
    return twin
