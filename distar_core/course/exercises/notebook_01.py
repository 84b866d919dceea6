"""Exercises of notebook 01, scores and noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..checks import Exercise, Mistake


def _parts(x: Tensor, weights: Tensor, means: Tensor, deviation: float) -> tuple[Tensor, Tensor]:
    """mu_k − x, [B, K, n], and log(w_k N_k(x)) up to a constant, [B, K]."""
    offsets = means - x[:, None]
    return offsets, weights.log() - offsets.square().sum(-1) / (2 * deviation**2)


def _average(shares: Tensor, offsets: Tensor) -> Tensor:
    return (shares[..., None] * offsets).sum(1)


def _mixture_score(x: Tensor, weights: Tensor, means: Tensor, deviation: float) -> Tensor:
    offsets, log_joint = _parts(x, weights, means, deviation)
    return _average(log_joint.softmax(1), offsets) / deviation**2


def _with_shares(shares: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> Callable[..., Tensor]:
    """The score with other responsibilities: shares(offsets, log_joint, weights, deviation) -> [B, K]."""

    def wrong(x: Tensor, weights: Tensor, means: Tensor, deviation: float) -> Tensor:
        offsets, log_joint = _parts(x, weights, means, deviation)
        return _average(shares(offsets, log_joint, weights, deviation), offsets) / deviation**2

    return wrong


def _mixture_inputs() -> list[tuple[Any, ...]]:
    rng = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    far = torch.tensor([[40.0, 20.0]], dtype=torch.float64)
    return [
        (draw(7, 2), weights, draw(3, 2), 0.6),
        (draw(4, 2), weights[[2, 0, 1]], 1.5 * draw(3, 2), 1.4),
        (far, weights, draw(3, 2), 0.6),
    ]


_MIXTURE = Exercise(
    "01.1",
    reference=_mixture_score,
    inputs=_mixture_inputs(),
    tolerance=1e-4,
    mistakes=(
        Mistake(
            lambda x, weights, means, deviation: -_mixture_score(x, weights, means, deviation),
            "check the sign: the score of one Gaussian points from x to its mean, (μ − x)/s².",
        ),
        Mistake(
            lambda x, weights, means, deviation: _mixture_score(x, weights, means, deviation) * deviation**2,
            "the variance is missing: each component's score is (μ − x) divided by s².",
        ),
        Mistake(
            lambda x, weights, means, deviation: _mixture_score(x, weights, means, deviation) * deviation,
            "you divided by the deviation s. A Gaussian's exponent has s², and so has its score.",
        ),
        Mistake(
            _with_shares(lambda offsets, log_joint, weights, deviation: log_joint.softmax(0)),
            "your softmax runs over the points. The responsibilities of one point sum to 1 over the components.",
        ),
        Mistake(
            _with_shares(lambda offsets, log_joint, weights, deviation: (log_joint - weights.log()).softmax(1)),
            "the mixture's weights are missing: log w belongs in the responsibilities.",
        ),
        Mistake(
            _with_shares(lambda offsets, log_joint, weights, deviation: weights.expand_as(log_joint)),
            "you averaged with the weights. They are shares of all points; a responsibility is the share at this x.",
        ),
        Mistake(
            _with_shares(lambda offsets, log_joint, weights, deviation: log_joint.exp() / (2 * math.pi * deviation**2)),
            "this is the gradient of the density p. The score is the gradient of log p: divide by p.",
        ),
        Mistake(
            _with_shares(lambda offsets, log_joint, weights, deviation: log_joint.exp()),
            "your responsibilities do not sum to 1 at each point: divide by their sum, or take a softmax.",
        ),
        Mistake(
            _with_shares(
                lambda offsets, log_joint, weights, deviation: torch.nn.functional.one_hot(
                    log_joint.argmax(1), len(weights)
                ).to(log_joint)
            ),
            "you let the nearest component decide alone. Average over all of them.",
        ),
        Mistake(
            _with_shares(
                lambda offsets, log_joint, weights, deviation: (
                    weights.log() - offsets.square().sum(-1) / deviation**2
                ).softmax(1)
            ),
            "a Gaussian's exponent is −‖x − μ‖²/(2 s²); your responsibilities lack the 2.",
        ),
        Mistake(
            _with_shares(
                lambda offsets, log_joint, weights, deviation: (
                    weights.log() - offsets.norm(dim=-1) / (2 * deviation**2)
                ).softmax(1)
            ),
            "the distance in your responsibilities is not squared.",
        ),
        Mistake(
            _with_shares(lambda offsets, log_joint, weights, deviation: (2 * weights.log() - log_joint).softmax(1)),
            "your exponent lost its minus: as it stands, the farthest component is the most responsible.",
        ),
        Mistake(
            _with_shares(lambda offsets, log_joint, weights, deviation: log_joint.log_softmax(1)),
            "these are the logarithms of the responsibilities: take softmax, not log_softmax.",
        ),
        Mistake(
            _with_shares(
                lambda offsets, log_joint, weights, deviation: (
                    weights.log() - offsets.square().sum(-1) / (2 * deviation)
                ).softmax(1)
            ),
            "your responsibilities have s in the exponent where s² belongs.",
        ),
        Mistake(
            _with_shares(
                lambda offsets, log_joint, weights, deviation: (
                    (
                        weights + log_joint - weights.log()  # the weight added to a logarithm
                    ).softmax(1)
                )
            ),
            "you added w to a logarithm: add log w, or multiply the density by w.",
        ),
    ),
)


_NOISED = Exercise(
    "01.2",
    reference=lambda means, deviation, alpha, sigma: (alpha * means, alpha**2 * deviation**2 + sigma**2),
    inputs=[
        (torch.tensor([[2.0, 0.0], [-1.0, 1.5], [0.3, -0.7]], dtype=torch.float64), 0.5, 0.8, 0.6),
        (torch.tensor([[1.0, -2.0], [0.4, 0.9]], dtype=torch.float64), 0.25, 1.0, 1.7),
        (torch.tensor([[-1.5], [1.0]], dtype=torch.float64), 1.3, 0.3, 0.95),
    ],
    mistakes=(
        Mistake(
            lambda means, deviation, alpha, sigma: (alpha * means, alpha**2 * deviation**2 + sigma),
            "σ is the deviation of the noise that is added; its variance is σ².",
        ),
        Mistake(
            lambda means, deviation, alpha, sigma: (alpha * means, alpha * deviation**2 + sigma**2),
            "α must be squared: scaling a variable by α scales its variance by α².",
        ),
        Mistake(
            lambda means, deviation, alpha, sigma: (alpha * means, deviation**2 + sigma**2),
            "α shrinks the components, too: their variance is scaled by α².",
        ),
        Mistake(
            lambda means, deviation, alpha, sigma: (means, alpha**2 * deviation**2 + sigma**2),
            "the variance is right. The means move as well: x₀ is scaled by α.",
        ),
        Mistake(
            lambda means, deviation, alpha, sigma: (means, deviation**2 + sigma**2),
            "α is missing everywhere; this holds only for α = 1.",
        ),
        Mistake(
            lambda means, deviation, alpha, sigma: (alpha * means, (alpha * deviation + sigma) ** 2),
            "you added deviations. For independent variables the variances add.",
        ),
        Mistake(
            lambda means, deviation, alpha, sigma: (alpha * means, (alpha**2 * deviation**2 + sigma**2) ** 0.5),
            "this is the deviation; the variance is wanted, so leave out the root.",
        ),
        Mistake(
            lambda means, deviation, alpha, sigma: (alpha * means, alpha * deviation + sigma),
            "these are deviations, added. Square first, then add.",
        ),
        Mistake(
            lambda means, deviation, alpha, sigma: (alpha * means, alpha**2 * deviation + sigma**2),
            "the component's deviation must be squared to give its variance.",
        ),
        Mistake(
            lambda means, deviation, alpha, sigma: (alpha * means, alpha**2 * deviation**2),
            "the noise is missing: it adds its own variance σ².",
        ),
        Mistake(
            lambda means, deviation, alpha, sigma: (alpha * means, alpha**2 * (deviation**2 + sigma**2)),
            "α scales x₀ alone, and the noise is added afterwards: σ² stands by itself.",
        ),
        Mistake(
            lambda means, deviation, alpha, sigma: (alpha**2 * means, alpha**2 * deviation**2 + sigma**2),
            "the variance is right. A mean is scaled by α, not by α².",
        ),
    ),
)


_PENCIL = Exercise(
    "01.4",
    reference=lambda m, s, sigma: (-1 / (s**2 + sigma**2), m / (s**2 + sigma**2)),
    inputs=[(1.0, 0.5, 1.0), (-0.7, 1.6, 0.3), (2.0, 0.9, 2.5)],
    mistakes=(
        Mistake(
            lambda m, s, sigma: (1 / (s**2 + sigma**2), -m / (s**2 + sigma**2)),
            "check the sign: right of m the score points to the left.",
        ),
        Mistake(
            lambda m, s, sigma: (-1 / (s**2 + sigma**2), -m / (s**2 + sigma**2)),
            "the slope is right. The line must be zero at x = m, so b = −a m.",
        ),
        Mistake(
            lambda m, s, sigma: (-1 / (s**2 + sigma**2), m),
            "the slope is right. The line must be zero at x = m; yours is not.",
        ),
        Mistake(
            lambda m, s, sigma: (-1 / s**2, m / s**2),
            "this is the score before the noise is added. The noise widens N(m, s²).",
        ),
        Mistake(
            lambda m, s, sigma: (-1 / sigma**2, m / sigma**2),
            "this is the score of x_t if x₀ were m for sure. x₀ has a variance of its own.",
        ),
        Mistake(
            lambda m, s, sigma: (-1 / (s + sigma) ** 2, m / (s + sigma) ** 2),
            "you added deviations. For independent variables the variances add.",
        ),
        Mistake(
            lambda m, s, sigma: (-1 / (s + sigma), m / (s + sigma)),
            "s and σ are deviations; square both before you add them.",
        ),
        Mistake(
            lambda m, s, sigma: (-1 / (s**2 + sigma**2) ** 0.5, m / (s**2 + sigma**2) ** 0.5),
            "you divided by the deviation of x_t. The score has its variance below, so leave out the root.",
        ),
        Mistake(
            lambda m, s, sigma: (-0.5 / (s**2 + sigma**2), 0.5 * m / (s**2 + sigma**2)),
            "a factor 2 is lost: the derivative of (x − m)²/2 is x − m.",
        ),
        Mistake(
            lambda m, s, sigma: (-2 / (s**2 + sigma**2), 2 * m / (s**2 + sigma**2)),
            "a factor 2 too many: a Gaussian's exponent is −(x − m)²/(2v), with a 2 below.",
        ),
        Mistake(
            lambda m, s, sigma: (m / (s**2 + sigma**2), -1 / (s**2 + sigma**2)),
            "both numbers are right and in the wrong order: slope first, then height at x = 0.",
        ),
    ),
)

EXERCISES = (_MIXTURE, _NOISED, _PENCIL)
