"""Exercises of notebook 04, Theorem 3.1: the projection, the loss with its path through x_t, the pencil's gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...truth.quadrature import huber
from ..checks import Exercise, Mistake, entries, gradients, normal, one_tensor

Score = Callable[[Tensor], Tensor]


def _score(spread: float, bend: float) -> Score:
    """A smooth vector field in any dimension that no two of its derivatives make look alike."""
    return lambda x: -x / spread + bend * (1.3 * x.flip(-1)).sin()


def _products(u: Score, score: Score, x_t: Tensor, noise: Tensor, sigma: Any) -> Tensor:
    return (u(x_t) * (score(x_t) + noise / sigma)).sum(-1)


def _mean_and_error(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.mean(), values.std() / math.sqrt(len(values))


def _projection(u: Score, score: Score, x_t: Tensor, noise: Tensor, sigma: Any) -> tuple[Tensor, Tensor]:
    return _mean_and_error(_products(u, score, x_t, noise, sigma))


def _projection_inputs() -> list[tuple[Any, ...]]:
    return [
        (_score(2.0, 0.7), _score(1.4, -0.5), 1.2 * normal(900, n, seed=n) + 0.3, normal(900, n, seed=9 + n), sigma)
        for n, sigma in ((1, 0.7), (2, 1.6))
    ]


_PROJECTION = Exercise(
    "04.1",
    reference=_projection,
    inputs=_projection_inputs(),
    mistakes=(
        Mistake(
            lambda u, score, x_t, noise, sigma: _mean_and_error((u(x_t) * (score(x_t) - noise / sigma)).sum(-1)),
            "check the sign in the braces: the conditional score is −ε/σ, and it is subtracted from the score.",
        ),
        Mistake(
            lambda u, score, x_t, noise, sigma: _mean_and_error((u(x_t) * (score(x_t) + noise)).sum(-1)),
            "the noise must be divided by σ: a score is −ε/σ, not −ε.",
        ),
        Mistake(
            lambda u, score, x_t, noise, sigma: _mean_and_error((u(x_t) * (sigma * score(x_t) + noise)).sum(-1)),
            "this is σ times what is asked. Here the braces are in score units: the score plus ε/σ.",
        ),
        Mistake(
            lambda u, score, x_t, noise, sigma: _mean_and_error((u(x_t) * score(x_t)).sum(-1)),
            "the braces lack the conditional score: add ε/σ to the score.",
        ),
        Mistake(
            lambda u, score, x_t, noise, sigma: _mean_and_error((score(x_t) + noise / sigma).sum(-1)),
            "u is missing: multiply the braces by u(x_t).",
        ),
        Mistake(
            lambda u, score, x_t, noise, sigma: (
                _products(u, score, x_t, noise, sigma).mean(),
                _products(u, score, x_t, noise, sigma).std(),
            ),
            "the mean is right. The second number is the spread of one sample; the mean's error is √N times smaller.",
        ),
        Mistake(
            lambda u, score, x_t, noise, sigma: (
                _products(u, score, x_t, noise, sigma).mean(),
                _products(u, score, x_t, noise, sigma).var() / len(x_t),
            ),
            "the mean is right. The second number is the squared error of the mean; take its root.",
        ),
        Mistake(
            lambda u, score, x_t, noise, sigma: (
                _products(u, score, x_t, noise, sigma).mean(),
                _products(u, score, x_t, noise, sigma).std() / len(x_t),
            ),
            "the mean is right. The second number is divided by N; the mean's error falls with √N.",
        ),
        Mistake(
            lambda u, score, x_t, noise, sigma: (
                (u(x_t) * (score(x_t) + noise / sigma)).mean(),
                (u(x_t) * (score(x_t) + noise / sigma)).std() / math.sqrt(len(x_t)),
            ),
            "the coordinates are summed, not averaged: u and the braces are vectors, so sum over dim=1 first.",
        ),
        Mistake(
            lambda u, score, x_t, noise, sigma: _mean_and_error((u(x_t) * (score(x_t) + noise / sigma)).flatten()),
            "sum over the coordinates first: u and the braces are vectors, and one sample gives one number.",
        ),
        Mistake(_products, "these are the products, one per sample. Return their mean and the error of that mean."),
        Mistake(
            lambda u, score, x_t, noise, sigma: _products(u, score, x_t, noise, sigma).mean(),
            "this is the mean alone. Return two numbers: the mean and its standard error.",
        ),
    ),
    observe=entries,
    tolerance=2e-3,
)


def value_and_pull(answer: Callable[..., Any], x_t: Tensor, *others: Any) -> list[Tensor]:
    """A loss per sample [B] and the gradient of its sum in x_t [B, n]; zeros where no path leads to x_t.

    The noise and sigma are constants of the theorem, so whether a gradient flows to them is not looked at.
    """
    x_t.requires_grad_()
    value = one_tensor(answer(x_t, *others))
    return [value.detach(), *gradients(value, x_t)]


def _slope(y: Tensor, c: float) -> Tensor:
    """d'(y) of pseudo-Huber, from truth/quadrature.py: the answers of the exercises share nothing with losses.py."""
    return huber(c).derivative(y)


def _distance(y: Tensor, c: float) -> Tensor:
    return huber(c).value(y)


def _loss(
    x_t: Tensor,
    noise: Tensor,
    sigma: Tensor,
    assistant: Score,
    reference: Score,
    c: float,
    *,
    slope: Callable[[Tensor, float], Tensor] = _slope,
) -> Tensor:
    own = assistant(x_t)
    return -(slope(sigma * (own - reference(x_t)), c) * (sigma * own + noise)).sum(-1)


def _frozen(score: Score) -> Score:
    return lambda x: score(x).detach()


def _loss_inputs() -> list[tuple[Any, ...]]:
    def inputs(n: int, c: float, seed: int) -> tuple[Any, ...]:
        sigma = 0.3 + 1.5 * torch.rand(6, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return (
            1.5 * normal(6, n, seed=seed),
            normal(6, n, seed=seed + 1),
            sigma,
            _score(1.5, 0.4),
            _score(0.9, -0.3),
            c,
        )

    return [inputs(2, 0.3, 10), inputs(3, 1.0, 20)]


_LOSS = Exercise(
    "04.2",
    reference=_loss,
    inputs=_loss_inputs(),
    mistakes=(
        Mistake(
            lambda x, e, s, a, r, c: _loss(x, e, s, a, r, c, slope=lambda y, c: _slope(y, c).detach()),
            "the value is right, the gradient is not: you detached d′. It is a function of x_t, and its change counts.",
        ),
        Mistake(
            lambda x, e, s, a, r, c: -(_slope(s * (a(x) - r(x)), c) * (s * a(x) + e).detach()).sum(-1),
            "the value is right, the gradient is not: you detached the braces. The assistant in them is a function of "
            "x_t.",
        ),
        Mistake(
            lambda x, e, s, a, r, c: _loss(x.detach(), e, s, a, r, c),
            "the value is right, but no gradient at all reaches x_t: you detached x_t, or both scores. The only way "
            "from this loss to the generator leads through x_t.",
        ),
        Mistake(
            lambda x, e, s, a, r, c: _loss(x, e, s, a, _frozen(r), c),
            "the value is right, the gradient is not: you detached the reference's score. Frozen are its weights; as a "
            "function of x_t it stays live.",
        ),
        Mistake(
            lambda x, e, s, a, r, c: _loss(x, e, s, _frozen(a), r, c),
            "the value is right, the gradient is not: you detached the assistant's score. Constant are its weights; as "
            "a function of x_t it stays live.",
        ),
        Mistake(
            lambda x, e, s, a, r, c: -(_slope(s * (a(x).detach() - r(x)), c) * (s * a(x) + e)).sum(-1),
            "the value is right, the gradient is not: inside d′ you detached the assistant's score. Leave it live.",
        ),
        Mistake(lambda *given: -_loss(*given), "check the sign: the loss is minus d′ times the braces."),
        Mistake(
            lambda x, e, s, a, r, c: -(_slope(s * (a(x) - r(x)), c) * s * a(x)).sum(-1),
            "the braces lack the conditional score: in eps-units they are σ s_ψ + ε.",
        ),
        Mistake(
            lambda x, e, s, a, r, c: -(_slope(s * (a(x) - r(x)), c) * (s * a(x) - e)).sum(-1),
            "check the sign inside the braces: the conditional score −ε/σ is subtracted, so ε comes with a plus.",
        ),
        Mistake(
            lambda x, e, s, a, r, c: -(_slope(s * (a(x) - r(x)), c) * (a(x) + e / s)).sum(-1),
            "the gap is in eps-units, the braces are not: both factors carry the unit, so multiply the braces by σ.",
        ),
        Mistake(
            lambda x, e, s, a, r, c: -(_slope(s * (a(x) - r(x)), c) * (a(x) + e)).sum(-1),
            "in the braces σ is in neither place: s_ψ + ε/σ in score units, σ s_ψ + ε in eps-units. Take the second.",
        ),
        Mistake(
            lambda x, e, s, a, r, c: -(_slope(a(x) - r(x), c) * (s * a(x) + e)).sum(-1),
            "the gap inside d′ is in score units. Multiply it by σ before d′ sees it.",
        ),
        Mistake(
            lambda x, e, s, a, r, c: -(_slope(a(x) - r(x), c) * (a(x) + e / s)).sum(-1),
            "this is the loss in score units, another objective. In eps-units σ multiplies the gap and the braces.",
        ),
        Mistake(
            lambda x, e, s, a, r, c: _distance(s * (a(x) - r(x)), c),
            "this is d itself. Its gradient with frozen scores shrinks the generator; the loss is −d′ times the braces.",
        ),
        Mistake(
            lambda x, e, s, a, r, c: _loss(x, e, s, a, r, c) + _distance(s * (a(x) - r(x)), c),
            "you added d. That is right when the sampling law is differentiated; here it is frozen.",
        ),
        Mistake(
            lambda x, e, s, a, r, c: _loss(x, e, s, a, r, c, slope=lambda y, c: 2 * y),
            "this is squared L2, whose d′ is 2y. Pseudo-Huber divides y by sqrt(‖y‖² + c²).",
        ),
        Mistake(
            lambda x, e, s, a, r, c: _loss(x, e, s, a, r, c, slope=lambda y, c: y / (y.square() + c**2).sqrt()),
            "‖y‖² is the sum over the coordinates of a sample; you took each coordinate by itself. Sum with "
            "keepdim=True.",
        ),
        Mistake(
            lambda x, e, s, a, r, c: _loss(
                x, e, s, a, r, c, slope=lambda y, c: y / (y.square().sum(-1, keepdim=True) + c).sqrt()
            ),
            "the constant under the root is c², not c.",
        ),
        Mistake(
            lambda x, e, s, a, r, c: _loss(
                x, e, s, a, r, c, slope=lambda y, c: y / (y.square().sum(-1, keepdim=True).sqrt() + c)
            ),
            "c belongs under the root: √(‖y‖² + c²), not ‖y‖ + c.",
        ),
        Mistake(
            lambda x, e, s, a, r, c: s[:, 0] * _loss(x, e, s, a, r, c),
            "one σ too many: σ in front of d′ times {s_ψ + ε/σ} is d′ times {σ s_ψ + ε}. Use it once.",
        ),
        Mistake(
            lambda x, e, s, a, r, c: -(_slope(s * (a(x) - r(x)), c) * (s * r(x) + e)).sum(-1),
            "the braces hold the assistant's score, not the reference's: it stands for the generator's own.",
        ),
        Mistake(
            lambda x, e, s, a, r, c: -_slope(s * (a(x) - r(x)), c) * (s * a(x) + e),
            "one number a sample is wanted: sum the products over the coordinates.",
        ),
        Mistake(
            lambda *given: _loss(*given).mean(),
            "you took the mean over the batch. Return one number a sample; the caller takes the mean.",
        ),
    ),
    observe=value_and_pull,
)


def _by_variances(m: float, s: float, v: float, q: float) -> tuple[float, float]:
    """The gradient where x_t has variance v under the generator and q under the reference."""
    return 2 * m / (q * v), 4 * s * (v - q) / (q * v**2)


def _pencil(m: float, s: float, sigma: float) -> tuple[float, float]:
    return _by_variances(m, s, s**2 + sigma**2, 1 + sigma**2)


def _moving(m: float, s: float, sigma: float) -> tuple[float, float]:
    v, q = s**2 + sigma**2, 1 + sigma**2
    return 2 * m / q**2, 2 * s * (v - q) * (v + q) / (q * v) ** 2


_PENCIL = Exercise(
    "04.3",
    reference=_pencil,
    inputs=[(1.0, 0.5, 1.0), (-0.7, 1.4, 0.6), (0.3, 0.8, 2.0)],
    observe=entries,
    mistakes=(
        Mistake(
            _moving,
            "this is the gradient with the law moving as well. Here the law is frozen: only s_θ is differentiated.",
        ),
        Mistake(
            lambda m, s, sigma: (
                m / (1 + sigma**2),
                s * (s**2 - 1) / ((1 + sigma**2) * (s**2 + sigma**2)),
            ),
            "this is the gradient of KL between the two noised Gaussians, not of the score divergence.",
        ),
        Mistake(
            lambda m, s, sigma: tuple(g / 2 for g in _pencil(m, s, sigma)),
            "both are too small by a factor of two: d(y) = y² has the derivative 2y.",
        ),
        Mistake(
            lambda m, s, sigma: (_pencil(m, s, sigma)[0], _pencil(m, s, sigma)[1] / 2),
            "m is right, s is half of what it should be: that is what detaching d′ gives. Differentiate s_θ in s: "
            "v = s² + σ² brings a factor 2s.",
        ),
        Mistake(
            lambda m, s, sigma: (_pencil(m, s, sigma)[0], _pencil(m, s, sigma)[1] / (2 * s)),
            "m is right. The second number is the derivative in v = s² + σ²; the one in s has another factor 2s.",
        ),
        Mistake(
            lambda m, s, sigma: (_pencil(m, s, sigma)[0], _pencil(m, s, sigma)[1] * (s**2 + sigma**2)),
            "m is right, s is v times too large: ∂_s s_θ brings 1/v², 1/q − 1/v brings 1/(qv), and E ξ² = v takes one "
            "v away. 1/(qv²) is left.",
        ),
        Mistake(
            lambda m, s, sigma: (
                _pencil(m, s, sigma)[0],
                _pencil(m, s, sigma)[1] * s**2 / (s**2 + sigma**2),
            ),
            "m is right. In s you took E ξ² = s²: ξ = x_t − m holds the noise, too, so E ξ² = v = s² + σ².",
        ),
        Mistake(
            lambda m, s, sigma: (_moving(m, s, sigma)[0], _pencil(m, s, sigma)[1]),
            "s is right. In m you differentiated D = m²/q² + …; with the law frozen, ∂_m s_θ is 1/v, not 1/q.",
        ),
        Mistake(
            lambda m, s, sigma: _by_variances(m, s, s**2 + sigma, 1 + sigma),
            "variances add, not deviations: v = s² + σ² and q = 1 + σ², each with σ squared.",
        ),
        Mistake(
            lambda m, s, sigma: _by_variances(m, s, s**2, 1.0),
            "these are the clean Gaussians. Everything happens at the noised samples: add σ² to both variances.",
        ),
        Mistake(
            lambda m, s, sigma: _by_variances(m, s, s**2 + sigma**2, 1.0),
            "the reference is noised, too: its variance at this level is q = 1 + σ².",
        ),
        Mistake(
            lambda m, s, sigma: tuple(-g for g in _pencil(m, s, sigma)),
            "check the sign: this is the direction of descent. The gradient is its negative.",
        ),
        Mistake(
            lambda m, s, sigma: (_pencil(m, s, sigma)[0], -_pencil(m, s, sigma)[1]),
            "m is right, the sign of s is not: a generator that is too narrow, v < q, must get a negative number.",
        ),
        Mistake(
            lambda m, s, sigma: tuple(sigma**2 * g for g in _pencil(m, s, sigma)),
            "this is the gradient in eps-units. Asked are score units: leave the factor σ² out.",
        ),
        Mistake(
            lambda m, s, sigma: tuple(
                moving - frozen for moving, frozen in zip(_moving(m, s, sigma), _pencil(m, s, sigma), strict=True)
            ),
            "this is what differentiating the law adds. Keep the law fixed and differentiate s_θ instead.",
        ),
    ),
)

EXERCISES = (_PROJECTION, _LOSS, _PENCIL)
