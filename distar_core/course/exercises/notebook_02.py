"""Exercises of notebook 02, one-step generators: the assistant's loss, the pull of KL, the pencil's gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..checks import Exercise, Mistake, entries, gradients, normal, one_tensor

Score = Callable[[Tensor], Tensor]


def _a_score(weights: Tensor) -> Score:
    """An assistant with one matrix of weights, [n, n], smooth and not linear in x."""
    return lambda x: -0.4 * x + (x @ weights).sin()


def loss_and_what_it_moves(answer: Callable[..., Any], *inputs: Tensor) -> list[Tensor]:
    """The assistant's loss, and its gradient in the assistant's weights and in x_t."""
    weights, x_t, noise, sigma = inputs
    weights.requires_grad_()
    x_t.requires_grad_()
    value = one_tensor(answer(_a_score(weights), x_t, noise, sigma))
    return [value.detach(), *gradients(value, weights, x_t)]


def pull_of(answer: Callable[..., Any], *inputs: Tensor) -> list[Tensor]:
    """The shape of a loss, as zeros, and its gradient in x_t: its value means nothing."""
    own, reference, x_t = inputs
    x_t.requires_grad_()
    value = one_tensor(answer(_a_score(own), _a_score(reference), x_t))
    return [torch.zeros(value.shape, dtype=x_t.dtype), *gradients(value, x_t)]


def _denoising(assistant: Score, x_t: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    return (sigma * assistant(x_t.detach()) + noise).square().sum(-1)


_DENOISING = Exercise(
    "02.1",
    reference=_denoising,
    inputs=[
        (normal(n, n, seed=n), 1.5 * normal(6, n, seed=3), normal(6, n, seed=4), 0.2 + normal(6, 1, seed=5).abs())
        for n in (1, 2)
    ],
    observe=loss_and_what_it_moves,
    mistakes=(
        Mistake(
            lambda assistant, x_t, noise, sigma: (sigma * assistant(x_t) + noise).square().sum(-1),
            "the values are right, but the loss reaches the generator through x_t. The assistant learns about the samples; "
            "it must not move them: detach x_t.",
        ),
        Mistake(
            lambda assistant, x_t, noise, sigma: (sigma * assistant(x_t.detach()) - noise).square().sum(-1),
            "check the sign: the score aims at −ε/σ, so the error is the score plus ε/σ.",
        ),
        Mistake(
            lambda assistant, x_t, noise, sigma: (assistant(x_t.detach()) + noise).square().sum(-1),
            "a score is −ε̂/σ, not −ε̂. Multiply the score by σ before you add ε.",
        ),
        Mistake(
            lambda assistant, x_t, noise, sigma: (assistant(x_t.detach()) + noise / sigma).square().sum(-1),
            "this is the loss without its weight: multiply by σ², or take the error in eps-units.",
        ),
        Mistake(
            lambda assistant, x_t, noise, sigma: sigma**2 * (assistant(x_t.detach()) + noise / sigma).square().sum(-1),
            "sigma is [B, 1] and your sum [B], so their product is [B, B]. Multiply by σ before you sum.",
        ),
        Mistake(
            lambda assistant, x_t, noise, sigma: (assistant(x_t.detach()) + noise / sigma**2).square().sum(-1),
            "ε is divided by σ once, not twice.",
        ),
        Mistake(
            lambda assistant, x_t, noise, sigma: (sigma * (assistant(x_t.detach()) + noise)).square().sum(-1),
            "ε is multiplied by σ, too. In σ·score + ε the noise stands alone.",
        ),
        Mistake(
            lambda assistant, x_t, noise, sigma: (sigma * assistant(x_t.detach()) + noise).square().mean(-1),
            "this is the mean over the coordinates. Take their sum: a squared length.",
        ),
        Mistake(
            lambda assistant, x_t, noise, sigma: (sigma * assistant(x_t.detach()) + noise).square().sum(-1).mean(),
            "keep one value per sample, [B]. The mean over the batch is taken later.",
        ),
        Mistake(
            lambda assistant, x_t, noise, sigma: (sigma * assistant(x_t.detach()) + noise).square().sum(0),
            "you sum over the batch. Sum over the coordinates, the last axis.",
        ),
        Mistake(
            lambda assistant, x_t, noise, sigma: (sigma * assistant(x_t.detach()) + noise).norm(dim=-1),
            "this is the length of the error. Square it: only the square has the mean as its best guess.",
        ),
        Mistake(
            lambda assistant, x_t, noise, sigma: (sigma * assistant(x_t.detach()) + x_t).square().sum(-1),
            "x_t is not the target. The target is the noise that made it.",
        ),
        Mistake(
            lambda assistant, x_t, noise, sigma: (sigma * assistant(x_t.detach()) + noise).detach().square().sum(-1),
            "nothing reaches the assistant's weights. Detach x_t only.",
        ),
    ),
)


def _kl_loss(assistant: Score, reference: Score, x_t: Tensor) -> Tensor:
    return ((assistant(x_t) - reference(x_t)).detach() * x_t).sum(-1)


_KL_PULL = Exercise(
    "02.2",
    reference=_kl_loss,
    inputs=[(normal(n, n, seed=n), normal(n, n, seed=9 + n), normal(5, n, seed=7)) for n in (1, 2)],
    observe=pull_of,
    mistakes=(
        Mistake(
            lambda assistant, reference, x_t: ((assistant(x_t) - reference(x_t)) * x_t).sum(-1),
            "the gradient also runs through the scores. Detach their difference: it is a direction and nothing else.",
        ),
        Mistake(
            lambda assistant, reference, x_t: ((reference(x_t) - assistant(x_t)).detach() * x_t).sum(-1),
            "check the sign: the generator's score minus the reference's. Descent then moves x_t along the reference's arrow.",
        ),
        Mistake(
            lambda assistant, reference, x_t: ((assistant(x_t) - reference(x_t)) * x_t.detach()).sum(-1),
            "you detached the wrong factor: x_t has to stay live, the difference of the scores has to be constant.",
        ),
        Mistake(
            lambda assistant, reference, x_t: ((assistant(x_t) - reference(x_t)) * x_t).sum(-1).detach(),
            "no gradient reaches x_t at all. Detach the difference of the scores only.",
        ),
        Mistake(
            lambda assistant, reference, x_t: ((assistant(x_t) - reference(x_t)).detach() * x_t).sum(-1) / len(x_t),
            "the pull is divided by the batch size. Return one value per sample; the caller takes the mean.",
        ),
        Mistake(
            lambda assistant, reference, x_t: ((assistant(x_t) - reference(x_t)).detach() * x_t).sum(-1).mean(),
            "keep one value per sample, [B]. The mean over the batch is taken later.",
        ),
        Mistake(
            lambda assistant, reference, x_t: ((assistant(x_t) - reference(x_t)).detach() * x_t).sum(),
            "keep one value per sample, [B], not their sum.",
        ),
        Mistake(
            lambda assistant, reference, x_t: ((assistant(x_t) - reference(x_t)).detach() * x_t).mean(-1),
            "this is the mean over the coordinates. An inner product is their sum.",
        ),
        Mistake(
            lambda assistant, reference, x_t: (assistant(x_t) - reference(x_t)).square().sum(-1),
            "this is the squared length of the gap with both scores live. For KL the pull is the gap itself.",
        ),
        Mistake(
            lambda assistant, reference, x_t: (assistant(x_t) * x_t).sum(-1) - (reference(x_t).detach() * x_t).sum(-1),
            "one score is still live. Detach both.",
        ),
        Mistake(
            lambda assistant, reference, x_t: (reference(x_t).detach() * x_t).sum(-1),
            "the generator's own score is missing, and the sign of the reference's is turned: descent runs away from it.",
        ),
        Mistake(
            lambda assistant, reference, x_t: -(reference(x_t).detach() * x_t).sum(-1),
            "the generator's own score is missing. With the reference's alone all samples run uphill, to the tops of the modes.",
        ),
    ),
)


def _kl_gradient(m: Any, s: Any, sigma: Any) -> tuple[Any, Any]:
    wide, own = 1 + sigma**2, s**2 + sigma**2
    return m / wide, s / wide - s / own


_PENCIL = Exercise(
    "02.3",
    reference=_kl_gradient,
    inputs=[(1.0, 0.5, 1.0), (-0.7, 1.4, 0.6), (0.3, 0.8, 2.0)],
    observe=entries,
    mistakes=(
        Mistake(
            lambda m, s, sigma: (-_kl_gradient(m, s, sigma)[0], -_kl_gradient(m, s, sigma)[1]),
            "check the sign: this is where descent moves m and s. The gradient is the reverse.",
        ),
        Mistake(
            lambda m, s, sigma: (m / (1 + sigma**2), s / (s**2 + sigma**2) - s / (1 + sigma**2)),
            "the part for m is right. For s check which variance comes with which sign.",
        ),
        Mistake(
            lambda m, s, sigma: (m, s - 1 / s),
            "this is the gradient without noise. Both scores are those of x_t, so every variance grows by σ².",
        ),
        Mistake(
            lambda m, s, sigma: (m / (1 + sigma**2), 1 / (1 + sigma**2) - 1 / (s**2 + sigma**2)),
            "the part for m is right. ∂x_t/∂s is z, and z sits in x_t with the factor s: you lost that s.",
        ),
        Mistake(
            lambda m, s, sigma: (m / (1 + sigma**2), 0.0),
            "the part for m is right. For s multiply the gap by ∂x_t/∂s = z before you average.",
        ),
        Mistake(
            lambda m, s, sigma: (m / (s**2 + sigma**2), s / (1 + sigma**2) - s / (s**2 + sigma**2)),
            "the part for s is right. For m only the reference's score is left on average; its variance is 1 + σ².",
        ),
        Mistake(
            lambda m, s, sigma: (m / (1 + sigma), s / (1 + sigma) - s / (s + sigma)),
            "variances add, deviations do not: 1 + σ² and s² + σ².",
        ),
        Mistake(
            lambda m, s, sigma: (m / (1 + sigma**2), s / (1 + sigma**2) - s / (s + sigma**2)),
            "the part for m is right. The variance of s z is s², not s.",
        ),
        Mistake(
            lambda m, s, sigma: (m / (1 + sigma**2), s / (1 + sigma**2) - 1 / s),
            "the part for m is right. The own score, too, is that of x_t: its variance is s² + σ².",
        ),
        Mistake(
            lambda m, s, sigma: (m / (1 + sigma**2), (m + s) / (1 + sigma**2) - s / (s**2 + sigma**2)),
            "the part for m is right. The mean of z·m is 0: m drops out of the part for s.",
        ),
    ),
)


EXERCISES = (_DENOISING, _KL_PULL, _PENCIL)
