"""Exercises of notebook 03, the tilt and where integral KL comes to rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..checks import Exercise, Mistake


def _row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _gaussian_inputs() -> list[tuple[Any, ...]]:
    return [
        (_row(0.0, 1.0, -0.4), _row(1.0, 0.5, 2.0), _row(1.0, 3.0, 0.7)),
        (_row(0.3, 1.7), _row(0.25, 1.5), _row(-2.0, 0.4)),
    ]


def _tilted_gaussian(m: Tensor, s: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return m + alpha * s**2, s**2, alpha * m + alpha**2 * s**2 / 2


def _mixture_inputs() -> list[tuple[Any, ...]]:
    weights = _row(0.2, 0.5, 0.3)
    means = torch.tensor([[0.0, 1.0], [2.0, -0.5], [-1.0, -1.5]], dtype=torch.float64)
    deviations = _row(0.4, 0.7, 1.1)
    return [(weights, means, deviations, _row(1.0, -0.5), 0.8), (weights, means, deviations, _row(0.3, 0.6), 2.0)]


def _tilted_mixture(
    weights: Tensor,
    means: Tensor,
    deviations: Tensor,
    a: Tensor,
    alpha: float,
    *,
    second: float = 0.5,
    power: int = 2,
    square: bool = True,
    normalised: bool = True,
) -> tuple[Tensor, Tensor]:
    """The right answer, and with other options wrong ones: the factor of the term with alpha², the power of s, |a| in
    place of |a|², weights that do not sum to 1."""
    length = (a @ a) if square else (a @ a).sqrt()
    grown = weights * (alpha * means @ a + second * alpha**2 * deviations**power * length).exp()
    return grown / grown.sum() if normalised else grown, means + alpha * deviations[:, None] ** power * a


def _rest_inputs() -> list[tuple[Any, ...]]:
    sigmas = _row(0.1, 0.5, 2.0)
    return [(1.0, torch.ones(3, dtype=torch.float64), sigmas), (0.7, sigmas**2, sigmas), (2.0, _row(0.8), _row(1.5))]


EXERCISES = (
    Exercise(
        "03.1",
        reference=_tilted_gaussian,
        inputs=_gaussian_inputs(),
        mistakes=(
            Mistake(
                lambda m, s, alpha: (m + alpha, s**2, alpha * m + alpha**2 * s**2 / 2),
                "the mean does not move by α alone: a wide Gaussian has more to gain. Complete the square again.",
            ),
            Mistake(
                lambda m, s, alpha: (m + alpha * s, s**2, alpha * m + alpha**2 * s**2 / 2),
                "the mean moves by a variance, you have a deviation: s in place of s².",
            ),
            Mistake(
                lambda m, s, alpha: (m - alpha * s**2, s**2, alpha * m + alpha**2 * s**2 / 2),
                "check the sign: for α > 0 the mean must move towards more reward.",
            ),
            Mistake(
                lambda m, s, alpha: (m + alpha * s**2, s, alpha * m + alpha**2 * s**2 / 2),
                "the second value is the variance, not the deviation.",
            ),
            Mistake(
                lambda m, s, alpha: (m + alpha * s**2, s**2 / (1 + alpha * s**2), alpha * m + alpha**2 * s**2 / 2),
                "a linear reward adds nothing to the x² in the exponent. What does that say about the variance?",
            ),
            Mistake(
                lambda m, s, alpha: (m + alpha * s**2, s**2, alpha * m),
                "log Z lacks what is left over when you complete the square, the term with α².",
            ),
            Mistake(
                lambda m, s, alpha: (m + alpha * s**2, s**2, alpha * m + alpha**2 * s**2),
                "the term with α² in log Z is twice too large: mind the ½ of the exponent.",
            ),
            Mistake(
                lambda m, s, alpha: (m + alpha * s**2, s**2, (alpha * m + alpha**2 * s**2 / 2).exp()),
                "the third value is log Z; you return Z.",
            ),
            Mistake(
                lambda m, s, alpha: (m + alpha * s**2, s**2, (m + alpha * s**2) ** 2 / (2 * s**2)),
                "log Z keeps −m²/(2s²): the square of the reference has that constant, too. With α = 0, log Z is 0.",
            ),
            Mistake(
                lambda m, s, alpha: (m + alpha * s**2, s**2, -(alpha * m + alpha**2 * s**2 / 2)),
                "log Z has the wrong sign. Z is the mean of exp(αx): at m = 0 it is above 1.",
            ),
        ),
    ),
    Exercise(
        "03.2",
        reference=_tilted_mixture,
        inputs=_mixture_inputs(),
        mistakes=(
            Mistake(
                lambda *given: _tilted_mixture(*given, normalised=False),
                "the new weights do not sum to 1: divide by their sum.",
            ),
            Mistake(
                lambda *given: (given[0], _tilted_mixture(*given)[1]),
                "the weights stay as they were in your answer. Each must grow by its component's Z.",
            ),
            Mistake(
                lambda *given: _tilted_mixture(*given, second=0.0),
                "the means are right. In the weights the term with α² is missing: a wider component grows more.",
            ),
            Mistake(
                lambda *given: _tilted_mixture(*given, second=1.0),
                "the means are right. In the weights the term with α² is twice too large: mind the ½.",
            ),
            Mistake(
                lambda *given: _tilted_mixture(*given, square=False),
                "the means are right. In the weights it must be |a|², a @ a, not the length of a.",
            ),
            Mistake(
                lambda *given: _tilted_mixture(*given, power=1),
                "you used the deviation s where the variance s² is wanted.",
            ),
            Mistake(
                lambda *given: (_tilted_mixture(*given)[0], _tilted_mixture(*given, power=1)[1]),
                "the weights are right. The means move by α s² a, a variance; you have s.",
            ),
            Mistake(
                lambda weights, means, deviations, a, alpha: _tilted_mixture(weights, means, deviations, a, -alpha),
                "check the sign: α > 0 means more reward, not less.",
            ),
            Mistake(
                lambda *given: (_tilted_mixture(*given)[0], given[1]),
                "the weights are right. The means have to move, too, each by α s² a.",
            ),
            Mistake(
                lambda *given: (_tilted_mixture(*given)[0].log(), _tilted_mixture(*given)[1]),
                "the first value is the weights; you return their logarithms.",
            ),
            Mistake(
                lambda *given: _tilted_mixture(torch.ones_like(given[0]), *given[1:]),
                "the means are right. The old weights are forgotten: each Z_k multiplies its own w_k.",
            ),
        ),
    ),
    Exercise(
        "03.4",
        reference=lambda alpha, weights, sigmas: alpha / (weights / (1 + sigmas**2)).mean(),
        inputs=_rest_inputs(),
        mistakes=(
            Mistake(
                lambda alpha, weights, sigmas: (alpha * (1 + sigmas**2) / weights).mean(),
                "you averaged the points of rest. It is the pulls of the levels that add up: average those, then solve.",
            ),
            Mistake(
                lambda alpha, weights, sigmas: alpha / (weights / (1 + sigmas**2)).sum(),
                "you summed the levels. Each is drawn with equal chance, so their mean is wanted.",
            ),
            Mistake(
                lambda alpha, weights, sigmas: alpha * (1 + (sigmas**2).mean()) / weights.mean(),
                "you averaged weights and levels apart. Each level pulls with its own w/(1 + σ²): average that.",
            ),
            Mistake(
                lambda alpha, weights, sigmas: alpha / weights.mean(),
                "without 1 + σ² the noise is forgotten: it widens both Gaussians, and the leash gets softer.",
            ),
            Mistake(
                lambda alpha, weights, sigmas: alpha / (weights / sigmas**2).mean(),
                "the noised reference has variance 1 + σ², not σ².",
            ),
            Mistake(
                lambda alpha, weights, sigmas: alpha / (weights / (1 + sigmas)).mean(),
                "variances add, deviations do not: 1 + σ² in place of 1 + σ.",
            ),
            Mistake(
                lambda alpha, weights, sigmas: -alpha / (weights / (1 + sigmas**2)).mean(),
                "check the sign: at rest the leash balances the reward, so m lies on the reward's side.",
            ),
            Mistake(
                lambda alpha, weights, sigmas: alpha * (weights / (1 + sigmas**2)).mean(),
                "this is upside down: a stronger leash must bring m closer to 0.",
            ),
            Mistake(
                lambda alpha, weights, sigmas: alpha * (1 + sigmas**2) / weights,
                "this is one point of rest a level. The generator has one m, and the mean of all pulls acts on it.",
            ),
        ),
    ),
)
