"""Between pictures in [0, 1] and the latents that SDXL's UNet sees, for any AutoencoderKL."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _mean_and_std(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation by channel that the VAE's configuration gives its latents, as SDXL's pipeline reads them."""
    config = vae.config

    def by_channel(values: list[float] | None, otherwise: float) -> Tensor:
        if values is None:  # made on the device: a copy from the host would make every step of a run wait
            return like.new_full((1, config.latent_channels, 1, 1), otherwise)
        return torch.as_tensor(values).to(like).view(1, -1, 1, 1)

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
