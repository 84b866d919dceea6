"""Numbers about pictures that no reward sees: diversity, distance of distributions, and the measurable side of
"painting-like" pictures. They come one per picture or one per prompt, so that intervals and paired tests can be made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from .statistics import entropy


def saturation(pictures: Tensor) -> Tensor:
    """Mean HSV saturation, (max − min)/max over the channels, of pictures [B, 3, H, W] in [0, 1]; [B], black is 0."""
    high, low = pictures.amax(1), pictures.amin(1)
    return ((high - low) / high.clamp(min=1e-6)).mean((1, 2))


def high_frequency_share(pictures: Tensor) -> Tensor:
    """Share of a picture's power above 0.25 cycles per pixel, half of an axis's highest frequency, its mean left out: [B, C, H, W] -> [B].

    A picture without any contrast has 0.
    """
    power = torch.fft.fft2(pictures - pictures.mean((2, 3), keepdim=True)).abs().square().sum(1)
    rows, columns = (torch.fft.fftfreq(side).to(pictures) for side in pictures.shape[2:])
    fast = (rows[:, None].square() + columns.square()).sqrt() > 0.25
    total = power.sum((1, 2))
    return torch.where(total > 0, (power * fast).sum((1, 2)) / total.clamp(min=1e-12), torch.zeros_like(total))


def clipped_share(pictures: Tensor) -> Tensor:
    """Share of a picture's pixels with a channel that is 0 or 255 in eight bits, where it was cut or nearly: [B, 3, H, W] in
    [0, 1] -> [B].
    """
    return ((pictures < 0.5 / 255) | (pictures > 1 - 0.5 / 255)).any(1).double().mean((1, 2))


def vendi(features: Tensor) -> Tensor:
    """Effective number of different samples of a prompt (Friedman and Dieng 2023): exp of the entropy of the eigenvalues of
    K/S, K their cosines; features [P, S, D] -> [P], from 1 where all are alike to S where all are orthogonal.
    """
    unit = torch.nn.functional.normalize(features.double(), dim=-1)
    shares = torch.linalg.eigvalsh(unit @ unit.mT / features.shape[1]).clamp(min=0)
    return torch.special.entr(shares).sum(-1).exp()


def pixel_distance(pictures: Tensor) -> Tensor:
    """Root mean square difference of two samples of a prompt, over the pairs of them and all values: [P, S, 3, H, W] -> [P];
    0 where all are alike. It needs no network, and takes a shift of the picture for a difference.

    Raises:
        ValueError: for fewer than two samples per prompt.
    """
    if (samples := pictures.shape[1]) < 2:
        raise ValueError(f"diversity needs at least two samples per prompt, got {samples}; draw more")
    return (2 * pictures.var(1)).mean((1, 2, 3)).sqrt()


def pairwise_distance(features: Tensor) -> Tensor:
    """Mean of 1 − cosine over the pairs of samples of a prompt: features [P, S, D] -> [P]; 0 where all are alike.

    Raises:
        ValueError: for fewer than two samples per prompt.
    """
    samples = features.shape[1]
    if samples < 2:
        raise ValueError(f"diversity needs at least two samples per prompt, got {samples}; draw more")
    unit = torch.nn.functional.normalize(features, dim=-1)
    cosines = unit @ unit.mT
    off_diagonal = cosines.sum((1, 2)) - cosines.diagonal(dim1=1, dim2=2).sum(1)
    return 1 - off_diagonal / (samples * (samples - 1))


def attribute_entropy(readings: Sequence[Sequence[Hashable]]) -> Tensor:
    """Entropy in nats of what was read on the samples of each prompt, [P]: what a caption leaves open should vary.

    Args:
        readings: for each prompt what was read on its samples, such as (size, background).
    """
    found = []
    for samples in readings:
        counts = torch.tensor([samples.count(value) for value in dict.fromkeys(samples)], dtype=torch.float64)
        found.append(entropy(counts / counts.sum()))
    return torch.tensor(found)


def path_length(
    draw: Callable[[Tensor], Tensor], first: Tensor, second: Tensor, u: Tensor, *, epsilon: float = 1e-2
) -> Tensor:
    """How far features move when z takes a small step on the great circle from one noise to another:
    ‖f(z(u + epsilon)) − f(z(u))‖²/epsilon² (Karras et al. 2019, section 4.1, on features of one's own choice), [B].

    Args:
        draw: z [B, ...] -> features [B, D] of the pictures that it becomes.
        first, second: noise [B, ...]; u: where on the way, [B] in [0, 1 − epsilon].
    """
    there = draw(_great_circle(first, second, u + epsilon))
    return ((there - draw(_great_circle(first, second, u))) / epsilon).square().sum(-1)


def _great_circle(first: Tensor, second: Tensor, u: Tensor) -> Tensor:
    """From first at u = 0 to second at u = 1, along the great circle between their directions; [B, ...]."""
    a, b = first.flatten(1), second.flatten(1)
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=1).clamp(-1 + 1e-6, 1 - 1e-6)
    angle = cosine.acos()
    shares = [torch.sin(share * angle) / torch.sin(angle) for share in (1 - u, u)]
    return (shares[0][:, None] * a + shares[1][:, None] * b).view_as(first)


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Fréchet distance of the Gaussians that fit two sets of features, [N, D] and [M, D] (Dowson and Landau 1982):
    ‖m₁ − m₂‖² + tr(C₁ + C₂ − 2 (C₁C₂)^½). Biased upwards by few samples: compare equal numbers only.

    Raises:
        ValueError: for fewer than two samples in a set.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(f"a covariance needs two samples, got {len(first)} and {len(second)}; draw more")
    first, second = first.double(), second.double()
    covariances = [torch.cov(features.T).reshape(features.shape[1], -1) for features in (first, second)]
    # C₁C₂ has the eigenvalues of the symmetric C₁^½ C₂ C₁^½, which are found several times as fast and stay real
    values, vectors = torch.linalg.eigh(covariances[0])
    half = vectors * values.clamp(min=0).sqrt() @ vectors.T
    roots = torch.linalg.eigvalsh(half @ covariances[1] @ half).clamp(min=0).sqrt()
    gap = (first.mean(0) - second.mean(0)).square().sum()
    distance = gap + covariances[0].trace() + covariances[1].trace() - 2 * roots.sum()
    return float(distance.clamp(min=0))
