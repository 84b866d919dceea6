"""Exercises of notebook 09, Goodhart's law and evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu, softplus

from ..checks import Exercise, Mistake, normal, outputs_and_gradients

_EXTREME = 2000.0


def _loss(of_gaps: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The mean over pairs of a function of r(preferred) − r(other)."""
    return lambda preferred, other: of_gaps(preferred - other).mean()


def _comparisons() -> list[tuple[Any, ...]]:
    """Rewards of a few pairs; in the second some lie so far apart that exp overflows and sigmoid is 0."""
    far = torch.tensor([_EXTREME, 0.5, 3.0], dtype=torch.float64)
    return [(normal(7, seed=0), normal(7, seed=1)), (normal(3, seed=2), normal(3, seed=3) + far)]


def _finite_value_and_gradients(answer: Any, *inputs: Any) -> list[Tensor]:
    """outputs_and_gradients with −1 for what is not finite, so that an overflow can be told from other errors."""
    return [torch.nan_to_num(found, -1.0, -1.0, -1.0) for found in outputs_and_gradients(answer, *inputs)]


_BRADLEY_TERRY = Exercise(
    "09.1",
    reference=_loss(lambda gap: softplus(-gap)),
    inputs=_comparisons(),
    observe=_finite_value_and_gradients,
    mistakes=(
        Mistake(
            _loss(lambda gap: -torch.sigmoid(gap).log()),
            "right on paper, but where the rewards lie far apart exp overflows, or sigmoid is 0 and its logarithm −∞. "
            "logsigmoid takes both at once, safely.",
        ),
        Mistake(
            _loss(softplus),
            "check the order: this wants the *other* picture's reward to be larger. The gap is r(preferred) − r(other).",
        ),
        Mistake(
            _loss(logsigmoid),
            "check the sign: this is the log-likelihood, which should grow. A loss is its negative.",
        ),
        Mistake(
            lambda preferred, other: softplus(other - preferred).sum(),
            "this is the sum over the pairs. Take the mean, so that the loss does not grow with their number.",
        ),
        Mistake(
            lambda preferred, other: softplus(other - preferred),
            "this is one value a pair. Take the mean over the pairs.",
        ),
        Mistake(
            _loss(lambda gap: -torch.sigmoid(gap)),
            "this is minus the probability. The likelihood of many votes is a product, so each adds its logarithm.",
        ),
        Mistake(
            _loss(lambda gap: 1 - torch.sigmoid(gap)),
            "this is the probability of a wrong vote. Take minus the logarithm of the probability of the vote.",
        ),
        Mistake(
            _loss(lambda gap: -gap),
            "this is the gap alone: it has no lower limit, so one easy pair can outweigh all others. Send it through logsigmoid.",
        ),
        Mistake(
            _loss(lambda gap: relu(1 - gap)),
            "this is the hinge loss of a classifier with a margin. Bradley and Terry have minus the logarithm of a sigmoid.",
        ),
        Mistake(
            lambda preferred, other: -(logsigmoid(preferred) - logsigmoid(other)).mean(),
            "you took the sigmoid of each reward. Only their difference is seen by the judge: subtract first.",
        ),
        Mistake(
            lambda preferred, other: -(torch.sigmoid(preferred) - torch.sigmoid(other)).mean(),
            "you took the sigmoid of each reward, and no logarithm. Subtract first, then logsigmoid.",
        ),
        Mistake(
            lambda preferred, other: softplus(-(preferred - other).mean()),
            "you averaged the gaps before the logarithm. Each pair has its own likelihood; take the mean last.",
        ),
        Mistake(
            lambda preferred, other: softplus(other.detach() - preferred).mean(),
            "the value is right, but you detached the other picture's reward: it has to fall as the preferred one rises.",
        ),
        Mistake(
            lambda preferred, other: softplus(other - preferred).mean().detach(),
            "the value is right, but no gradient flows. Leave out detach, item and float: the reward learns through this.",
        ),
    ),
)


def _interval(error: Callable[[Tensor, Tensor], Tensor], sign: int = 1) -> Callable[[Tensor, Tensor], list[Tensor]]:
    """sign · mean(after − before) with 1.96 of these standard errors to both sides."""

    def answer(before: Tensor, after: Tensor) -> list[Tensor]:
        mean, reach = sign * (after - before).mean(), 1.96 * error(before, after)
        return [mean, mean - reach, mean + reach]

    return answer


def _paired_error(before: Tensor, after: Tensor) -> Tensor:
    return (after - before).std() / math.sqrt(len(before))


def _unpaired_error(before: Tensor, after: Tensor) -> Tensor:
    return ((before.var() + after.var()) / len(before)).sqrt()


def _three(answer: Any, *inputs: Any) -> Any:
    """What an answer returns; a tensor of three taken apart."""
    value = answer(*inputs)
    return list(value) if isinstance(value, Tensor) and value.shape == (3,) else value


def _pairs() -> Sequence[tuple[Any, ...]]:
    """Values that belong together by position: the same pictures a little better, and few pictures."""
    found = []
    for count, seed in ((40, 0), (5, 2)):
        before = normal(count, seed=seed)
        found.append((before, 0.9 * before + 0.3 * normal(count, seed=seed + 1) + 0.2))
    return found


_PAIRED = Exercise(
    "09.4",
    reference=_interval(_paired_error),
    inputs=_pairs(),
    observe=_three,
    mistakes=(
        Mistake(
            _interval(_unpaired_error),
            "this is the unpaired interval: it adds the variances of before and after. Subtract row by row first, and take the "
            "deviation of the differences.",
        ),
        Mistake(
            _interval(lambda before, after: (before.std() + after.std()) / math.sqrt(len(before))),
            "you added two deviations. Subtract row by row first, and take the deviation of the differences.",
        ),
        Mistake(
            _interval(lambda before, after: after.std() / math.sqrt(len(after))),
            "this is the deviation of `after` alone. It is that of the differences after − before that counts.",
        ),
        Mistake(
            _interval(_paired_error, sign=-1),
            "check the sign: a gain is after − before.",
        ),
        Mistake(
            _interval(lambda before, after: (after - before).std()),
            "this is how far single differences scatter. The mean of n of them scatters √n times less.",
        ),
        Mistake(
            _interval(lambda before, after: (after - before).std() / len(before)),
            "the deviation of a mean falls with √n, not with n.",
        ),
        Mistake(
            _interval(lambda before, after: (after - before).std() / math.sqrt(2 * len(before))),
            "n is the number of pairs, not of pictures.",
        ),
        Mistake(
            _interval(lambda before, after: (after - before).var() / math.sqrt(len(before))),
            "you took the variance of the differences. Take its root, the deviation.",
        ),
        Mistake(
            _interval(lambda before, after: (after - before).var() / len(before)),
            "this is the variance of the mean: right so far. Its root is the standard error.",
        ),
        Mistake(
            _interval(lambda before, after: (after - before).std(correction=0) / math.sqrt(len(before))),
            "nearly: the deviation is about the mean of the same values, so divide by n − 1. torch does so by default.",
        ),
        Mistake(
            _interval(lambda before, after: _paired_error(before, after) / 1.96),
            "the 1.96 is missing: 95 % of a normal distribution lie within 1.96 deviations of its mean.",
        ),
        Mistake(
            _interval(lambda before, after: _paired_error(before, after) * 1.645 / 1.96),
            "1.645 deviations hold 90 %. For 95 % it is 1.96 to each side.",
        ),
        Mistake(
            _interval(lambda before, after: _paired_error(before, after) / 2),
            "the whole interval is to be 2 · 1.96 standard errors wide: 1.96 to *each* side of the mean.",
        ),
        Mistake(
            lambda before, after: (after - before).mean(),
            "this is the mean alone. Return it with the two ends of its interval: mean, low, high.",
        ),
        Mistake(
            lambda before, after: [(after - before).mean(), 1.96 * _paired_error(before, after)],
            "this is the mean and half the width. Return three numbers: mean, low, high.",
        ),
        Mistake(
            lambda before, after: _interval(_paired_error)(before, after)[1:],
            "the mean is missing. Return three numbers: mean, low, high.",
        ),
        Mistake(
            lambda before, after: [_interval(_paired_error)(before, after)[k] for k in (1, 0, 2)],
            "the numbers are right, the order is not: mean, low, high.",
        ),
    ),
)

EXERCISES = (_BRADLEY_TERRY, _PAIRED)
