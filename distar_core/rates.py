"""Learning rates as functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable


def cosine_decay(rate: float, steps: int) -> Callable[[int], float]:
    """A learning rate that falls from `rate` to 0 over the steps as half a cosine; `rate` itself in the warm-up."""
    return lambda step: rate * 0.5 * (1 + math.cos(math.pi * min(max(step, 0), steps) / steps))


def decay(rate: float, steps: int, *, rise: int = 0) -> Callable[[int], float]:
    """A learning rate over warm-up steps −steps … −1: half a cosine down to 0, times a linear rise over the first `rise`."""
    fall = cosine_decay(rate, steps)
    return lambda step: min(1.0, (step + steps + 1) / (rise + 1)) * fall(step + steps)
