"""From words to what an SDXL UNet is conditioned on: two CLIP text encoders, their penultimate states and one pooled
embedding. The null condition is both embeddings at zero.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..recipes import read_text


def read_prompts(path: Path) -> list[str]:
    """The prompts in a text file, one a line; blank lines are left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no prompt, or no UTF-8 text.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no prompt file {path}; name a text file with one prompt a line")
    prompts = [line.strip() for line in read_text(path).split("\n") if line.strip()]
    if not prompts:
        raise ValueError(f"prompt file {path} is empty; write one prompt a line")
    return prompts


def check_prompts(prompts: Sequence[str]) -> None:
    """Raise ValueError for no prompts at all, or an empty one."""
    if not prompts:
        raise ValueError("there are no prompts; give at least one, or a file with one a line")
    for place, prompt in enumerate(prompts):
        if not prompt.strip():
            raise ValueError(f"prompt {place} is empty; leave it out, or use None for the null condition")


class Prompt(NamedTuple):
    """Embedded prompts: text [B, tokens, width] of both encoders side by side, pooled [B, width] of the second.

    Attributes:
        words: the prompts themselves, for rewards that read them; may be empty where no reward does.
    """

    text: Tensor
    pooled: Tensor
    words: tuple[str, ...] = ()

    def rows(self, index: Tensor) -> Prompt:
        """The prompts at these places, [N]."""
        words = tuple(self.words[place] for place in index.tolist()) if self.words else ()
        return Prompt(self.text[index], self.pooled[index], words)


def embed(encoders: Sequence[nn.Module], ids: Sequence[Tensor]) -> Prompt:
    """Embed token ids [B, tokens], one tensor an encoder: penultimate hidden states, and the last encoder's projection."""
    outputs = [encoder(own, output_hidden_states=True) for encoder, own in zip(encoders, ids, strict=True)]
    return Prompt(torch.cat([output.hidden_states[-2] for output in outputs], -1), outputs[-1].text_embeds)


class PromptEncoder:
    """Prompts as SDXL's pipeline embeds them, each embedded once and kept.

    Args:
        tokenizers, encoders: the pipeline's two tokenizers and text encoders, in its order.
        vocabulary: the words that the model has seen, where that is known; others are warned about.
    """

    def __init__(
        self, tokenizers: Sequence[Any], encoders: Sequence[nn.Module], vocabulary: Collection[str] = ()
    ) -> None:
        self.tokenizers = tokenizers
        self.encoders = encoders
        self.vocabulary = frozenset(vocabulary)
        self._known: dict[str, tuple[Tensor, Tensor]] = {}

    @classmethod
    def of(cls, pipeline: Any, vocabulary: Collection[str] = ()) -> PromptEncoder:
        """The prompt encoder of a StableDiffusionXLPipeline."""
        return cls(
            (pipeline.tokenizer, pipeline.tokenizer_2), (pipeline.text_encoder, pipeline.text_encoder_2), vocabulary
        )

    def tokens(self, prompts: Sequence[str]) -> list[Tensor]:
        """Token ids [B, tokens] for each encoder.

        Raises:
            ValueError: for no prompts at all, or an empty one.

        Warns:
            UserWarning: once for each call with prompts over the token limit, which are cut, with their number; and once
                for each call with words outside the vocabulary.
        """
        check_prompts(prompts)
        limit = self.tokenizers[0].model_max_length
        too_long = [p for p in prompts if len(self.tokenizers[0](p).input_ids) > limit]
        if too_long:
            warnings.warn(
                f"{len(too_long)} of {len(prompts)} prompts have more than {limit} tokens and are cut, the first: "
                f"{too_long[0]!r}",
                stacklevel=3,
            )
        unknown = [word for prompt in prompts for word in prompt.lower().split() if word not in self.vocabulary]
        if self.vocabulary and unknown:
            warnings.warn(
                f"the model has never seen {', '.join(map(repr, dict.fromkeys(unknown)))}; it knows "
                f"{', '.join(sorted(self.vocabulary))}",
                stacklevel=3,
            )
        return [
            tokenizer(
                list(prompts), padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
            ).input_ids
            for tokenizer in self.tokenizers
        ]

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Prompt:
        """Embed prompts; raises as `tokens`."""
        check_prompts(prompts)
        fresh = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        if fresh:
            device = next(self.encoders[0].parameters()).device
            found = embed(self.encoders, [ids.to(device) for ids in self.tokens(fresh)])
            self._known |= dict(zip(fresh, zip(found.text, found.pooled, strict=True), strict=True))
        texts, pooled = zip(*(self._known[prompt] for prompt in prompts), strict=True)
        return Prompt(torch.stack(texts), torch.stack(pooled), tuple(prompts))


class PromptedUNet(nn.Module):
    """A diffusers UNet with SDXL's conditioning as the core's network (x_t, t, condition) -> prediction.

    The time ids, original size, crop and target size, are those of an uncropped picture, the same for every prompt.

    Args:
        unet: a UNet2DConditionModel with `text_time` conditioning.
        pixels: height and width of the pictures.
        tokens: length of the null condition's text.
    """

    def __init__(self, unet: Any, *, pixels: int, tokens: int) -> None:
        super().__init__()
        self.unet: Any = unet
        self.pixels = pixels
        self.tokens = tokens

    def null(self, like: Tensor) -> Prompt:
        """The null condition for a batch like `like` [B, ...]: zeros."""
        config = self.unet.config
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        return Prompt(
            like.new_zeros(len(like), self.tokens, config.cross_attention_dim),
            like.new_zeros(len(like), pooled),
        )

    def forward(self, x_t: Tensor, t: Tensor, condition: Prompt | None) -> Tensor:
        prompt = self.null(x_t) if condition is None else condition
        time_ids = x_t.new_tensor([self.pixels, self.pixels, 0, 0, self.pixels, self.pixels]).expand(len(x_t), 6)
        extra = {"text_embeds": prompt.pooled, "time_ids": time_ids}
        return self.unet(x_t, t, encoder_hidden_states=prompt.text, added_cond_kwargs=extra, return_dict=False)[0]
