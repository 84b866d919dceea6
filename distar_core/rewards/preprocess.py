"""From pictures of any size to what a published model takes, differentiable."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""By channel, of OpenAI's CLIP; open_clip, BLIP, ImageReward and HPSv2 took them over."""


PREPROCESSING = "1"
"""The version of what turns a picture into a network's numbers: raise it with every change by which a score could change."""


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor as float32 if it has fewer digits than that."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class Unrounded(nn.Module):
    """A module whose buffers follow it to another device, but not to another type: they are few, and rounding them costs
    more digits than it saves memory."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Unrounded:
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)


class Preprocess(Unrounded):
    """Resize the shorter side, cut out the middle, normalise by channel: a model's own preprocessing, differentiable.

    It computes in float32 at least, also for pictures in bfloat16.

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
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
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
        """Images [B, 3, H, W] in [0, 1] -> [B, 3, size, size], normalised."""
        return (self.resize(at_least_float32(images)) - self.mean) / self.std


class PreprocessWhole(Preprocess):
    """HPSv2's preprocessing: resize the longer side, pad to a square with black, normalise by channel.

    Bicubic interpolation overshoots at edges, and HPSv2 resizes numbers, not bytes, so that nothing is clamped. A picture
    whose longer side already has the size is padded, too; HPSv2's own code leaves it as it is, and then its network fails.
    Source: `ResizeMaxSize` in tgxs002/HPSv2, hpsv2/src/open_clip/transform.py.
    """

    def resize(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> [B, 3, size, size], at edges slightly outside."""
        longer = max(images.shape[-2:])
        if longer != self.size:
            # in floating point, as HPSv2 does; at least a pixel, where its own would be none
            shape = [max(1, round(side * (self.size / longer))) for side in images.shape[-2:]]
            images = interpolate(images, shape, mode=self.interpolation, antialias=True)
        below, beside = (self.size - side for side in images.shape[-2:])
        return pad(images, (beside // 2, beside - beside // 2, below // 2, below - below // 2))
