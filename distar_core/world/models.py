"""The trained world: a text-to-image diffusion on SDXL's classes and the one-step generator distilled from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..doctor import missing_packages
from ..roles import NetworkScore, OneStep
from ..schedule import scaled_linear_schedule
from ..sdxl import T_STAR
from ..sdxl.export import one_step_pipeline
from ..sdxl.latents import decode, encode
from ..sdxl.loading import load_pipeline, quiet, reading
from ..sdxl.prompts import Prompt, PromptedUNet, PromptEncoder
from .scenes import WORDS

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

SCHEDULE = scaled_linear_schedule()
SHIPPED = Path(__file__).parent / "weights"
STEPS, GUIDANCE_SCALE = 20, 2.0
ROWS_AT_ONCE = 250


@dataclass(frozen=True)
class World:
    """The world's models, frozen.

    Attributes:
        pipeline: the reference, as diffusers knows it.
        unet: the one-step generator's network, of the reference's kind.
    """

    pipeline: StableDiffusionXLPipeline
    unet: Any

    @cached_property
    def encoder(self) -> PromptEncoder:
        """Prompts to conditions; words outside the world's language are warned about."""
        return PromptEncoder.of(self.pipeline, WORDS)

    @property
    def pixels(self) -> int:
        """Height and width of the pictures."""
        return self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a latent."""
        config = self.pipeline.unet.config
        return (config.in_channels, config.sample_size, config.sample_size)

    def prompted(self, unet: Any) -> PromptedUNet:
        """A UNet of the world's kind as the core's network."""
        return PromptedUNet(unet, pixels=self.pixels, tokens=self.pipeline.tokenizer.model_max_length)

    def reference(self) -> NetworkScore:
        """The reference's score."""
        return NetworkScore(self.prompted(self.pipeline.unet), SCHEDULE, "eps")

    def generator(self, unet: Any = None) -> OneStep:
        """The one-step generator, with another network if one is given."""
        return OneStep(self.prompted(unet or self.unet), SCHEDULE, "eps", T_STAR, self.latent_shape)

    def one_step_pipeline(self, unet: Any = None) -> StableDiffusionXLPipeline:
        """diffusers' pipeline around the one-step generator, or another network of its kind; see sdxl.export."""
        return one_step_pipeline(self.pipeline, unet or self.unet)

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """Unit noise [B, C, h, w], one seed a row, whatever the batch."""
        return torch.stack([torch.randn(self.latent_shape, generator=torch.Generator().manual_seed(s)) for s in seeds])

    def _inputs(self, prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[Tensor, Prompt]]:
        """Noise and embedded prompts, ROWS_AT_ONCE rows at a time. Raises ValueError unless there is one seed a prompt."""
        if isinstance(prompts, str) or isinstance(seeds, int):
            raise TypeError("prompts and seeds are lists; put a single one in brackets")
        if len(prompts) != len(seeds):
            raise ValueError(f"there are {len(prompts)} prompts but {len(seeds)} seeds; give one seed a prompt")
        for start in range(0, len(prompts), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            yield self.noise(seeds[rows]), self.encoder(prompts[rows])

    @torch.no_grad()
    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        generator: Callable[[Tensor, Prompt], Tensor] | None = None,
    ) -> Tensor:
        """One-step pictures [B, 3, H, W] in [0, 1], one prompt and one seed a row.

        Args:
            generator: (z, prompt) -> latents; the world's own by default.

        Raises:
            ValueError: unless there is one seed a prompt.
        """
        draw = generator or self.generator()
        return self.pictures(torch.cat([draw(z, prompt) for z, prompt in self._inputs(prompts, seeds)]))

    @torch.no_grad()
    def draw_reference(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        guidance_scale: float = GUIDANCE_SCALE,
        steps: int = STEPS,
    ) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1] from the diffusion, by diffusers' own pipeline and scheduler.

        Args:
            guidance_scale: in diffusers' spelling, s_null + w (s_c − s_null).

        Raises:
            ValueError: unless there is one seed a prompt.
        """
        self.pipeline.set_progress_bar_config(disable=True)
        pictures = []
        for z, prompt in self._inputs(prompts, seeds):
            latents = self.pipeline(
                prompt_embeds=prompt.text,
                pooled_prompt_embeds=prompt.pooled,
                latents=z,
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                output_type="latent",
            ).images
            pictures.append(self.pictures(latents))
        return torch.cat(pictures)

    @torch.no_grad()
    def reconstructed(self, pictures: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1] through the autoencoder."""
        return self.pictures(torch.cat([encode(self.pipeline.vae, part) for part in pictures.split(ROWS_AT_ONCE)]))

    @torch.no_grad()
    def pictures(self, latents: Tensor) -> Tensor:
        """Decoded latents, clamped to [0, 1]."""
        return torch.cat([decode(self.pipeline.vae, part).clamp(0, 1) for part in latents.split(ROWS_AT_ONCE)])


def load_world(folder: Path | str = SHIPPED) -> World:
    """The world in a folder of weights, the shipped one by default; single precision, on the CPU.

    Raises:
        FileNotFoundError: if a part is missing; the message names it.
        ValueError: if a file is damaged.
        ModuleNotFoundError: if the extra “models” is not installed.
    """
    if missing := missing_packages("models"):
        raise ModuleNotFoundError(missing)
    folder = Path(folder)
    if not (folder / "generator" / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} has no generator/config.json; name a folder of weights, or make one with: distar world build FOLDER"
        )
    pipeline = load_pipeline(folder / "reference")
    with quiet(), reading(folder / "generator"):
        from diffusers import UNet2DConditionModel

        unet = UNet2DConditionModel.from_pretrained(folder / "generator").float()
    return World(pipeline, unet.requires_grad_(False).eval())
