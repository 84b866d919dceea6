"""LAION's aesthetic predictor, version 2 (Schuhmann 2022): how people rate a picture, whatever the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn
from torch.nn.functional import normalize

from ..runs.weights import check_weights, read_weights, refuse_not_finite
from .base import FrozenReward, check_pictures
from .clip import ClipScore
from .heads import AffineHead, five_layers
from .preprocess import Preprocess, at_least_float32

WIDTH = 768
"""Of the embeddings of OpenAI's ViT-L/14."""


class LaionAesthetic(FrozenReward):
    """A rating of pictures, made on a scale from 1 to 10: w·f + b of CLIP's unit embedding f of the picture.

    Linear in f, so that one direction of CLIP's space is always up: climbed alone, it leads away from any prompt. CLIP
    computes in the type of its weights; preprocessing, norm and head in float32 at least.

    Args:
        visual: the vision half of OpenAI's ViT-L/14, with QuickGELU.
        preprocess: its own preprocessing.
        layers: the predictor's, as `five_layers`.
    """

    def __init__(self, visual: nn.Module, preprocess: Preprocess, layers: nn.Module) -> None:
        super().__init__()
        self.visual = visual
        self.preprocess = preprocess
        self.head = AffineHead(layers, WIDTH)
        self.requires_grad_(False).eval()

    @classmethod
    def load(cls, head: Path, clip: ClipScore) -> LaionAesthetic:
        """The published head sac+logos+ava1-l14-linearMSE.pth on the CLIP that it was trained on.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, holds more than tensors, or other ones than the five layers'.
        """
        network = nn.ModuleDict({"layers": five_layers(WIDTH)})
        found = read_weights(head)
        check_weights(head, found, network.state_dict())
        network.load_state_dict(found)
        refuse_not_finite(head, network.state_dict())
        return cls(clip.model.get_submodule("visual"), clip.preprocess, network["layers"])

    def forward(self, *, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] and B prompts, which do not matter -> [B]. Raises as check_pictures."""
        check_pictures(images, prompts)
        return self.judge(images, self.read(prompts))

    def read(self, prompts: Sequence[str]) -> tuple[()]:
        """Nothing: prompts do not matter."""
        return ()

    def judge(self, images: Tensor, read: tuple[()]) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> [B]."""
        seen = self.preprocess(images).to(next(self.visual.parameters()).dtype)
        return self.head(normalize(at_least_float32(self.visual(seen)), dim=-1))
