"""CLIP score and PickScore: the cosine between a picture's and a prompt's embedding, differentiable in the picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from .base import check_pictures

PICKSCORE = "yuvalkirstain/PickScore_v1"
PICKSCORE_TOKENIZER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
# gigabytes of the checkpoints in single precision, by the number of their weights
SIZES = {"ViT-B-32": 0.6, "ViT-B-16": 0.6, "ViT-L-14": 1.7, "ViT-H-14": 3.9, "ViT-bigG-14": 10.2, PICKSCORE: 3.9}


class Preprocess(nn.Module):
    """Resize the shorter side, cut out the middle, normalise by channel: a model's own preprocessing, differentiable.

    Args:
        size: height and width that the model takes.
        mean, std: by channel, for pictures in [0, 1].
        interpolation: "bicubic" or "bilinear", with antialiasing.
        halves: what the cut does with half a pixel: "round" as torchvision and open_clip, "floor" as transformers.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        interpolation: Literal["bicubic", "bilinear"] = "bicubic",
        halves: Literal["round", "floor"] = "round",
    ) -> None:
        super().__init__()
        self.size = size
        self.interpolation = interpolation
        self.halves = round if halves == "round" else math.floor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def resize(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> [B, 3, size, size] in [0, 1]."""
        height, width = images.shape[-2:]
        if min(height, width) != self.size:
            # whole numbers: with a scale in floating point 55 pixels would become 223 instead of 224
            longer = self.size * max(height, width) // min(height, width)
            shape = (self.size, longer) if height <= width else (longer, self.size)
            images = interpolate(images, shape, mode=self.interpolation, antialias=True).clamp(0, 1)
        top, left = (self.halves((side - self.size) / 2) for side in images.shape[-2:])
        return images[..., top : top + self.size, left : left + self.size]

    def forward(self, images: Tensor) -> Tensor:
        return (self.resize(images) - self.mean) / self.std


class ClipScore(nn.Module):
    """The cosine of CLIP's embeddings of a picture and its prompt, in [−1, 1]; tables often print 100 times it.

    Args:
        embed_pictures: preprocessed pictures [B, 3, size, size] -> [B, width].
        embed_words: prompts -> [B, width]; each prompt is embedded once and kept.
        preprocess: the model's own preprocessing.
        model: the module behind both, to be moved with this one; frozen.
    """

    differentiable = True

    def __init__(
        self,
        model: nn.Module,
        preprocess: Preprocess,
        embed_pictures: Callable[[Tensor], Tensor],
        embed_words: Callable[[Sequence[str]], Tensor],
    ) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.preprocess = preprocess
        self._embed_pictures = embed_pictures
        self._embed_words = embed_words
        self._known: dict[str, Tensor] = {}

    @classmethod
    def load(cls, name: str, pretrained: str | None = None) -> ClipScore:
        """A model that open_clip knows.

        Args:
            name: such as "ViT-B-32" or "ViT-H-14", or "local-dir:FOLDER" with an open_clip_config.json in it.
            pretrained: open_clip's tag of the weights, such as "laion2b_s34b_b79k", or a file; None for a local folder.

        Raises:
            FileNotFoundError: if the weights are not there and cannot be fetched; the sentence says how large they are.
            ValueError: if open_clip does not know the name, or the local folder is damaged.
        """
        import open_clip

        if not name.startswith("local-dir:") and name not in open_clip.list_models():
            raise ValueError(f"open_clip knows no model {name!r}; open_clip.list_models() lists them")
        with _fetching(name, f"open_clip's {name}, tag {pretrained!r}", "MIT for the LAION and OpenAI weights", name):
            model = open_clip.create_model(name, pretrained=pretrained, require_pretrained=True)
            tokenizer = open_clip.get_tokenizer(name)
        return cls.of(model, tokenizer)

    @classmethod
    def of(cls, model: Any, tokenizer: Callable[[list[str]], Tensor]) -> ClipScore:
        """An open_clip model at hand, with its tokenizer.

        Raises:
            ValueError: if its preprocessing is another one, such as SigLIP's, which squashes pictures into a square.
        """
        config = model.visual.preprocess_cfg
        height, width = (config["size"],) * 2 if isinstance(config["size"], int) else config["size"]
        mode = config.get("resize_mode", "shortest")
        if height != width or mode != "shortest":
            raise ValueError(
                f"the model takes {height} × {width} pixels with resize_mode {mode!r}, but only squares cut out after "
                "resizing the shorter side ('shortest') are supported; choose another CLIP"
            )
        device = next(model.parameters()).device
        return cls(
            model,
            Preprocess(height, config["mean"], config["std"], config["interpolation"]).to(device),
            model.encode_image,
            lambda prompts: model.encode_text(tokenizer(list(prompts)).to(next(model.parameters()).device)),
        )

    @classmethod
    def pickscore(cls, folder: str = PICKSCORE) -> ClipScore:
        """PickScore (Kirstain et al. 2023): a ViT-H/14 trained on human choices; as a cosine, about 0.22.

        Args:
            folder: the checkpoint's name, or a folder with it and its tokenizer.

        Raises:
            FileNotFoundError: if the weights are not there and cannot be fetched; the sentence says how large they are.
            ValueError: if the folder is damaged.
        """
        from transformers import AutoTokenizer, CLIPModel

        with _fetching(folder, folder, "see its model card", PICKSCORE):
            model = CLIPModel.from_pretrained(folder)
            tokenizer = AutoTokenizer.from_pretrained(PICKSCORE_TOKENIZER if folder == PICKSCORE else folder)
        return cls.of_transformers(model, tokenizer)

    @classmethod
    def of_transformers(cls, model: Any, tokenizer: Any) -> ClipScore:
        """A transformers CLIPModel at hand, with its tokenizer and CLIP's preprocessing."""
        from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

        def embed_words(prompts: Sequence[str]) -> Tensor:
            length = model.config.text_config.max_position_embeddings
            tokens = tokenizer(
                list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            ).to(model.device)
            return model.text_projection(model.text_model(**tokens).pooler_output)

        return cls(
            model,
            Preprocess(model.config.vision_config.image_size, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, halves="floor").to(
                model.device
            ),
            lambda pictures: model.visual_projection(model.vision_model(pixel_values=pictures).pooler_output),
            embed_words,
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ClipScore:
        self._known.clear()  # these were embedded on the device and in the type from before
        return super()._apply(fn, recurse)

    def features(self, images: Tensor) -> Tensor:
        """Unit embeddings of pictures [B, 3, H, W] in [0, 1], [B, width]."""
        return normalize(self._embed_pictures(self.preprocess(images)), dim=-1)

    @torch.no_grad()
    def words(self, prompts: Sequence[str]) -> Tensor:
        """Unit embeddings of prompts, [B, width]; each is embedded once and kept."""
        for prompt in prompts:
            if prompt not in self._known:
                # alone: the last bits of an embedding depend on its batch, and a resumed run meets other batches first
                self._known[prompt] = normalize(self._embed_words([prompt]), dim=-1)[0]
        return torch.stack([self._known[prompt] for prompt in prompts])

    def forward(self, *, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] and B prompts -> cosines [B]. Raises ValueError as check_pictures."""
        check_pictures(images, prompts)
        return (self.features(images) * self.words(prompts)).sum(-1)


@contextmanager
def _fetching(source: str, what: str, licence: str, key: str) -> Iterator[None]:
    """Turn what loaders raise without a network, or for a damaged copy, into one sentence."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0][:100]
        if Path(source.removeprefix("local-dir:")).is_dir():
            raise ValueError(f"{source} is damaged or of another model ({why}); copy it again, whole") from error
        size = f"{SIZES[key]:g} GB" if key in SIZES else "of unknown size"
        raise FileNotFoundError(
            f"the weights of {what} are not here and could not be fetched ({why}): {size}, licence: {licence}; connect "
            "to the network once, or give the path of a copy"
        ) from error
