"""From words to what an SDXL UNet is conditioned on: two CLIP text encoders, their penultimate states and one pooled
embedding. The null condition is both embeddings at zero, or the empty prompt's, as the pipeline says.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..runs.folders import replacing
from ..runs.weights import reading
from .export import fingerprint

HELD = 2**28
"""How many bytes of embeddings Prompts holds in memory; more prompts are embedded when they are asked for."""
CACHEABLE = 20_000
"""How many prompts a cache file may have: 6.4 GB for SDXL in half precision."""
KEPT = 512
"""How many prompts' embeddings a PromptEncoder keeps, the latest: 163 MB for SDXL in single precision."""
AT_ONCE = 64
"""How many prompts are embedded at once, which bounds the memory that the text encoders take."""


def check_prompts(prompts: Sequence[str]) -> None:
    """Raise ValueError for no prompts at all, or an empty one."""
    if not prompts:
        raise ValueError("there are no prompts; give at least one, or a file with one per line")
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
    """Prompts as SDXL's pipeline embeds them, 64 at a time; the latest 512 are kept.

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
        self.look_over(prompts)
        return self._ids(prompts)

    def look_over(self, prompts: Sequence[str]) -> None:
        """Warn of prompts as `tokens` does, without embedding any."""
        limit = self.tokenizers[0].model_max_length
        parts = (prompts[start : start + 1024] for start in range(0, len(prompts), 1024))
        lengths = [len(ids) for part in parts for ids in self.tokenizers[0](list(part)).input_ids]
        too_long = [prompt for prompt, length in zip(prompts, lengths, strict=True) if length > limit]
        if too_long:
            warnings.warn(
                f"{len(too_long)} of {len(prompts)} prompts have more than {limit} tokens and are cut, the first: "
                f"{too_long[0]!r}",
                stacklevel=4,
            )
        unknown = [word for prompt in prompts for word in prompt.lower().split() if word not in self.vocabulary]
        if self.vocabulary and unknown:
            warnings.warn(
                f"the model has never seen {', '.join(map(repr, dict.fromkeys(unknown)))}; it knows "
                f"{', '.join(sorted(self.vocabulary))}",
                stacklevel=4,
            )

    def _ids(self, prompts: Sequence[str]) -> list[Tensor]:
        """Token ids [B, tokens] for each encoder, padded and cut to the token limit."""
        limit = self.tokenizers[0].model_max_length
        return [
            tokenizer(
                list(prompts), padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
            ).input_ids
            for tokenizer in self.tokenizers
        ]

    def _embed(self, ids: Sequence[Tensor]) -> Prompt:
        device = next(self.encoders[0].parameters()).device
        return embed(self.encoders, [own.to(device) for own in ids])

    @torch.no_grad()
    def empty(self) -> Prompt:
        """The embedded empty prompt, [1, tokens, width] and [1, width]: the null condition of some pipelines."""
        return self._embed(self._ids([""]))

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Prompt:
        """Embed prompts that were looked over, AT_ONCE at a time, and keep none.

        What comes back depends on these prompts alone, to the last bit, so that a resumed run gets what it would have got; what
        a call keeps was embedded beside others, and is the same up to rounding.
        """
        parts = [self._embed(self._ids(prompts[start : start + AT_ONCE])) for start in range(0, len(prompts), AT_ONCE)]
        text, pooled = (torch.cat(rows) if len(rows) > 1 else rows[0] for rows in list(zip(*parts, strict=True))[:2])
        return Prompt(text, pooled, tuple(prompts))

    def identity(self) -> str:
        """Which embeddings these are: a fingerprint of encoders and tokenizers, to the last digit."""
        found = hashlib.blake2b(digest_size=8)
        for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True):
            words = tokenizer.backend_tokenizer.to_str()
            kept = (
                f"{fingerprint(encoder, torch.float32)} {next(encoder.parameters()).dtype} {tokenizer.model_max_length}"
            )
            found.update(f"{words} {tokenizer.pad_token_id} {kept} ".encode())
        return found.hexdigest()

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Prompt:
        """Embed prompts; raises as `tokens`."""
        check_prompts(prompts)
        wanted = list(dict.fromkeys(prompts))
        found = {prompt: self._known.pop(prompt) for prompt in wanted if prompt in self._known}
        fresh = [prompt for prompt in wanted if prompt not in found]
        ids = self.tokens(fresh) if fresh else []
        for start in range(0, len(fresh), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            embedded = self._embed([own[part] for own in ids])
            # copies: a row would hold on to the batch that it was embedded in
            rows = [(text.clone(), pooled.clone()) for text, pooled in zip(embedded.text, embedded.pooled, strict=True)]
            found |= dict(zip(fresh[part], rows, strict=True))
        self._known |= found
        for oldest in list(self._known)[: len(self._known) - KEPT]:
            del self._known[oldest]
        texts, pooled = zip(*(found[prompt] for prompt in prompts), strict=True)
        return Prompt(torch.stack(texts), torch.stack(pooled), tuple(prompts))


class Prompts:
    """The prompts of a run by number, embedded: in memory at once where that takes at most HELD bytes, from a cache file where
    one is named, and else when they are asked for, by encoders that stay where they are. Memory does not grow with use.

    Args:
        encoder: which embeds them.
        texts: the prompts; looked over once, so each is warned about once.
        cache: a .safetensors file with their embeddings, written if there is none, and read row by row.

    Raises:
        ValueError: for no prompts, an empty one, or more than CACHEABLE of them with a cache.
        FileExistsError: if the cache is of other prompts or encoders.
        OSError: if the disk has no room for the cache.

    Warns:
        UserWarning: as PromptEncoder.tokens.
    """

    def __init__(self, encoder: PromptEncoder, texts: Sequence[str], cache: Path | str | None = None) -> None:
        check_prompts(texts)
        if cache is not None and len(texts) > CACHEABLE:
            raise ValueError(
                f"a cache of {len(texts)} prompts is larger than {CACHEABLE} make it; leave it out, and they are embedded as "
                "they are drawn, which takes a thousandth of a step"
            )
        self.encoder, self.texts = encoder, texts
        self._held: Prompt | None = None
        self._cache: _Cache | None = None
        if cache is not None:
            encoder.look_over(texts)
            self._cache = _Cache(Path(cache), encoder, texts)
        elif _size(encoder.embed(texts[:1])) * len(texts) <= HELD:
            self._held = encoder(texts)
        else:
            encoder.look_over(texts)

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self, index: Tensor) -> Prompt:
        """The prompts with these numbers, [N], embedded; a function of the numbers alone."""
        if self._held is not None:
            return self._held.rows(index)
        words = [self.texts[place] for place in index.tolist()]
        return self.encoder.embed(words) if self._cache is None else self._cache.rows(index, words)


def _size(one: Prompt) -> int:
    return one.text.nbytes + one.pooled.nbytes


class _Cache:
    """Embeddings in a .safetensors file with the tensors text [N, tokens, width] and pooled [N, width]."""

    def __init__(self, path: Path, encoder: PromptEncoder, texts: Sequence[str]) -> None:
        listed = hashlib.blake2b("\n".join(texts).encode(), digest_size=8).hexdigest()
        identity = {"distar_core.prompts": f"{len(texts)} {listed} {encoder.identity()}"}
        if not path.is_file():
            _write_cache(path, encoder, texts, identity)
        with reading(path):
            self._file = safe_open(path, framework="pt")
        if dict(self._file.metadata() or {}) != identity:
            raise FileExistsError(
                f"{path} is no cache of these prompts and text encoders; name another file, or delete it"
            )
        self._text, self._pooled = (self._file.get_slice(name) for name in ("text", "pooled"))
        self._device = next(encoder.encoders[0].parameters()).device

    def rows(self, index: Tensor, words: Sequence[str]) -> Prompt:
        """The rows of the file with these numbers."""
        text, pooled = (
            torch.cat([part[place : place + 1] for place in index.tolist()]).to(self._device)
            for part in (self._text, self._pooled)
        )
        return Prompt(text, pooled, tuple(words))


def _write_cache(path: Path, encoder: PromptEncoder, texts: Sequence[str], identity: dict[str, str]) -> None:
    """Embed prompts and write them as they come, so that only AT_ONCE are in memory; all or nothing.

    safetensors itself writes a file from whole tensors. Its format is the length of a header, the header in JSON, the bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    first = encoder.embed(texts[:1])
    if (needed := _size(first) * len(texts)) > (free := shutil.disk_usage(path.parent).free):
        raise OSError(
            f"prompt cache {path} takes {needed / 1e9:.1f} GB, but the disk has {free / 1e9:.1f} GB left; name a place on another"
        )
    kind = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}[first.text.dtype]
    header: dict[str, Any] = {"__metadata__": identity}
    end = 0
    for name, one in (("text", first.text), ("pooled", first.pooled)):
        start, end = end, end + one.nbytes * len(texts)
        header[name] = {"dtype": kind, "shape": [len(texts), *one.shape[1:]], "data_offsets": [start, end]}
    told = json.dumps(header).encode()
    told += b" " * (-len(told) % 8)
    with replacing(path) as partial, open(partial, "wb") as file:
        file.write(len(told).to_bytes(8, "little") + told)
        begin = file.tell()
        for start in range(0, len(texts), AT_ONCE):
            part = encoder.embed(texts[start : start + AT_ONCE])
            for name, rows, one in (("text", part.text, first.text), ("pooled", part.pooled, first.pooled)):
                file.seek(begin + header[name]["data_offsets"][0] + start * one.nbytes)
                file.write(rows.cpu().contiguous().view(torch.uint8).numpy().data)


class PromptedUNet(nn.Module):
    """A diffusers UNet with SDXL's conditioning as the core's network (x_t, t, condition) -> prediction.

    The time ids, original size, crop and target size, are those of an uncropped picture, the same for every prompt.
    x_t and the prompt are cast to the UNet's type, in which the prediction comes back; time ids stay in float32, since
    bfloat16 has no digits for some sizes.

    Args:
        unet: a UNet2DConditionModel with `text_time` conditioning.
        pixels: height and width of the pictures.
        tokens: length of the null condition's text.
        empty: the embedded empty prompt, [1, tokens, width] and [1, width], where that is the null condition; zeros by
            default.
    """

    empty_text: Tensor | None
    empty_pooled: Tensor | None

    def __init__(self, unet: Any, *, pixels: int, tokens: int, empty: Prompt | None = None) -> None:
        super().__init__()
        self.unet: Any = unet
        self.pixels = pixels
        self.tokens = tokens
        self.register_buffer("empty_text", None if empty is None else empty.text, persistent=False)
        self.register_buffer("empty_pooled", None if empty is None else empty.pooled, persistent=False)

    def null(self, like: Tensor) -> Prompt:
        """The null condition for a batch like `like` [B, ...]."""
        if self.empty_text is not None and self.empty_pooled is not None:
            text, pooled = self.empty_text.to(like), self.empty_pooled.to(like)
            return Prompt(text.expand(len(like), -1, -1), pooled.expand(len(like), -1))
        config = self.unet.config
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        return Prompt(
            like.new_zeros(len(like), self.tokens, config.cross_attention_dim), like.new_zeros(len(like), width)
        )

    def forward(self, x_t: Tensor, t: Tensor, condition: Prompt | None) -> Tensor:
        prompt = self.null(x_t) if condition is None else condition
        dtype = self.unet.dtype
        # original size, crop, target size; filled in on the device, since a copy from the host would make it wait
        time_ids = x_t.new_full((len(x_t), 6), self.pixels, dtype=torch.float32)
        time_ids[:, 2:4] = 0
        extra = {"text_embeds": prompt.pooled.to(dtype), "time_ids": time_ids}
        text = prompt.text.to(dtype)
        return self.unet(x_t.to(dtype), t, encoder_hidden_states=text, added_cond_kwargs=extra, return_dict=False)[0]
