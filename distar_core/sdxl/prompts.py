"""From words to what an SDXL UNet is conditioned on: two CLIP text encoders, their penultimate states and one pooled
embedding. The null condition is both embeddings at zero, or the empty prompt's, as the pipeline says.
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..runs.settings import read_text

KEPT = 512
"""How many prompts' embeddings a PromptEncoder keeps, the latest: 163 MB for SDXL in single precision."""
AT_ONCE = 64
"""How many prompts are embedded at once, which bounds the memory that the text encoders take."""
COLUMNS = ("prompt", "text", "caption")
"""What the prompts' column may be called, whatever its case; the first that a file has is read."""
ZERO_WIDTH = re.compile("[\u00ad\u200b\u200e\u200f\u2060\ufeff]")
# joiners, which letters of other scripts and emoji need among themselves
STRAY_JOINERS = re.compile("(?<![^\\x00-\\x7f\\s])[\u200c\u200d]+|[\u200c\u200d]+(?![^\\x00-\\x7f\\s])")
OPTIONS = re.compile(r"(?<!\S)--[a-zA-Z]\S*|<(?:lora|lyco|hypernet):[^>]*>|\([^()]*[^()\d]:\d*\.?\d+\)")


def read_prompts(path: Path) -> list[str]:
    """The prompts in a file, in its order, repeated ones included.

    By its extension: .tsv (without quoting, as in PartiPrompts), .csv (quoted as RFC 4180 has it), .json (a list) and .jsonl;
    their rows are objects or lines with a column of COLUMNS, or in JSON plain strings. Any other file has one prompt per line.
    Zero-width characters, blanks at the ends and empty prompts are left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no prompt, or no UTF-8 text; if it has no column of prompts (the message has those it has); if
            a row cannot be read, or a prompt holds a control character, a line break included (the message has the place).

    Warns:
        UserWarning: for an extension that is none of these; for prompts with options or weights of other tools, such as
            "--ar 3:2" or "(red:1.3)", which are embedded as words.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no prompt file {path}; name a text file with one prompt a line")
    kind = path.suffix.lower()
    text = read_text(path)
    if kind in (".tsv", ".csv"):
        rows = _table_rows(path, text, quoted=kind == ".csv")
    elif kind in (".json", ".jsonl"):
        rows = _json_rows(path, text, by_line=kind == ".jsonl")
    else:
        if kind not in ("", ".txt"):
            warnings.warn(
                f"{path} is read as text with one prompt per line; files named .tsv, .csv, .json and .jsonl are read by their "
                "column of prompts",
                stacklevel=2,
            )
        rows = ((f"line {place}", line) for place, line in enumerate(text.split("\n"), 1))
    prompts = []
    for place, row in rows:
        prompt = STRAY_JOINERS.sub("", ZERO_WIDTH.sub("", row)).strip(" \t\r\n")
        strange = next((sign for sign in prompt if unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp")), None)
        if strange is not None:
            raise ValueError(
                f"prompt file {path}, {place}: the prompt holds the control character U+{ord(strange):04X}; take it out"
                + (", or name the file .tsv if it is a table" if strange == "\t" else "")
            )
        if prompt.strip():
            prompts.append(prompt.strip())
    if not prompts:
        raise ValueError(f"prompt file {path} is empty; write one prompt a line")
    foreign = [(prompt, option.group()) for prompt in prompts if (option := OPTIONS.search(prompt))]
    if foreign:
        warnings.warn(
            f"{len(foreign)} of {len(prompts)} prompts in {path} hold options of other tools, which are embedded as words, the "
            f"first: {foreign[0][1]!r} in {foreign[0][0]!r}",
            stacklevel=2,
        )
    return prompts


def _column(path: Path, place: str, names: Sequence[str]) -> int:
    """Which of these columns has the prompts."""
    plain = [ZERO_WIDTH.sub("", name).strip().lower() for name in names]
    found = [plain.index(name) for name in COLUMNS if plain.count(name) == 1]
    if not found:
        raise ValueError(
            f"prompt file {path}, {place}: no column is called {' or '.join(COLUMNS)} among {', '.join(map(repr, names))}; "
            "rename the one with the prompts"
        )
    return found[0]


def _table_rows(path: Path, text: str, *, quoted: bool) -> Iterator[tuple[str, str]]:
    """Place and prompt of the rows of a table with a header."""
    lines = io.StringIO(text, newline="")
    dialect: dict[str, Any] = {"strict": True} if quoted else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    reader = csv.reader(lines, **dialect)
    column = names = None
    try:
        for row in reader:
            place = f"line {reader.line_num}"
            if not any(cell.strip() for cell in row):
                continue
            if column is None or names is None:
                column, names = _column(path, place, row), row
                continue
            if len(row) <= column or any(cell.strip() for cell in row[len(names) :]):
                raise ValueError(
                    f"prompt file {path}, {place}: there are {len(row)} cells for {len(names)} columns; "
                    + ("put a prompt with commas in double quotes" if quoted else "take out tabs within a prompt")
                )
            yield place, row[column]
    except csv.Error as error:
        raise ValueError(f"prompt file {path}, line {reader.line_num}: {error}; mend its quotes") from error


def _json_rows(path: Path, text: str, *, by_line: bool) -> Iterator[tuple[str, str]]:
    """Place and prompt of the entries of a JSON list, or of lines of JSON."""
    if by_line:
        lines = [(place, line) for place, line in enumerate(text.split("\n"), 1) if line.strip()]
        entries = ((f"line {place}", _parsed(path, line, place)) for place, line in lines)
    else:
        whole = _parsed(path, text, 1) if text.strip() else []
        if not isinstance(whole, list):
            keys = f" with the keys {', '.join(map(repr, whole))}" if isinstance(whole, dict) else ""
            raise ValueError(
                f"prompt file {path} is a JSON {type(whole).__name__}{keys}; give a list of prompts, or of objects with the "
                f"key {COLUMNS[0]!r}"
            )
        entries = ((f"entry {place}", entry) for place, entry in enumerate(whole, 1))
    for where, entry in entries:
        names = list(entry) if isinstance(entry, dict) else []
        prompt = entry[names[_column(path, where, names)]] if isinstance(entry, dict) else entry
        if not isinstance(prompt, str):
            raise ValueError(
                f"prompt file {path}, {where}: the prompt is {json.dumps(prompt)[:50]}; write it as a string"
            )
        yield where, prompt


def _parsed(path: Path, text: str, first: int) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        line = first + getattr(error, "lineno", 1) - 1
        raise ValueError(
            f"prompt file {path}, line {line}: no JSON ({getattr(error, 'msg', error)}); mend it"
        ) from error


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
        return self._ids(prompts)

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
