"""Distances, and the losses of the Diff-Instruct family: one function per equation, one value per sample.

Averaged and sent back through the generator, with an exact assistant, the gradient of a loss at x_t is that of the
objective which its docstring names. Scores are taken as functions of x_t; their parameters are constants here. The
caller multiplies by the weight w(t) and takes the mean.
Equations of the papers are reconstructed (see the notebooks); the tests in tests/claims hold each to closed forms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from .schedule import expand

Unit = Literal["score", "eps", "x0"]
Law = Literal["frozen", "differentiated"]

HUBER_C = (1e-15, 1e15)
DMD_FLOOR = 1e-5


class Noised(NamedTuple):
    """A batch of generated samples and their noised versions; alpha and sigma broadcast against x_t, [B, ...]."""

    x0: Tensor
    x_t: Tensor
    noise: Tensor
    t: Tensor
    alpha: Tensor
    sigma: Tensor


class Scores(NamedTuple):
    """The three scores at x_t, each [B, ...]; null is None unless guidance is on."""

    assistant: Tensor
    reference: Tensor
    null: Tensor | None = None


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Sum of products over all elements of a sample: [B, ...] x [B, ...] -> [B]."""
    return (a * b).flatten(1).sum(1)


def one_per_sample(value: Tensor, samples: Tensor, name: str) -> Tensor:
    """`value` if it is a tensor of shape [B] for samples [B, ...].

    Raises:
        TypeError: if it is no tensor; the message names what returned it, and what it is.
        ValueError: for another shape, likewise.
    """
    if not isinstance(value, Tensor):
        raise TypeError(
            f"the {name} must return a tensor, one value per sample, got {type(value).__name__} ({value!r:.60}); compute "
            "it in torch, so that gradients pass through it"
        )
    if value.shape != samples.shape[:1]:
        raise ValueError(
            f"the {name} must return one value per sample, shape [{len(samples)}], got {tuple(value.shape)}; "
            "reduce over all other axes"
        )
    return value


def like_samples(value: Tensor, samples: Tensor, name: str) -> Tensor:
    """`value` if it is a tensor of the samples' shape, as a score has to be: another shape would broadcast without a word.

    Raises:
        TypeError, ValueError: otherwise; the message names what returned it.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"the {name} must return a tensor, got {type(value).__name__}; compute it in torch")
    if value.shape != samples.shape:
        raise ValueError(
            f"the {name} must have the samples' shape {tuple(samples.shape)}, got {tuple(value.shape)}; return one value "
            "per element of x_t"
        )
    return value


def as_constants(scores: Scores) -> tuple[Scores, dict[str, Tensor]]:
    """The scores, those without a graph as leaves of their own, and these leaves by name: whether a loss differentiates
    what it should take as constant shows in a gradient there."""
    leaves = {
        name: score.detach().requires_grad_()
        for name, score in scores._asdict().items()
        if score is not None and not score.requires_grad
    }
    return scores._replace(**leaves), leaves


def differentiate(term: str, loss: Tensor, noised: Noised, constants: dict[str, Tensor]) -> list[Tensor | None]:
    """The pulls of a term at x_t and at x_0, None at a point that it does not reach.

    Raises:
        ValueError: if it reaches neither, or differentiates one of the constants.
    """
    points = [noised.x_t, noised.x0, *constants.values()]
    found = torch.autograd.grad(loss.sum(), points, allow_unused=True) if loss.requires_grad else [None] * len(points)
    for name, gradient in zip(constants, found[2:], strict=True):
        if gradient is not None:
            raise ValueError(
                f"the {term} differentiates the {name} score, which has no graph to x_t, so half of its gradient would "
                "be missing; set the method's exact=True and evaluate that score with a graph, or detach it where the "
                "loss means it as a constant"
            )
    if found[0] is None and found[1] is None:
        raise ValueError(
            f"the {term} has no gradient at x_t or x_0, so it cannot move the generator; compute it from them in torch, "
            "without detach or no_grad"
        )
    return list(found[:2])


class Distance(Protocol):
    """d(y) >= 0, zero only at y = 0, and its derivative d'(y)."""

    def __call__(self, y: Tensor) -> Tensor:
        """[B, ...] -> [B]."""
        ...

    def grad(self, y: Tensor) -> Tensor:
        """[B, ...] -> [B, ...]."""
        ...


@dataclass(frozen=True)
class SquaredL2:
    """d(y) = ‖y‖², d'(y) = 2y (without the ½)."""

    def __call__(self, y: Tensor) -> Tensor:
        """‖y‖² over all elements of a sample, [B]."""
        return inner(y, y)

    def grad(self, y: Tensor) -> Tensor:
        """2y, [B, ...]."""
        return 2 * y


@dataclass(frozen=True)
class PseudoHuber:
    """d(y) = sqrt(‖y‖² + c²) − c, d'(y) = y/sqrt(‖y‖² + c²); ‖d'‖ < 1 whatever y is.

    c → ∞ gives ‖y‖²/2c, c → 0 the unit vector y/‖y‖. The norm runs over all elements of a sample, so c = kappa sqrt(n)
    keeps the constant per element at kappa.

    Args:
        c: huber_c, in the unit of the gap, from 1e-15 to 1e15: beyond, c² leaves float32 and the pull would be zero or no
            number.

    Raises:
        ValueError: for a c outside.

    Examples:
        >>> distance = PseudoHuber(0.05)
        >>> distance(torch.tensor([[3.0, 4.0]]))  # nearly the norm, 5
        tensor([4.9503])
        >>> distance.grad(torch.tensor([[3.0, 4.0], [0.03, 0.04]])).norm(dim=1)  # the pull: below 1, and 0.7 at ‖y‖ = c
        tensor([0.9999, 0.7071])
    """

    c: float

    def __post_init__(self) -> None:
        low, high = HUBER_C
        if not low <= self.c <= high:
            raise ValueError(
                f"huber_c must lie in [{low:g}, {high:g}], got {self.c}; use SquaredL2() for the quadratic distance"
            )

    def _rho(self, y: Tensor) -> Tensor:
        return (inner(y, y) + self.c**2).sqrt()

    def __call__(self, y: Tensor) -> Tensor:
        """‖y‖²/(rho + c), which equals rho − c without its cancellation; [B]."""
        return inner(y, y) / (self._rho(y) + self.c)

    def grad(self, y: Tensor) -> Tensor:
        """y/rho, [B, ...]."""
        return y / expand(self._rho(y), y)


def unit_factor(noised: Noised, unit: Unit) -> Tensor:
    """u_t with gap = u_t (s_psi − s_ref): 1 for score, sigma for eps, sigma²/alpha for x0."""
    if unit == "score":
        return torch.ones_like(noised.sigma)
    if unit == "eps":
        return noised.sigma
    if unit == "x0":
        return noised.sigma**2 / noised.alpha
    raise ValueError(
        f"unit {unit!r} is not one of score, eps, x0; the constant c of a distance means nothing without it"
    )


def gap(noised: Noised, scores: Scores, unit: Unit) -> Tensor:
    """u_t (s_psi − s_ref), the disagreement in the unit asked for; [B, ...]."""
    return unit_factor(noised, unit) * (scores.assistant - scores.reference)


def gap_seen_and_missed(noised: Noised, scores: Scores) -> tuple[Tensor, Tensor]:
    """‖y‖ of the gap in units of eps, y = sigma (s_psi − s_ref), and ⟨y, sigma (∇log q − s_psi)⟩; [B] each, without a graph.

    The score of the samples is the mean of ∇log q at x_t (see `denoising`), so the mean of the second is that of
    ⟨y, sigma (s_theta − s_psi)⟩, what the assistant misses of the gap along y: zero for an exact one.
    """
    y = gap(noised, scores, "eps").detach()
    return y.flatten(1).norm(dim=1), inner(y, -noised.noise - noised.sigma * scores.assistant.detach())


def denoising(score: Tensor, noised: Noised) -> Tensor:
    """Denoising score matching, ‖s(x_t) + eps/sigma_t‖² (Vincent 2011); [B].

    eps is the noise that made x_t, so −eps/sigma_t = ∇ log q(x_t | x_0) without a subtraction.
    """
    error = score + noised.noise / noised.sigma
    return inner(error, error)


def field(direction: Tensor, noised: Noised) -> Tensor:
    """<sg[direction], x_t>: the loss whose pull is a given vector field; [B]."""
    return inner(direction.detach(), noised.x_t)


def integral_kl(noised: Noised, scores: Scores) -> Tensor:
    """sg[s_psi − s_ref]ᵀ x_t (Diff-Instruct, 2305.18455; Diff-Instruct++, 2410.18881); [B].

    Its gradient is that of KL(p_theta,t ‖ p_ref,t) at every level, the sampling law included.
    """
    return field(scores.assistant - scores.reference, noised)


def score_divergence(noised: Noised, scores: Scores, *, distance: Distance, unit: Unit, law: Law = "frozen") -> Tensor:
    """−d_t'(y)ᵀ {s_psi(x_t) + eps/sigma_t}, the loss of Theorem 3.1 (DI*, 2410.20898; SIM, 2410.16794); [B].

    With y = s_psi − s_ref, d_t(y) = d(u_t y), so the loss is −u_t d'(u_t y)ᵀ{s_psi + eps/sigma_t}. The gradient flows
    through x_t in both scores, also inside d'. With an exact assistant it equals the gradient of E d_t(s_theta − s_ref)
    with the sampling law frozen, our reading of DI*; law="differentiated" adds d_t(y) (printed in 2605.25042) and gives
    the gradient with the law moving as well.

    Raises:
        ValueError: for an unknown unit or law.
    """
    if law not in ("frozen", "differentiated"):
        raise ValueError(f"law {law!r} is not one of frozen, differentiated; choose one")
    y = gap(noised, scores, unit)
    residual = unit_factor(noised, unit) * (scores.assistant + noised.noise / noised.sigma)
    loss = -inner(distance.grad(y), residual)
    return loss + distance(y) if law == "differentiated" else loss


def score_divergence_detached(noised: Noised, scores: Scores, *, distance: Distance, unit: Unit) -> Tensor:
    """sg[d_t'(y_t)]ᵀ x_t/sigma_t²: what is left of Theorem 3.1's loss when only x_0 is live; [B].

    Cheap, since no gradient passes through a score, but not the gradient of the score divergence. For squared L2 it is
    the integral-KL direction times 2/sigma² in score units, 2 in eps, 2 sigma²/alpha² in x0; with pseudo-Huber it is no
    multiple of it.
    """
    direction = unit_factor(noised, unit) * distance.grad(gap(noised, scores, unit))
    return field(direction / noised.sigma**2, noised)


def cfg_reward(noised: Noised, scores: Scores) -> Tensor:
    """−sg[s_ref(x_t | c) − s_null(x_t)]ᵀ x_t, the implicit reward of guidance (Theorem 3.2); [B].

    Minus the gradient of E log p_ref(x_t | c)/p_ref(x_t) at this level; the caller multiplies by cfg_scale and w(t).
    """
    if scores.null is None:
        raise ValueError(
            "cfg_reward needs the score with the null condition, got None; evaluate reference(x_t, t, None)"
        )
    return field(scores.null - scores.reference, noised)


def per_sample(coefficient: Tensor, noised: Noised) -> Tensor:
    """A broadcastable coefficient, [B, 1, ...] or [], as one value per sample, [B]."""
    return coefficient.flatten().expand(len(noised.x_t))


def weight_one(noised: Noised, scores: Scores | None = None) -> Tensor:
    """w = 1; [B]."""
    return per_sample(torch.ones_like(noised.sigma), noised)


def weight_sigma(noised: Noised, scores: Scores | None = None) -> Tensor:
    """w = sigma: for integral KL, the eps gap acting on x_t; [B]."""
    return per_sample(noised.sigma, noised)


def weight_sigma_squared(noised: Noised, scores: Scores | None = None) -> Tensor:
    """w = sigma²: for the assistant's loss, plain eps regression; [B]."""
    return per_sample(noised.sigma**2, noised)


def weight_x0(noised: Noised, scores: Scores | None = None) -> Tensor:
    """w = sigma²/alpha²: for integral KL, the x_0 gap acting on x_0; [B]."""
    return per_sample(noised.sigma**2 / noised.alpha**2, noised)


def weight_dmd(noised: Noised, scores: Scores) -> Tensor:
    """weight_x0 over the sample's mean |x_0 − x̂_0,ref|, DMD's normaliser (2311.18828, as in its code, less 1/n); [B].

    The normaliser is floored at 1e-5, so that a sample that equals the reference's guess keeps a finite weight.
    """
    reference_x0 = (noised.x_t + noised.sigma**2 * scores.reference) / noised.alpha
    distance_to_reference = (noised.x0 - reference_x0).abs().flatten(1).mean(1)
    return weight_x0(noised) / distance_to_reference.clamp(min=DMD_FLOOR)
