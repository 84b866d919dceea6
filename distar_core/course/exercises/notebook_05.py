"""Exercises of notebook 05, score against KL, fairly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..checks import Exercise, Mistake


def pseudo_huber(y: Tensor, c: float) -> tuple[Tensor, Tensor]:
    """d = sqrt(‖y‖² + c²) − c without its cancellation, [B], and d' = y/sqrt(‖y‖² + c²), [B, n]."""
    rho = _rho(y, c)
    return y.square().sum(-1) / (rho + c), y / rho[:, None]


def _rho(y: Tensor, c: float) -> Tensor:
    return (y.square().sum(-1) + c**2).sqrt()


def _gaps() -> list[tuple[Any, ...]]:
    """Gaps around c in double precision, and gaps far below c in single, where rho − c loses its digits."""
    rng = torch.Generator().manual_seed(0)
    gaps = torch.randn(6, 3, generator=rng, dtype=torch.float64)
    small = 0.1 * torch.randn(4, 2, generator=rng)
    return [(gaps, 0.3), (3 * gaps, 1.7), (small, 400.0)]


def value_and_slope(answer: Any, y: Tensor, c: float) -> Any:
    """d and d'; in single precision, instead of d, whether it is within 5 % of ‖y‖²/2c for every sample."""
    found = answer(y, c)
    if y.dtype == torch.float64 or not isinstance(found, (tuple, list)) or len(found) != 2:
        return found
    ratio = torch.as_tensor(found[0]).double() * 2 * c / y.double().square().sum(-1)
    return [float(bool(((ratio - 1).abs() < 0.05).all())), found[1]]


def kl_drop(sigma: Tensor, squared_gap: Tensor) -> Tensor:
    """½ ∫ gap² d(sigma²) = ∫ sigma² gap² d log sigma by the trapezoid rule; [T], [T] -> []."""
    return torch.trapezoid(sigma**2 * squared_gap, sigma.log())


def _levels() -> list[tuple[Any, ...]]:
    sigma = torch.logspace(-1, 0.6, 2001, dtype=torch.float64)
    shifted = 1 / (1 + sigma**2) ** 2
    narrow = (0.25 + sigma**2) * (1 / (1 + sigma**2) - 1 / (0.25 + sigma**2)) ** 2
    return [(sigma, shifted), (sigma[::2], narrow[::2])]


EXERCISES = (
    Exercise(
        "05.1",
        reference=pseudo_huber,
        inputs=_gaps(),
        observe=value_and_slope,
        mistakes=(
            Mistake(
                lambda y, c: (_rho(y, c) - c, y / _rho(y, c)[:, None]),
                "right on paper, but where ‖y‖ is far below c, ρ − c subtracts two nearly equal numbers and loses its"
                " digits. Multiply above and below with ρ + c.",
            ),
            Mistake(
                lambda y, c: (((y**2 + c**2).sqrt() - c).sum(-1), y / (y**2 + c**2).sqrt()),
                "you took the root element by element. There is one ρ per sample: sum the squares over the elements first.",
            ),
            Mistake(
                lambda y, c: (pseudo_huber(y, c)[0], y / (y**2 + c**2).sqrt()),
                "d is right; in d' you took the root element by element. Use the sample's one ρ there, too.",
            ),
            Mistake(
                lambda y, c: (_rho(y, c), y / _rho(y, c)[:, None]),
                "you forgot −c: at y = 0 the distance must be 0, yours is c.",
            ),
            Mistake(
                lambda y, c: (
                    (y.square().sum(-1) + c).sqrt() - c**0.5,
                    y / (y.square().sum(-1) + c).sqrt()[:, None],
                ),
                "c goes under the root squared: ρ² = ‖y‖² + c².",
            ),
            Mistake(
                lambda y, c: ((y.square().sum(-1) + c).sqrt() - c, y / (y.square().sum(-1) + c).sqrt()[:, None]),
                "c goes under the root squared, or the distance is not 0 at y = 0.",
            ),
            Mistake(
                lambda y, c: (pseudo_huber(y, c)[0], y),
                "d is right; d' lacks ρ: the derivative of the root divides by it.",
            ),
            Mistake(
                lambda y, c: (pseudo_huber(y, c)[0], 2 * y / _rho(y, c)[:, None]),
                "d is right; d' is twice too large: the derivative of a root has a ½ that meets the 2 of the square.",
            ),
            Mistake(
                lambda y, c: (pseudo_huber(y, c)[0], y / y.norm(dim=-1, keepdim=True)),
                "d is right; d' is the unit vector, which is the limit c → 0. Divide by ρ, which holds c.",
            ),
            Mistake(
                lambda y, c: (y.square().sum(-1) / (2 * c), y / _rho(y, c)[:, None]),
                "d' is right; d is the parabola ‖y‖²/2c, which is good for ‖y‖ far below c only. Your form must hold everywhere.",
            ),
            Mistake(
                lambda y, c: (c * pseudo_huber(y, c)[0], c * pseudo_huber(y, c)[1]),
                "this is c times what is asked: many books write c²(√(1 + ‖y‖²/c²) − 1). Divide both by c, so that the slope"
                " comes near 1 far out.",
            ),
            Mistake(
                lambda y, c: (c * pseudo_huber(y, c)[0], pseudo_huber(y, c)[1]),
                "d' is right; d is c times too large: many books write c²(√(1 + ‖y‖²/c²) − 1). Divide it by c.",
            ),
            Mistake(
                lambda y, c: (y.square().sum(-1), 2 * y),
                "this is squared L2. Pseudo-Huber puts ‖y‖² + c² under a root.",
            ),
        ),
    ),
    Exercise(
        "05.2",
        reference=kl_drop,
        inputs=_levels(),
        tolerance=1e-4,
        mistakes=(
            Mistake(
                lambda sigma, squared_gap: torch.trapezoid(squared_gap, sigma.log()),
                "the gap is in score units. In d(σ²) = 2σ² d log σ there is a σ² to multiply with.",
            ),
            Mistake(
                lambda sigma, squared_gap: 0.5 * torch.trapezoid(sigma**2 * squared_gap, sigma.log()),
                "half of it is missing: the ½ in front meets the 2 of d(σ²) = 2σ² d log σ.",
            ),
            Mistake(
                lambda sigma, squared_gap: torch.trapezoid(squared_gap, sigma**2),
                "you forgot the ½ in front of the integral.",
            ),
            Mistake(
                lambda sigma, squared_gap: torch.trapezoid(sigma * squared_gap, sigma.log()),
                "this is ∫ gap² dσ. Over log σ the factor is σ², over σ it is σ.",
            ),
            Mistake(
                lambda sigma, squared_gap: torch.trapezoid(sigma**2 * squared_gap, sigma),
                "you multiplied with σ² and integrated over σ. Over log σ the factor is σ², over σ it is σ.",
            ),
            Mistake(
                lambda sigma, squared_gap: torch.trapezoid(sigma**2 * squared_gap**2, sigma.log()),
                "you squared the gap again; it comes as E‖s_p − s_q‖², squared already.",
            ),
            Mistake(
                lambda sigma, squared_gap: (sigma**2 * squared_gap).mean(),
                "this is the mean over the levels, what a training run estimates. The integral is that times the width"
                " log(σ_max/σ_min).",
            ),
            Mistake(
                lambda sigma, squared_gap: (sigma**2 * squared_gap).mean() * (sigma[-1] / sigma[0]).log(),
                "almost: mean times width counts the two end levels in full. The trapezoid rule counts each of them half.",
            ),
            Mistake(
                lambda sigma, squared_gap: ((sigma**2 * squared_gap)[:-1] * sigma.log().diff()).sum(),
                "almost: you took the height at the left end of every step. Take the mean of its two ends.",
            ),
            Mistake(
                lambda sigma, squared_gap: (sigma**2 * squared_gap).sum(),
                "you summed without the width of a step, log σ₁ − log σ₀.",
            ),
            Mistake(
                lambda sigma, squared_gap: -torch.trapezoid(sigma**2 * squared_gap, sigma.log()),
                "check the sign: the levels rise, and so must the sum.",
            ),
        ),
    ),
)
