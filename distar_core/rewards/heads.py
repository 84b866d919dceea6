"""The head that two published rewards have: five layers without an activation, which are one affine map."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from .preprocess import Unrounded, at_least_float32


def five_layers(width: int) -> nn.Sequential:
    """From features [B, width] to [B, 1], with random weights, by the names of the published checkpoints.

    Where their numbers leave a gap, there is dropout in training. Source: christophschuhmann/improved-aesthetic-predictor,
    simple_inference.py.
    """
    layers: list[nn.Module] = [nn.Identity() for _ in range(8)]
    sides = (width, 1024, 128, 64, 16, 1)
    for place, before, after in zip((0, 2, 4, 6, 7), sides[:-1], sides[1:], strict=True):
        layers[place] = nn.Linear(before, after)
    return nn.Sequential(*layers)


class AffineHead(Unrounded):
    """w·f + b of features f, in float32 at least.

    Args:
        layers: an affine map from features [B, width] to [B, 1] in several layers, folded into one in float64.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, layers: nn.Module, width: int) -> None:
        super().__init__()
        with torch.no_grad():
            places = torch.cat(
                [torch.zeros(1, width), torch.eye(width)]
            ).double()  # the origin, and each axis's unit vector
            values = copy.deepcopy(layers).double()(places)[:, 0]
        self.register_buffer("weight", (values[1:] - values[0]).float())
        self.register_buffer("bias", values[0].float())

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, width] -> [B]."""
        features = at_least_float32(features)
        return features @ self.weight.to(features.dtype) + self.bias
