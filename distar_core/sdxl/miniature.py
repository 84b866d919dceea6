"""SDXL's components in small: genuine diffusers and transformers classes with few weights, put together offline."""

from __future__ import annotations

import string
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

START, END = "<|startoftext|>", "<|endoftext|>"
TOKENS = 16
TEXT_WIDTH = 64
VAE_WIDTHS = (16, 32, 64)
UNET_WIDTHS = (32, 64)


def make_tokenizer(words: Sequence[str]) -> Any:
    """A CLIP tokenizer that knows these lower-case words as one token each, and single letters.

    The merges are built by playing byte-pair encoding: each word is split by the merges so far, and what is left is
    merged from its front. Merges made for later words come later in the list, so they leave earlier words as they are.
    END has the largest id, since a CLIP text encoder pools at the largest.
    """
    from transformers import CLIPTokenizer

    merges: list[tuple[str, str]] = []

    def split(word: str) -> list[str]:
        parts = [*word[:-1], word[-1] + "</w>"]
        while known := [pair for pair in pairwise(parts) if pair in merges]:
            first = min(known, key=merges.index)
            joined: list[str] = []
            while parts:
                if tuple(parts[:2]) == first:
                    joined.append(parts.pop(0) + parts.pop(0))
                else:
                    joined.append(parts.pop(0))
            parts = joined
        return parts

    for word in words:
        while len(parts := split(word)) > 1:
            merges.append((parts[0], parts[1]))
    letters = [letter + end for letter in string.ascii_lowercase for end in ("", "</w>")]
    entries = dict.fromkeys([*letters, *("".join(pair) for pair in merges), START, END])
    vocabulary = {token: place for place, token in enumerate(entries)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)


def make_pipeline(words: Sequence[str], *, pixels: int = 32) -> StableDiffusionXLPipeline:
    """An untrained StableDiffusionXLPipeline of 2.1 million weights for a language of these words.

    Weights come from torch's global source. The unconditional prompt is zeros, as in SDXL.
    """
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = make_tokenizer(words)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(VAE_WIDTHS),
        up_block_types=("UpDecoderBlock2D",) * len(VAE_WIDTHS),
        block_out_channels=VAE_WIDTHS,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=pixels,
    )
    time_width = 8
    unet = UNet2DConditionModel(
        sample_size=pixels // 2 ** (len(VAE_WIDTHS) - 1),
        down_block_types=("CrossAttnDownBlock2D",) * len(UNET_WIDTHS),
        up_block_types=("CrossAttnUpBlock2D",) * len(UNET_WIDTHS),
        block_out_channels=UNET_WIDTHS,
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=2 * TEXT_WIDTH,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=time_width,
        projection_class_embeddings_input_dim=6 * time_width + TEXT_WIDTH,
    )
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
    )
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
    )
