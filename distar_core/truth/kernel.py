"""The score of a generator without a known density, from fresh samples: an assistant that learns nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..schedule import NoiseSchedule


class KernelScore(nn.Module):
    """The score of a generator's noised law, taken from `count` fresh samples at each call.

    s(x_t, t) = Σ_i r_i (alpha_t g(z_i) − x_t)/sigma_t² with r = softmax(−‖x_t − alpha_t g(z_i)‖²/(2 sigma_t²)), which is
    the exact score of the noised samples themselves. Its error falls with the number of samples within a few sigma_t of
    x_t, so it is largest at low noise. The z_i are Sobol points (Sobol 1967) with a new random shift for each call, carried
    to normals by the quantile function: they fill the plane evenly, which lowers the error of independent draws.

    For generators without conditions whose latent is one normal of shape [n], in few dimensions, on the CPU. The shifts are in
    no checkpoint, so a resumed run draws others.

    Args:
        count: samples for each call; a power of two fills evenly.
        seed: of the shifts, one for each call in turn.
    """

    def __init__(self, generator: nn.Module, schedule: NoiseSchedule, count: int, *, seed: int = 0) -> None:
        super().__init__()
        # In a tuple, so that the generator's parameters are not counted as the assistant's.
        self._generator = (generator,)
        self.schedule = schedule
        self.count = count
        self.rng = torch.Generator().manual_seed(seed)

    def _normals(self, name: str, shape: tuple[int, ...]) -> Tensor:
        (dimension,) = shape
        even = torch.quasirandom.SobolEngine(dimension).draw(self.count, dtype=torch.float64)
        shifted = (even + torch.rand(dimension, generator=self.rng, dtype=torch.float64)) % 1
        return torch.special.ndtri(shifted.clamp(1e-12, 1 - 1e-12)).float()

    def forward(self, x_t: Tensor, t: Tensor, condition: Any = None) -> Tensor:
        """s_theta(x_t, t), [B, n]; differentiable in x_t, not in the generator's parameters."""
        generator = self._generator[0]
        with torch.no_grad():
            points = generator(generator.latent(self._normals), None).to(x_t)  # type: ignore[operator]
        alpha, sigma = self.schedule.coefficients(t, x_t)
        precision = sigma.square().reciprocal()
        # −‖x_t − alpha g‖²/(2 sigma²) but for a constant, as one matrix product: the [B, count] pairs are what costs
        asked = torch.cat([alpha * precision * x_t, -alpha.square() * precision / 2], dim=-1)
        known = torch.cat([points, points.square().sum(-1, keepdim=True)], dim=-1)
        return precision * (alpha * ((asked @ known.mT).softmax(-1) @ points) - x_t)
