"""Small networks for the toys."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """A plain multi-layer perceptron with SiLU, [B, inputs] -> [B, outputs].

    Args:
        zero_output: start with a last layer of zeros, so that the network starts as the zero function.
    """

    def __init__(
        self, inputs: int, outputs: int, *, width: int = 96, depth: int = 3, zero_output: bool = False
    ) -> None:
        super().__init__()
        sizes = [inputs, *[width] * depth]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.SiLU()]
        last = nn.Linear(sizes[-1], outputs)
        if zero_output:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, x: Tensor, condition: Any = None) -> Tensor:
        return self.layers(x)


class TimeMLP(nn.Module):
    """A diffusion network for points: (x_t [B, n], t [B], condition) -> [B, n].

    The input is scaled by 1/sqrt(1 + t²), t enters as log t and its sine and cosine; a label enters as an embedding,
    label −1 or condition None being the null condition.

    Args:
        labels: number of labels; 0 for an unconditional network.
    """

    def __init__(
        self, dimension: int, *, width: int = 96, depth: int = 3, labels: int = 0, zero_output: bool = False
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(labels + 1, 8) if labels else None
        inputs = dimension + 3 + (8 if labels else 0)
        self.body = MLP(inputs, dimension, width=width, depth=depth, zero_output=zero_output)

    def forward(self, x_t: Tensor, t: Tensor, condition: Any = None) -> Tensor:
        time = t.to(x_t).expand(len(x_t))[:, None]
        log_t = time.log()
        parts = [x_t / (1 + time.square()).sqrt(), log_t / 2, log_t.sin(), log_t.cos()]
        if self.embedding is not None:
            null = torch.full((len(x_t),), -1, device=x_t.device)
            parts.append(self.embedding((null if condition is None else condition) + 1))
        return self.body(torch.cat(parts, dim=-1))
