"""Exercises of notebook 08, post-training in miniature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..checks import Exercise, Mistake, normal

PerSample = Callable[[Tensor], Tensor]


def _held(share: Callable[[float, float], float]) -> Callable[..., float]:
    """limit · share(gap, c)/unit_pull."""
    return lambda gap, c, limit, unit_pull: limit * share(gap, c) / unit_pull


def _share(gap: float, c: float) -> float:
    return gap / (gap**2 + c**2) ** 0.5


_SCALE = Exercise(
    "08.1",
    reference=_held(_share),
    inputs=[(2.0, 1.6, 0.55, 1.7), (0.3, 0.05, 1.0, 0.4), (5.0, 3.0, 2.0, 3.5)],
    mistakes=(
        Mistake(
            _held(lambda gap, c: 1.0),
            "this is the scale that no gap can hold: the limit over the reward's pull. At a gap of finite length the leash pulls "
            "with a part of its limit only.",
        ),
        Mistake(
            lambda gap, c, limit, unit_pull: limit * _share(gap, c),
            "this is the leash's pull. Which scale makes the reward's pull, scale · unit_pull, as long?",
        ),
        Mistake(
            lambda gap, c, limit, unit_pull: limit * _share(gap, c) * unit_pull,
            "you multiply by the reward's pull. The louder the reward is at scale 1, the smaller the scale must be.",
        ),
        Mistake(
            lambda gap, c, limit, unit_pull: unit_pull / (limit * _share(gap, c)),
            "upside down: scale · unit_pull = pull of the leash, solved for scale.",
        ),
        Mistake(
            lambda gap, c, limit, unit_pull: _share(gap, c) / unit_pull,
            "the limit is missing: this leash pulls with limit · gap/√(gap² + c²).",
        ),
        Mistake(
            _held(lambda gap, c: gap / (gap + c)),
            "the root is of a sum of squares: √(gap² + c²), not gap + c.",
        ),
        Mistake(
            _held(lambda gap, c: gap / (gap**2 + c**2)),
            "the square root is missing below: √(gap² + c²).",
        ),
        Mistake(
            _held(lambda gap, c: gap / (gap**2 + c) ** 0.5),
            "c is a length, as the gap is: square it under the root.",
        ),
        Mistake(
            _held(lambda gap, c: gap / c),
            "this is squared L2, near enough for small gaps only: it has no limit. Pseudo-Huber divides by √(gap² + c²).",
        ),
        Mistake(
            _held(lambda gap, c: (gap**2 + c**2) ** 0.5 - c),
            "this is the distance itself; its slope pulls, gap/√(gap² + c²).",
        ),
    ),
)


def _pull(function: PerSample, at: Tensor) -> Tensor:
    at = at.detach().requires_grad_()
    (found,) = torch.autograd.grad(function(at).sum(), at)
    return found


def _sent(
    mix: Callable[..., Tensor],
    place: Callable[..., Tensor] = lambda x0, noise, alpha, sigma: alpha * x0 + sigma * noise,
    reward_at_x_t: bool = False,
) -> Callable[..., Tensor]:
    """mix(pull of the leash at x_t, gradient of the reward at x_0, alpha, sigma, scale), x_t made by `place`."""

    def answer(
        x0: Tensor,
        noise: Tensor,
        alpha: Tensor,
        sigma: Tensor,
        leash: PerSample,
        reward: PerSample,
        reward_scale: float,
    ) -> Tensor:
        x_t = place(x0, noise, alpha, sigma)
        return mix(_pull(leash, x_t), _pull(reward, x_t if reward_at_x_t else x0), alpha, sigma, reward_scale)

    return answer


def _right(leash: Tensor, reward: Tensor, alpha: Tensor, sigma: Tensor, scale: float) -> Tensor:
    return alpha * leash - scale * reward


def _bend(x: Tensor) -> Tensor:
    """Neighbouring values of a sample matter to each other; [B, ...] -> [B]."""
    flat = x.flatten(1)
    return (flat * flat.roll(1, 1)).sin().sum(1) + 0.3 * flat.pow(3).sum(1)


def _likes(x: Tensor) -> Tensor:
    return (1.7 * x).tanh().flatten(1).cumsum(1).cos().sum(1)


def _inputs() -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for seed, shape, scale in ((1, (5, 3), 0.3), (2, (4, 2, 2, 2), 1.7)):
        sigma = torch.linspace(0.2, 0.9, shape[0], dtype=torch.float64).view(-1, *[1] * (len(shape) - 1))
        x0, noise = normal(*shape, seed=seed), normal(*shape, seed=seed + 10)
        found.append((x0, noise, (1 - sigma**2).sqrt(), sigma, _bend, _likes, scale))
    return found


_SENT_BACK = Exercise(
    "08.2",
    reference=_sent(_right),
    inputs=_inputs(),
    mistakes=(
        Mistake(
            _sent(lambda leash, reward, alpha, sigma, scale: leash - scale * reward),
            "the leash's pull is a gradient at x_t. On the way back to x_0 the chain rule multiplies it by alpha.",
        ),
        Mistake(
            _sent(lambda leash, reward, alpha, sigma, scale: alpha * (leash - scale * reward)),
            "the reward acts on x_0 itself: only the leash's pull is multiplied by alpha.",
        ),
        Mistake(
            _sent(lambda leash, reward, alpha, sigma, scale: alpha * leash + scale * reward),
            "check the sign of the reward: the optimizer goes downhill, so the loss is minus the reward.",
        ),
        Mistake(
            _sent(lambda leash, reward, alpha, sigma, scale: scale * reward - alpha * leash),
            "check the sign: you return the direction to walk in. Wanted is the gradient, which the optimizer walks against.",
        ),
        Mistake(
            _sent(lambda leash, reward, alpha, sigma, scale: alpha * leash - reward),
            "reward_scale is missing.",
        ),
        Mistake(
            _sent(lambda leash, reward, alpha, sigma, scale: scale * (alpha * leash - reward)),
            "reward_scale belongs to the reward alone, not to the leash.",
        ),
        Mistake(
            _sent(_right, reward_at_x_t=True),
            "the reward looks at the clean sample x_0, not at x_t.",
        ),
        Mistake(
            _sent(
                lambda leash, reward, alpha, sigma, scale: alpha * leash - alpha * scale * reward, reward_at_x_t=True
            ),
            "the reward looks at the clean sample x_0, not at x_t, and so it gets no alpha either.",
        ),
        Mistake(
            _sent(_right, place=lambda x0, noise, alpha, sigma: x0 + sigma * noise),
            "alpha is missing where x_t is made: here x_t = alpha · x_0 + sigma · noise. In the plane alpha was 1.",
        ),
        Mistake(
            _sent(
                lambda leash, reward, alpha, sigma, scale: leash - scale * reward,
                place=lambda x0, noise, alpha, sigma: x0 + sigma * noise,
            ),
            "this is the plane, where alpha was 1. Here it belongs in two places: in x_t, and in front of the leash's pull.",
        ),
        Mistake(
            _sent(_right, place=lambda x0, noise, alpha, sigma: alpha * x0 + noise),
            "sigma is missing where x_t is made: x_t = alpha · x_0 + sigma · noise.",
        ),
        Mistake(
            _sent(_right, place=lambda x0, noise, alpha, sigma: x0),
            "the leash is asked at x_t = alpha · x_0 + sigma · noise, not at the clean sample.",
        ),
        Mistake(
            _sent(lambda leash, reward, alpha, sigma, scale: _right(leash, reward, alpha, sigma, scale) / len(leash)),
            "this is the gradient of a mean over the batch. Take sums: each sample has its own pull, and the caller divides.",
        ),
        Mistake(
            _sent(lambda leash, reward, alpha, sigma, scale: alpha * leash),
            "the reward's pull is missing.",
        ),
        Mistake(
            _sent(lambda leash, reward, alpha, sigma, scale: -scale * reward),
            "the leash's pull is missing. A loss on x_0.detach() sends nothing to x_0: make x_t a leaf of its own.",
        ),
        Mistake(
            _sent(lambda leash, reward, alpha, sigma, scale: sigma * leash - scale * reward),
            "x_t depends on x_0 through alpha, not through sigma.",
        ),
        Mistake(
            _sent(lambda leash, reward, alpha, sigma, scale: leash / alpha - scale * reward),
            "the chain rule multiplies by alpha; you divide.",
        ),
    ),
)

EXERCISES = (_SCALE, _SENT_BACK)
