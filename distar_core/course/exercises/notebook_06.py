"""Exercises of notebook 06, guidance as an implicit reward."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..checks import Exercise, Mistake, outputs_and_gradients


def _gaussian(x: Tensor, mean: float, variance: Any) -> Tensor:
    return -(x - mean) / variance


def _guided(
    x: Tensor, sigma: float, cfg_scale: float, mean_c: float, dev_c: float, dev_0: float, mix: Callable[..., Tensor]
) -> Tensor:
    """The scores of N(mean_c, dev_c² + sigma²) and N(0, dev_0² + sigma²), put together by mix(conditional, null, scale)."""
    return mix(_gaussian(x, mean_c, dev_c**2 + sigma**2), _gaussian(x, 0.0, dev_0**2 + sigma**2), cfg_scale)


def _mixed(mix: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return partial(_guided, mix=mix)


def _additive(conditional: Tensor, null: Tensor, scale: float) -> Tensor:
    return conditional + scale * (conditional - null)


def _noise_once(kind: str) -> Callable[..., Tensor]:
    """The additive form with one of the variances wrong."""

    def wrong(x: Tensor, sigma: float, cfg_scale: float, mean_c: float, dev_c: float, dev_0: float) -> Tensor:
        variances = {
            "none": (dev_c**2, dev_0**2),
            "null without": (dev_c**2 + sigma**2, dev_0**2),
            "condition without": (dev_c**2, dev_0**2 + sigma**2),
            "deviations": (dev_c + sigma, dev_0 + sigma),
            "root": ((dev_c**2 + sigma**2) ** 0.5, (dev_0**2 + sigma**2) ** 0.5),
            "sigma as it is": (dev_c**2 + sigma, dev_0**2 + sigma),
            "squared sum": ((dev_c + sigma) ** 2, (dev_0 + sigma) ** 2),
        }
        of_c, of_0 = variances[kind]
        return _additive(_gaussian(x, mean_c, of_c), _gaussian(x, 0.0, of_0), cfg_scale)

    return wrong


def _null_score(wrong: Callable[[Tensor, float, float], Tensor]) -> Callable[..., Tensor]:
    """The additive form with wrong(x, mean_c, noised variance) for the null score."""

    def answer(x: Tensor, sigma: float, cfg_scale: float, mean_c: float, dev_c: float, dev_0: float) -> Tensor:
        conditional = _gaussian(x, mean_c, dev_c**2 + sigma**2)
        return _additive(conditional, wrong(x, mean_c, dev_0**2 + sigma**2), cfg_scale)

    return answer


def _sharpened_then_noised(
    x: Tensor, sigma: float, cfg_scale: float, mean_c: float, dev_c: float, dev_0: float
) -> Tensor:
    precision = (1 + cfg_scale) / dev_c**2 - cfg_scale / dev_0**2
    mean = (1 + cfg_scale) * mean_c / dev_c**2 / precision
    return _gaussian(x, mean, 1 / precision + sigma**2)


_X = torch.linspace(-2, 3, 6, dtype=torch.float64)
_PENCIL = Exercise(
    "06.1",
    reference=_mixed(_additive),
    inputs=[(_X, 0.3, 1.0, 1.0, 0.5, 1.0), (_X, 1.0, 3.0, 1.0, 0.5, 1.0), (_X, 0.7, 0.4, -0.6, 0.8, 1.5)],
    mistakes=(
        Mistake(
            _mixed(lambda c, n, w: n + w * (c - n)),
            "this is the other spelling, s_null + g (s_c − s_null): there 1 is off. Ours starts from s_c, and 0 is off.",
        ),
        Mistake(
            _mixed(lambda c, n, w: c - w * (c - n)),
            "check the sign: this goes from s_c towards s_null, as an interpolation does. Guidance goes away from s_null: add "
            "cfg_scale times s_c − s_null.",
        ),
        Mistake(
            _mixed(lambda c, n, w: n + w * (n - c)),
            "you guided the wrong one: start from the conditional score, and move away from the null score.",
        ),
        Mistake(
            _mixed(lambda c, n, w: c + w * c),
            "the null score is missing: subtract it in the bracket.",
        ),
        Mistake(
            _mixed(lambda c, n, w: w * (c - n)),
            "this is the bracket alone; guidance adds it to the conditional score.",
        ),
        Mistake(
            _null_score(lambda x, mean, variance: x / variance),
            "check the sign of the null's score: it points back to 0, −x/(dev_0² + σ²).",
        ),
        Mistake(
            _null_score(_gaussian),
            "the null's mean is 0, not the condition's.",
        ),
        Mistake(
            _mixed(lambda c, n, w: -_additive(c, n, w)),
            "check the sign of the Gaussian's score: it points back to the mean, −(x − mean)/variance.",
        ),
        Mistake(
            _noise_once("none"),
            "the noise is missing: at level σ the variances are dev_c² + σ² and dev_0² + σ².",
        ),
        Mistake(
            _noise_once("null without"),
            "the noise is missing in the null's variance: x_t is noised, whatever the condition.",
        ),
        Mistake(
            _noise_once("condition without"),
            "the noise is missing in the condition's variance: x_t is noised, whatever the condition.",
        ),
        Mistake(
            _noise_once("root"),
            "you divide by the noised deviation; a Gaussian's score has the variance below: leave the square root out.",
        ),
        Mistake(
            _noise_once("sigma as it is"),
            "σ is a deviation: its square adds to the variance.",
        ),
        Mistake(
            _noise_once("deviations"),
            "you divide by a sum of deviations; a Gaussian's score has the variance below: squares, dev² + σ².",
        ),
        Mistake(
            _noise_once("squared sum"),
            "you squared a sum. Variances of independent terms add: dev² + σ², not (dev + σ)².",
        ),
        Mistake(
            _sharpened_then_noised,
            "this is the sharpened Gaussian, noised afterwards. Guidance mixes the two noised scores; it is not the same.",
        ),
    ),
)


def _loss(conditional: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """−<direction, x_t> per sample, for direction(x_t, s_c, s_null)."""
    return lambda x_t, s_c, s_null: -(conditional(x_t, s_c, s_null) * x_t).sum(-1)


def _loss_inputs() -> list[tuple[Any, ...]]:
    rng = torch.Generator().manual_seed(6)
    return [tuple(torch.randn(count, 2, generator=rng, dtype=torch.float64) for _ in range(3)) for count in (5, 3)]


_CFG_LOSS = Exercise(
    "06.2",
    reference=_loss(lambda x_t, s_c, s_null: (s_c - s_null).detach()),
    inputs=_loss_inputs(),
    observe=outputs_and_gradients,
    mistakes=(
        Mistake(
            _loss(lambda x_t, s_c, s_null: s_c - s_null),
            "the value is right, but gradient flows into the scores. Detach their difference: the pull must be the "
            "difference itself.",
        ),
        Mistake(
            lambda x_t, s_c, s_null: _loss(lambda x, c, n: c - n)(x_t.detach(), s_c, s_null),
            "you detached x_t, and the scores carry the gradient. It is the other way round: x_t is what moves.",
        ),
        Mistake(
            lambda x_t, s_c, s_null: -((s_c - s_null) * x_t).sum(-1).detach(),
            "everything is detached, so nothing moves. Only the scores are constants.",
        ),
        Mistake(
            _loss(lambda x_t, s_c, s_null: (s_null - s_c).detach()),
            "check the sign: this is a loss, and the implicit reward should grow along s_c − s_null.",
        ),
        Mistake(
            _loss(lambda x_t, s_c, s_null: s_null - s_c),
            "check the sign, and then detach the scores.",
        ),
        Mistake(
            _loss(lambda x_t, s_c, s_null: s_c.detach()),
            "the null score is missing. Without it you raise log p(x_t | c), which is another reward.",
        ),
        Mistake(
            _loss(lambda x_t, s_c, s_null: s_c - s_null.detach()),
            "s_c still carries a gradient. Detach both.",
        ),
        Mistake(
            _loss(lambda x_t, s_c, s_null: s_c.detach() - s_null),
            "s_null still carries a gradient. Detach both.",
        ),
        Mistake(
            lambda x_t, s_c, s_null: (x_t - (x_t + s_c - s_null).detach()).square().sum(-1) / 2,
            "the gradient is right, by another loss; the value is not. Write the product itself, −sg[s_c − s_null]ᵀ x_t.",
        ),
        Mistake(
            lambda x_t, s_c, s_null: (s_c - s_null).square().sum(-1),
            "this is the squared length of s_c − s_null. The loss is its product with x_t.",
        ),
        Mistake(
            lambda x_t, s_c, s_null: -((s_c - s_null).detach() * x_t).sum(),
            "this is the sum over the batch. Return one value per sample: sum over the last axis only.",
        ),
        Mistake(
            lambda x_t, s_c, s_null: -((s_c - s_null).detach() * x_t).sum(-1).mean(),
            "this is the mean over the batch. Return one value per sample; the caller takes the mean.",
        ),
        Mistake(
            lambda x_t, s_c, s_null: -((s_c - s_null).detach() * x_t).mean(-1),
            "take the sum over the elements of a sample, not their mean: the pull would be too short.",
        ),
        Mistake(
            lambda x_t, s_c, s_null: -((s_c - s_null).detach() * x_t),
            "sum the products over the elements of a sample, so that one value per sample is left.",
        ),
    ),
)

EXERCISES = (_PENCIL, _CFG_LOSS)
