"""Exercises of notebook 11, a run from the first command to the export."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from ..checks import Exercise, Mistake, entries, normal

Seconds = Callable[[float, float, float, float], float]


def _bill(
    sample: Seconds = lambda tflop, peak, share, launch: max(tflop / (share * peak), launch),
    samples: Callable[[int, int], int] = lambda steps, batch: steps * batch,
    hour: float = 3600,
) -> Callable[..., tuple[float, float]]:
    """Hours from the seconds of a sample and the number of samples, and what they cost."""

    def answer(
        tflop: float, peak: float, share: float, launch: float, steps: int, batch: int, price: float
    ) -> tuple[float, float]:
        hours = samples(steps, batch) * sample(tflop, peak, share, launch) / hour
        return hours, hours * price

    return answer


def _turned(*given: float) -> tuple[float, float]:
    hours, cost = _bill()(*given)
    return cost, hours


_BILL = Exercise(
    "11.1",
    reference=_bill(),
    inputs=[(135.0, 165.0, 0.5, 0.3, 1000, 16, 0.5), (96.0, 312.0, 0.7, 2.9, 700, 8, 1.7)],
    observe=entries,
    mistakes=(
        Mistake(
            _bill(lambda tflop, peak, share, launch: tflop / (share * peak) + launch),
            "you let card and host wait for each other. They work at the same time, so the larger of the two is what a sample takes.",
        ),
        Mistake(
            _bill(lambda tflop, peak, share, launch: min(tflop / (share * peak), launch)),
            "you took the faster side. Both have to be done with a sample, so the slower one sets the pace.",
        ),
        Mistake(
            _bill(lambda tflop, peak, share, launch: tflop / (share * peak)),
            "the host is missing: a sample takes at least `launch` seconds, however fast the card is.",
        ),
        Mistake(
            _bill(lambda tflop, peak, share, launch: max(tflop / peak, launch)),
            "you let the card reach its peak. It reaches `share` of it, so computing takes longer.",
        ),
        Mistake(
            _bill(lambda tflop, peak, share, launch: max(tflop * share / peak, launch)),
            "a card that reaches less takes longer: divide by `share` instead of multiplying.",
        ),
        Mistake(
            _bill(samples=lambda steps, batch: steps),
            "that is a run of one sample a step: TFLOP and launching are given for a sample, and a step has `batch` of them.",
        ),
        Mistake(_bill(samples=lambda steps, batch: batch), "that is one step. The run has `steps` of them."),
        Mistake(_bill(hour=1), "these are seconds. Return hours, since the price is for an hour."),
        Mistake(_bill(hour=60), "these are minutes. Return hours, since the price is for an hour."),
        Mistake(_turned, "the two are in the wrong order: hours first, then the cost."),
    ),
)


def _at_least(
    middle: Callable[[Tensor], Tensor] = lambda lags: lags.mean().abs(),
    error: Callable[[Tensor], Tensor] = lambda lags: lags.std() / math.sqrt(len(lags)),
    sign: float = -1.0,
    floor: float = 0.0,
) -> Callable[[Tensor, float], float]:
    """How far a mean is from zero at least."""
    return lambda lags, errors: max(float(middle(lags) + sign * errors * error(lags)), floor)


_AT_LEAST = Exercise(
    "11.4",
    reference=_at_least(),
    inputs=[
        (1.2 + 0.8 * normal(40, seed=110), 3.0),
        (-0.9 + 0.5 * normal(25, seed=111), 2.0),
        (0.02 * normal(50, seed=112), 3.0),
    ],
    mistakes=(
        Mistake(
            _at_least(middle=lambda lags: lags.mean()),
            "a lag below zero is one, too: the assistant sees more than there is. Take the absolute value of the mean.",
        ),
        Mistake(
            _at_least(middle=lambda lags: lags.abs().mean()),
            "this is the mean of the absolute values, which chance alone makes large. First the mean, then its absolute value.",
        ),
        Mistake(
            _at_least(error=lambda lags: lags.std()),
            "this is the spread of single steps. The mean of n of them has an error smaller by the root of n.",
        ),
        Mistake(
            _at_least(error=lambda lags: lags.std() / len(lags)),
            "the error of a mean falls with the root of n, not with n.",
        ),
        Mistake(
            _at_least(sign=1.0),
            "this is how far the mean may be at most. At least is the other side: take the errors off.",
        ),
        Mistake(
            _at_least(sign=0.0),
            "the errors are missing: chance alone moves a mean by about one standard error, so take `errors` of them off.",
        ),
        Mistake(
            _at_least(floor=-math.inf),
            "where the errors are larger than the mean, nothing is known, and at least is 0: a distance is not negative.",
        ),
    ),
)

EXERCISES = (_BILL, _AT_LEAST)
