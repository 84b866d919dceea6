"""CLIP score and PickScore: the cosine between a picture's and a prompt's embedding, differentiable in the picture."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..runs.weights import (
    check_end,
    check_merges,
    check_weights,
    read_json,
    read_weights,
    reading,
    refuse_misfits,
    refuse_not_finite,
)
from .base import FrozenReward, check_pictures, refuse_string, warn_if_cut
from .files import fetching
from .preprocess import Preprocess, PreprocessWhole, at_least_float32

# gigabytes of the checkpoints in single precision, by the number of their weights
SIZES = {
    "ViT-B-32": 0.6,
    "ViT-B-16": 0.6,
    "ViT-L-14": 1.7,
    "ViT-L-14-quickgelu": 1.7,
    "ViT-H-14": 3.9,
    "ViT-g-14": 5.5,
    "ViT-bigG-14": 10.2,
}
LICENCE = "MIT for the LAION and OpenAI weights"
LOCAL = "local-dir:"
CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
KEPT = 4096
"""How many prompts' embeddings a ClipScore keeps, the latest: 16 MB for ViT-H/14."""


class ClipScore(FrozenReward):
    """The cosine of CLIP's embeddings of a picture and its prompt, in [−1, 1]; tables often print 100 times it.

    Embeddings have the type of the model's weights; preprocessing, norms and cosine are computed in float32 at least.

    Args:
        model: the module behind both embeddings, to be moved and copied with this one; frozen.
        preprocess: the model's own preprocessing.
        embed_pictures: (model, preprocessed pictures [B, 3, size, size]) -> [B, width].
        embed_words: (model, prompts) -> [B, width].
        limit: how many tokens of a prompt the model reads.
        is_cut: whether a prompt has more than that.
        vocabulary: the words that the model was trained on, where that is known.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocess: Preprocess,
        embed_pictures: Callable[[Any, Tensor], Tensor],
        embed_words: Callable[[Any, Sequence[str]], Tensor],
        *,
        limit: int | None = None,
        is_cut: Callable[[str], bool] = lambda prompt: False,
        vocabulary: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.preprocess = preprocess
        self.limit = limit
        self.vocabulary = frozenset(vocabulary)
        self._embed_pictures = embed_pictures
        self._embed_words = embed_words
        self._is_cut = is_cut
        self._known: dict[str, Tensor] = {}

    @classmethod
    def load(
        cls,
        name: str,
        pretrained: str | None = None,
        *,
        check: Callable[[Path], object] = lambda path: None,
        vocabulary: Collection[str] = (),
    ) -> ClipScore:
        """A model that open_clip knows, or one in a folder.

        Preprocessing and activation are those that the weights were trained with, as open_clip states them for a tag, and
        the folder's open_clip_config.json for a folder.

        Args:
            name: such as "ViT-B-32" or "ViT-H-14", or "local-dir:FOLDER" with open_clip_config.json and the weights in it.
            pretrained: open_clip's tag of the weights, such as "laion2b_s34b_b79k"; None for a folder.
            check: called with the file of weights before it is read, to raise if it is another one than it should be.
            vocabulary: the words that the model was trained on, where that is known.

        Raises:
            FileNotFoundError: if the weights are not there and cannot be fetched (the sentence says how large they are), or
                a file of the folder is missing.
            ValueError: if open_clip does not know the name or the tag; if the tag's weights want another activation than
                the name has; if weights are given as a file, which says nothing about either; if weights or tokenizer are
                damaged or do not fit the model.
        """
        import open_clip

        local = Path(name.removeprefix(LOCAL)) if name.startswith(LOCAL) else None
        if local is not None:
            stated, weights = _folder(local)
        else:
            stated = stated_by_open_clip(name, pretrained)
        with fetching(f"open_clip's {name}, tag {pretrained!r}", LICENCE, SIZES.get(name), local):
            if local is None:
                weights = Path(open_clip.download_pretrained(stated))
            with _without_weights():
                model = open_clip.create_model(
                    name,
                    load_weights=False,
                    pretrained_text=False,
                    force_preprocess_cfg={key: value for key, value in stated.items() if key != "size"},
                )
            tokenizer = open_clip.get_tokenizer(name)
        check(weights)
        if local is not None:
            state = read_weights(weights)
            check_weights(weights, state, model.state_dict())
            model.load_state_dict(state)
        else:
            with reading(weights):
                open_clip.load_checkpoint(model, str(weights), strict=True)
        refuse_not_finite(weights, model.state_dict())
        return cls.of(model, tokenizer, vocabulary=vocabulary)

    @classmethod
    def of(
        cls,
        model: Any,
        tokenizer: Callable[[list[str]], Tensor],
        *,
        preprocess: Preprocess | None = None,
        vocabulary: Collection[str] = (),
    ) -> ClipScore:
        """An open_clip model at hand, with its tokenizer.

        Args:
            tokenizer: prompts -> token ids [B, tokens]. One of open_clip's own is held to the model's vocabulary, and its
                prompts over the token limit are warned about; of another function nothing is known.
            preprocess: another preprocessing than the one that open_clip states for the model.
            vocabulary: the words that the model was trained on, where that is known.

        Raises:
            ValueError: if its preprocessing is another one, such as SigLIP's, which squashes pictures into a square; or if
                the tokenizer has more entries than the model, lacks more than a tenth of them, or has words that no merge makes.
        """
        inner = getattr(tokenizer, "tokenizer", None)
        entries = getattr(tokenizer, "vocab_size", None) if inner is None else len(inner)
        if entries is not None:
            _check_vocabulary(entries, model.vocab_size)
        check_merges("the tokenizer", inner)
        limit = getattr(tokenizer, "context_length", None)

        def is_cut(prompt: str) -> bool:
            if limit is None:
                return False
            one_more: Any = tokenizer
            return not torch.equal(one_more([prompt], context_length=limit + 1)[:, :limit], tokenizer([prompt]))

        def embed_words(model: Any, prompts: Sequence[str]) -> Tensor:
            return model.encode_text(tokenizer(list(prompts)).to(next(model.parameters()).device))

        return cls(
            model,
            (preprocess or _stated_preprocess(model.visual.preprocess_cfg)).to(next(model.parameters()).device),
            lambda model, pictures: model.encode_image(pictures),
            embed_words,
            limit=limit,
            is_cut=is_cut,
            vocabulary=vocabulary,
        )

    @classmethod
    def hpsv2(cls, weights: Path, name: str = "ViT-H-14") -> ClipScore:
        """HPSv2 and 2.1 (Wu et al. 2023): a ViT-H/14 trained on human rankings, with a preprocessing of its own; as a cosine,
        about 0.28.

        Args:
            weights: the published checkpoint, such as HPS_v2.1_compressed.pt; it is whole, and needs no other CLIP's.
            name: of the architecture, in open_clip.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, holds more than tensors, or other ones than this network's.
        """
        import open_clip

        state = read_weights(weights, within="state_dict")
        with _without_weights():
            model = open_clip.create_model(name, load_weights=False, pretrained_text=False)
        check_weights(weights, state, model.state_dict())
        model.load_state_dict(state)
        refuse_not_finite(weights, model.state_dict())
        return cls.of(model, open_clip.get_tokenizer(name), preprocess=PreprocessWhole(model.visual.image_size[0]))

    @classmethod
    def pickscore(cls, folder: Path, tokenizer: str | None = None, revision: str | None = None) -> ClipScore:
        """PickScore (Kirstain et al. 2023): a ViT-H/14 trained on human choices; as a cosine, about 0.22.

        Args:
            folder: the checkpoint. Where it has a preprocessor_config.json, that is obeyed; PickScore itself was trained with
                OpenAI's mean and deviation.
            tokenizer, revision: a repository of the hub with the tokenizer; without it the folder's own.

        Raises:
            FileNotFoundError: if the folder lacks the tokenizer, or the hub's cannot be fetched.
            ValueError: if the folder is damaged, or weights or tokenizer do not fit the model.
        """
        import transformers

        if tokenizer is None:
            _check_tokenizer_files(folder)
        shown = transformers.utils.logging.get_verbosity()
        transformers.utils.logging.set_verbosity_error()  # a table of what does not fit: check_weights says it in one sentence
        try:
            with fetching("", "", None, folder):
                model, found = transformers.CLIPModel.from_pretrained(
                    folder, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
                )
            with fetching(f"the tokenizer {tokenizer}", "MIT", None, folder if tokenizer is None else None):
                words = transformers.AutoTokenizer.from_pretrained(tokenizer or folder, revision=revision)
        finally:
            transformers.utils.logging.set_verbosity(shown)
        refuse_misfits(
            folder,
            missing=found["missing_keys"],
            unexpected=found["unexpected_keys"],
            misshapen=[name for name, *_ in found["mismatched_keys"]],
        )
        refuse_not_finite(folder, model.state_dict())
        said = folder / "preprocessor_config.json"
        return cls.of_transformers(model, words, read_json(said) if said.is_file() else None)

    @classmethod
    def of_transformers(cls, model: Any, tokenizer: Any, processor: Mapping[str, Any] | None = None) -> ClipScore:
        """A transformers CLIPModel at hand, with its tokenizer.

        Args:
            processor: what the model's preprocessor_config.json says; by default CLIP's preprocessing with OpenAI's mean and
                deviation.

        Raises:
            ValueError: if the preprocessing is not CLIP's, or does not fit the model; if the model pools elsewhere than the
                tokenizer ends a prompt; or if the tokenizer has more entries
                than the model, lacks more than a tenth of them, or has words that no merge makes.
        """
        limit = model.config.text_config.max_position_embeddings
        _check_vocabulary(len(tokenizer), model.config.text_config.vocab_size)
        check_merges("the tokenizer", tokenizer)
        check_end("the tokenizer", tokenizer, model.config.text_config.eos_token_id)

        def embed_words(model: Any, prompts: Sequence[str]) -> Tensor:
            tokens = tokenizer(
                list(prompts), padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
            ).to(model.device)
            return model.text_projection(model.text_model(**tokens).pooler_output)

        return cls(
            model,
            _preprocess(processor, model.config.vision_config.image_size).to(model.device),
            lambda model, pictures: model.visual_projection(model.vision_model(pixel_values=pictures).pooler_output),
            embed_words,
            limit=limit,
            is_cut=lambda prompt: len(tokenizer(prompt).input_ids) > limit,
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ClipScore:
        self._known.clear()  # these were embedded on the device and in the type from before
        return super()._apply(fn, recurse)

    @property
    def temperature(self) -> float:
        """What the model was trained to multiply its cosines by, exp(logit_scale)."""
        return float(self.model.logit_scale.detach().double().exp())  # type: ignore[operator]

    def features(self, images: Tensor) -> Tensor:
        """Unit embeddings of pictures [B, 3, H, W] in [0, 1], [B, width]."""
        seen = self.preprocess(images).to(next(self.model.parameters()).dtype)
        return normalize(at_least_float32(self._embed_pictures(self.model, seen)), dim=-1)

    @torch.no_grad()
    def words(self, prompts: Sequence[str]) -> Tensor:
        """Unit embeddings of prompts, [B, width]; each is embedded once, and the latest KEPT are kept.

        Raises:
            TypeError: for a single string, whose letters would be taken for prompts.

        Warns:
            UserWarning: once for each call with new prompts over the token limit, which are cut, with their number; and once
                for each call with new prompts with words outside the vocabulary, with these words.
        """
        refuse_string(prompts)
        self._warn([prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known])
        found: dict[str, Tensor] = {}
        for prompt in dict.fromkeys(prompts):
            kept = self._known.pop(prompt, None)
            # alone: the last bits of an embedding depend on its batch, and a resumed run meets other batches first
            found[prompt] = self._embed(prompt) if kept is None else kept
        self._known |= found
        for oldest in list(self._known)[: len(self._known) - KEPT]:
            del self._known[oldest]
        return torch.stack([found[prompt] for prompt in prompts])

    def _embed(self, prompt: str) -> Tensor:
        return normalize(at_least_float32(self._embed_words(self.model, [prompt])), dim=-1)[0]

    def _warn(self, prompts: Sequence[str]) -> None:
        warn_if_cut([prompt for prompt in prompts if self._is_cut(prompt)], len(prompts), self.limit, "CLIP")
        unseen = {word for prompt in prompts for word in prompt.lower().split()} - self.vocabulary
        if self.vocabulary and unseen:
            of = sum(not self.vocabulary.issuperset(prompt.lower().split()) for prompt in prompts)
            warnings.warn(
                f"{of} of {len(prompts)} new prompts hold words that this CLIP has never seen, and may be read only up to "
                f"them: {', '.join(map(repr, sorted(unseen)))}; it knows {', '.join(sorted(self.vocabulary))}",
                stacklevel=4,
            )

    def forward(self, *, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] and B prompts -> cosines [B]. Raises and warns as check_pictures and `words`."""
        check_pictures(images, prompts)
        return self.judge(images, self.read(prompts))

    def read(self, prompts: Sequence[str]) -> Tensor:
        """As `words`."""
        return self.words(prompts)

    def judge(self, images: Tensor, read: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] and unit embeddings of prompts [B, width] -> cosines [B]."""
        return (self.features(images) * read).sum(-1)


def _check_vocabulary(entries: int, expected: int) -> None:
    # a text model may have a few entries more than its tokenizer, as padding
    if not 0.9 * expected <= entries <= expected:
        raise ValueError(
            f"the tokenizer has {entries} entries but the text model {expected}, so it is not the model's own; copy the "
            "model's tokenizer beside its weights"
        )


def _check_tokenizer_files(folder: Path) -> None:
    if not (folder / "tokenizer.json").is_file():
        lacks = [name for name in ("vocab.json", "merges.txt") if not (folder / name).is_file()]
        if lacks:
            raise FileNotFoundError(
                f"{folder} has no tokenizer: it lacks tokenizer.json, and {' and '.join(lacks)} instead of it; copy the "
                "model's tokenizer there"
            )


def _folder(folder: Path) -> tuple[dict[str, Any], Path]:
    """The preprocessing that an open_clip folder states, and where its weights are."""
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG}; name an open_clip folder, or copy it again, whole")
    config = read_json(folder / CONFIG)
    stated = config.get("preprocess_cfg", {})
    lacks = [key for key in ("mean", "std") if not stated.get(key)]
    if lacks:
        raise ValueError(
            f"{folder / CONFIG} does not say the {' and '.join(lacks)} of its preprocessing; add them to preprocess_cfg as "
            "in the model's training"
        )
    if config.get("model_cfg", {}).get("text_cfg", {}).get("hf_tokenizer_name"):
        _check_tokenizer_files(folder)
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise FileNotFoundError(f"{folder} has no weights; copy one of {', '.join(WEIGHTS)} there")
    return stated, weights


def stated_by_open_clip(name: str, pretrained: str | None) -> dict[str, Any]:
    """What open_clip states about the weights of a tag: where they are, preprocessing and activation.

    Raises:
        ValueError: if open_clip does not know the name or the tag; or if the weights want another activation than the name has.
    """
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    if name not in open_clip.list_models():
        raise ValueError(f"open_clip knows no model {name!r}; open_clip.list_models() lists them")
    stated = get_pretrained_cfg(name, pretrained or "")
    if not stated and pretrained and Path(pretrained).exists():
        raise ValueError(
            f"{pretrained} does not say which mean, deviation and activation its weights were trained with; put it into a "
            f"folder as {WEIGHTS[0]} or {WEIGHTS[-1]}, with the model's {CONFIG}, and load '{LOCAL}FOLDER'"
        )
    if not stated:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ValueError(f"open_clip knows no weights {pretrained!r} of {name}; it knows the tags {tags}")
    # only this way round: names with "-quickgelu" have no other tags, and some configurations have it unsaid by their tag
    if stated.get("quick_gelu") and not open_clip.get_model_config(name).get("quick_gelu"):
        raise ValueError(
            f"the weights {pretrained!r} were trained with QuickGELU, but {name} has GELU; load '{name}-quickgelu'"
        )
    return stated


def _stated_preprocess(config: Mapping[str, Any]) -> Preprocess:
    """The preprocessing that open_clip states for a model. Raises ValueError if it is no square cut out of the middle."""
    height, width = (config["size"],) * 2 if isinstance(config["size"], int) else config["size"]
    mode = config.get("resize_mode", "shortest")
    if height != width or mode != "shortest":
        raise ValueError(
            f"the model takes {height} × {width} pixels with resize_mode {mode!r}, but only squares cut out after "
            "resizing the shorter side ('shortest') are supported; choose another CLIP"
        )
    return Preprocess(height, config["mean"], config["std"], config["interpolation"])


def _preprocess(processor: Mapping[str, Any] | None, size: int) -> Preprocess:
    """CLIP's preprocessing in transformers, with the numbers of a preprocessor_config.json."""
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    if processor is None:
        return Preprocess(size, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, halves="floor")
    crop = processor.get("crop_size", size)
    sides = {*crop.values()} if isinstance(crop, Mapping) else {crop}
    resized = processor.get("size", size)
    shorter = resized.get("shortest_edge") if isinstance(resized, Mapping) else resized
    interpolation: dict[int, Literal["bicubic", "bilinear"]] = {2: "bilinear", 3: "bicubic"}
    obeyed = {
        "image_mean": processor.get("image_mean") is not None,
        "image_std": processor.get("image_std") is not None,
        "crop_size": sides == {size},
        "size": shorter == size,
        "resample": processor.get("resample", 3) in interpolation,
        "rescale_factor": math.isclose(processor.get("rescale_factor", 1 / 255), 1 / 255),
        **{key: processor.get(key, True) for key in ("do_resize", "do_center_crop", "do_rescale", "do_normalize")},
    }
    if not all(obeyed.values()):
        told = ", ".join(f"{key} {processor.get(key)!r}" for key, well in obeyed.items() if not well)
        raise ValueError(
            f"the preprocessing has {told}, but only CLIP's is supported: the shorter side to {size} pixels, a square cut out "
            "of the middle, mean and std by channel; choose another model"
        )
    return Preprocess(
        size,
        processor["image_mean"],
        processor["image_std"],
        interpolation[processor.get("resample", 3)],
        halves="floor",
    )


@contextmanager
def _without_weights() -> Iterator[None]:
    """Without open_clip's complaint that a model which gets its weights afterwards has none."""

    def other(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("No pretrained weights loaded")

    root = logging.getLogger()
    root.addFilter(other)
    try:
        yield
    finally:
        root.removeFilter(other)
