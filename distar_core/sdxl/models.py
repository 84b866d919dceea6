"""A text-to-image diffusion on SDXL's classes, of any size, and a one-step generator of its kind."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..roles import NetworkScore, OneStep
from . import T_STAR
from .export import one_step_pipeline
from .latents import decode, encode
from .loading import (
    check_configs,
    check_same_diffusion,
    configs_of,
    diffusion_of,
    find_pipeline,
    find_unet,
)
from .prompts import Prompt, PromptedUNet, PromptEncoder

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline


class TextToImage:
    """A StableDiffusionXLPipeline as the reference, and a one-step generator's UNet, as the core's roles and as who draws.

    Args:
        pipeline: the reference, as diffusers knows it.
        unet: the one-step generator's network, of the reference's kind; None where there is none yet.
        pixels: height and width of the pictures; the pipeline's own by default.
        vocabulary: the words that the model has seen, where that is known; others are warned about.
        steps, guidance_scale: of the reference's drawing by default, in diffusers' spelling.
        rows_at_once: pictures that are drawn, encoded or decoded together; more take more memory.

    Attributes:
        schedule, prediction: the noise schedule and what the UNets predict, as the pipeline's scheduler says.
        latent_shape: channels, height and width of a latent.

    Raises:
        ValueError: if the pipeline or the generator cannot be honoured, or pixels do not fit its autoencoder.
    """

    def __init__(
        self,
        pipeline: StableDiffusionXLPipeline,
        unet: Any = None,
        *,
        pixels: int | None = None,
        vocabulary: Collection[str] = (),
        steps: int = 50,
        guidance_scale: float = 5.0,
        rows_at_once: int = 1,
    ) -> None:
        configs = configs_of(pipeline)
        check_configs(configs, "the pipeline")
        if unet is not None:
            check_configs({**configs, "unet": unet.config}, "the generator")
        self.pipeline = pipeline
        self.unet = unet
        self.schedule, self.prediction = diffusion_of(pipeline.scheduler)
        factor = pipeline.vae_scale_factor
        self.pixels = configs["unet"]["sample_size"] * factor if pixels is None else pixels
        if self.pixels < 1 or self.pixels % factor:
            raise ValueError(f"pixels is {self.pixels}; choose a multiple of {factor}, the autoencoder's step")
        side = self.pixels // factor
        self.latent_shape: tuple[int, int, int] = (configs["vae"]["latent_channels"], side, side)
        self.vocabulary = vocabulary
        self.steps, self.guidance_scale = steps, guidance_scale
        self.rows_at_once = rows_at_once

    @property
    def device(self) -> torch.device:
        """Where the pipeline's networks are."""
        return self.pipeline.unet.device

    @cached_property
    def encoder(self) -> PromptEncoder:
        """Prompts to conditions; words outside the vocabulary are warned about."""
        return PromptEncoder.of(self.pipeline, self.vocabulary)

    @cached_property
    def _empty(self) -> Prompt | None:
        """The null condition, or None for zeros, as the pipeline draws without a negative prompt."""
        return None if self.pipeline.config.force_zeros_for_empty_prompt else self.encoder.empty()

    def prompted(self, unet: Any) -> PromptedUNet:
        """A UNet of the reference's kind as the core's network."""
        tokens = self.pipeline.tokenizer.model_max_length
        return PromptedUNet(unet, pixels=self.pixels, tokens=tokens, empty=self._empty)

    def score(self, unet: Any) -> NetworkScore:
        """The score of a UNet of the reference's kind."""
        return NetworkScore(self.prompted(unet), self.schedule, self.prediction)

    def reference(self) -> NetworkScore:
        """The reference's score."""
        return self.score(self.pipeline.unet)

    def generator(self, unet: Any = None) -> OneStep:
        """The one-step generator, with another network if one is given.

        Raises:
            ValueError: if there is no network, or the noise schedule ends before the generator's time, 399.
        """
        unet = self.unet if unet is None else unet
        if unet is None:
            raise ValueError("there is no one-step generator; give a UNet, such as a copy of the reference's")
        self.schedule.check(torch.tensor(T_STAR))
        return OneStep(self.prompted(unet), self.schedule, self.prediction, T_STAR, self.latent_shape)

    def one_step_pipeline(self, unet: Any = None) -> StableDiffusionXLPipeline:
        """diffusers' pipeline around the one-step generator, or another network of its kind; see sdxl.export."""
        return one_step_pipeline(self.pipeline, self.unet if unet is None else unet)

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """Unit noise [B, C, h, w], one seed per row, the same whatever the batch and the device."""
        rows = [torch.randn(self.latent_shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(rows).to(self.device)

    def _inputs(self, prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[Tensor, Prompt]]:
        """Noise and embedded prompts, some rows at a time. Raises ValueError unless there is one seed per prompt."""
        if isinstance(prompts, str) or isinstance(seeds, int):
            raise TypeError("prompts and seeds are lists; put a single one in brackets")
        if len(prompts) != len(seeds):
            raise ValueError(f"there are {len(prompts)} prompts but {len(seeds)} seeds; give one seed per prompt")
        for start in range(0, len(prompts), self.rows_at_once):
            rows = slice(start, start + self.rows_at_once)
            yield self.noise(seeds[rows]), self.encoder(prompts[rows])

    @torch.no_grad()
    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        generator: Callable[[Tensor, Prompt], Tensor] | None = None,
    ) -> Tensor:
        """One-step pictures [B, 3, H, W] in [0, 1], one prompt and one seed per row.

        Args:
            generator: (z, prompt) -> latents; the model's own by default.

        Raises:
            ValueError: unless there is one seed per prompt.
        """
        draw = generator or self.generator()
        return self.pictures(torch.cat([draw(z, prompt) for z, prompt in self._inputs(prompts, seeds)]))

    @torch.no_grad()
    def draw_from(
        self,
        prompts: Sequence[str],
        z: Tensor,
        generator: Callable[[Tensor, Prompt], Tensor] | None = None,
    ) -> Tensor:
        """As `draw`, from noise z [B, C, h, w], one prompt per row."""
        return self.pictures((generator or self.generator())(z, self.encoder(prompts)))

    @torch.no_grad()
    def draw_reference(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        guidance_scale: float | None = None,
        steps: int | None = None,
    ) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1] from the diffusion, by diffusers' own pipeline and scheduler.

        Args:
            guidance_scale: in diffusers' spelling, s_null + w (s_c − s_null), 1 or more; the model's by default, as are steps.

        Raises:
            ValueError: unless there is one seed per prompt; for a guidance_scale below 1, which diffusers takes for 1.
        """
        if guidance_scale is not None and not guidance_scale >= 1:
            raise ValueError(f"guidance_scale must be at least 1, got {guidance_scale}; 1 is no guidance")
        self.pipeline.set_progress_bar_config(disable=True)
        pictures = []
        for z, prompt in self._inputs(prompts, seeds):
            latents = self.pipeline(
                prompt_embeds=prompt.text,
                pooled_prompt_embeds=prompt.pooled,
                latents=z.to(self.pipeline.unet.dtype),
                height=self.pixels,
                width=self.pixels,
                num_inference_steps=self.steps if steps is None else steps,
                guidance_scale=self.guidance_scale if guidance_scale is None else guidance_scale,
                output_type="latent",
            ).images
            pictures.append(self.pictures(latents))
        return torch.cat(pictures)

    @torch.no_grad()
    def reconstructed(self, pictures: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1] through the autoencoder."""
        return self.pictures(torch.cat([encode(self.pipeline.vae, part) for part in pictures.split(self.rows_at_once)]))

    @torch.no_grad()
    def pictures(self, latents: Tensor) -> Tensor:
        """Decoded latents, clamped to [0, 1]."""
        return torch.cat([decode(self.pipeline.vae, part).clamp(0, 1) for part in latents.split(self.rows_at_once)])


def load_text_to_image(
    source: Path | str,
    *,
    generator: Path | str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    variant: str | None = None,
    vae: Path | str | None = None,
    vae_dtype: torch.dtype | None = None,
    generator_device: torch.device | str | None = None,
    **options: Any,
) -> TextToImage:
    """The TextToImage of a pipeline folder or of a model on the hub, all of it frozen; generator and reference are both looked
    at before either is read.

    Args:
        source, dtype, device, variant, vae, vae_dtype: as in load_pipeline.
        generator: the one-step generator's weights as `load_unet` takes them; a bare file has the reference's kind of
            network, and a pipeline folder must state the reference's diffusion.
        generator_device: where the generator's weights go, which can draw only beside the others; device by default.
        options: of TextToImage.

    Raises:
        FileNotFoundError, ValueError: as load_pipeline, check_same_diffusion, load_unet and TextToImage.
    """
    reference = find_pipeline(source, dtype=dtype, variant=variant, vae=vae, vae_dtype=vae_dtype)
    if generator is None:
        return TextToImage(reference.load(device), **options)
    start = find_unet(generator, config_of=reference.folder)
    check_configs({**reference.configs, "unet": start.network.config}, "the generator")
    if start.pipeline is not None:
        check_same_diffusion(reference.scheduler, start.pipeline)
    return TextToImage(reference.load(device), start.load(dtype, generator_device or device), **options)
