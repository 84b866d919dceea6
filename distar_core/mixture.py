"""Gaussian mixtures, for which density, score, diffusion and reward tilt are closed forms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .schedule import NoiseSchedule


@dataclass(frozen=True)
class LinearReward:
    """r(x) = aᵀx. Unbounded: it tilts every mixture, but a bounded pull holds it only up to some scale.

    Args:
        direction: a, [n].
    """

    direction: Tensor

    def __call__(self, x0: Tensor, condition: Any = None) -> Tensor:
        """Reward of each sample: x0 [..., n] -> [...]. Raises ValueError if n is not the direction's length."""
        if self.direction.shape != x0.shape[-1:]:
            raise ValueError(
                f"direction must have shape [{x0.shape[-1]}], one entry per coordinate of x0, got "
                f"{tuple(self.direction.shape)}; give it that many entries"
            )
        return x0 @ self.direction.to(x0)


@dataclass(frozen=True)
class QuadraticReward:
    """r(x) = ½ xᵀA x + bᵀx.

    Args:
        curvature: A, symmetric, [n, n].
        direction: b, [n]; zero when left out.
    """

    curvature: Tensor
    direction: Tensor | None = None

    def __post_init__(self) -> None:
        A = self.curvature
        if A.ndim != 2 or A.shape[0] != A.shape[1] or not torch.allclose(A, A.mT):
            raise ValueError(
                f"curvature must be a symmetric [n, n] matrix, got {A.tolist()}; symmetrise it with ½(A + Aᵀ)"
            )

    def __call__(self, x0: Tensor, condition: Any = None) -> Tensor:
        """Reward of each sample: x0 [..., n] -> [...]."""
        value = 0.5 * ((x0 @ self.curvature.to(x0)) * x0).sum(-1)
        return value if self.direction is None else value + x0 @ self.direction.to(x0)


class GaussianMixture:
    """sum_k w_k N(mu_k, Sigma_k), stable at any distance from its modes.

    Each covariance is kept as axes Q_k and variances: Sigma_k = Q_k diag(variances_k) Q_kᵀ. Noise keeps the axes, so
    a mixture diffused to a batch of levels costs no factorisation.

    Args:
        weights: [K], positive, sum 1.
        means: [K, n].
        covariances: [K, n, n], symmetric positive definite.
        labels: [K] integers, the condition that each component belongs to; None means that there are no conditions.

    Raises:
        ValueError: for wrong shapes, weights that are not positive or do not sum to 1, covariances that are not
            positive definite.
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor, labels: Tensor | None = None) -> None:
        components, dimension = _check_weights_and_means(weights, means, labels)
        if covariances.shape != (components, dimension, dimension):
            raise ValueError(
                f"covariances must have shape {(components, dimension, dimension)} to match means "
                f"{tuple(means.shape)}, got {tuple(covariances.shape)}; for round components use "
                "GaussianMixture.isotropic"
            )
        if not torch.allclose(covariances, covariances.mT, atol=1e-8):
            raise ValueError("covariances must be symmetric; symmetrise them with ½(S + Sᵀ)")
        variances, axes = torch.linalg.eigh(covariances)
        if not bool((variances > 0).all()):
            raise ValueError(
                f"covariances must be positive definite, smallest eigenvalue is {float(variances.min()):g}; "
                "add a positive multiple of the identity"
            )
        self._set(weights.log(), means, axes, variances, labels)

    @classmethod
    def isotropic(
        cls, weights: Tensor, means: Tensor, deviations: Tensor, labels: Tensor | None = None
    ) -> GaussianMixture:
        """Round components with standard deviations [K], in the units of x; differentiable in all arguments.

        Raises:
            ValueError: as for the class, and for a deviation that is not positive.
        """
        components, dimension = _check_weights_and_means(weights, means, labels)
        if deviations.shape != (components,) or not bool((deviations > 0).all()):
            raise ValueError(
                f"deviations must be {components} positive numbers, one per component, got {deviations.tolist()}; "
                "give each component a deviation above zero"
            )
        variances = deviations.square()[:, None].expand(components, dimension)
        axes = torch.eye(dimension).to(means).expand(components, dimension, dimension)
        return cls._raw(weights.log(), means, axes, variances, labels)

    @classmethod
    def from_factors(cls, weights: Tensor, means: Tensor, factors: Tensor) -> GaussianMixture:
        """Components mu_k + F_k z with z ~ N(0, I): covariances F_k F_kᵀ, which need not be invertible.

        A component that is flat along an axis has no density by itself, but one at every noise level. Differentiable in
        the factors where the singular values of each are distinct.

        Args:
            weights, means: as for the class.
            factors: F, [K, n, n].

        Raises:
            ValueError: for wrong shapes, and for weights as for the class.
        """
        components, dimension = _check_weights_and_means(weights, means, None)
        if factors.shape != (components, dimension, dimension):
            raise ValueError(
                f"factors must have shape {(components, dimension, dimension)} to match means {tuple(means.shape)}, got "
                f"{tuple(factors.shape)}; give one matrix per component"
            )
        axes, deviations, _ = torch.linalg.svd(factors)
        return cls._raw(weights.log(), means, axes, deviations.square(), None)

    @classmethod
    def _raw(
        cls, log_weights: Tensor, means: Tensor, axes: Tensor, variances: Tensor, labels: Tensor | None
    ) -> GaussianMixture:
        mixture = cls.__new__(cls)
        mixture._set(log_weights, means, axes, variances, labels)
        return mixture

    def _set(self, log_weights: Tensor, means: Tensor, axes: Tensor, variances: Tensor, labels: Tensor | None) -> None:
        self.log_weights = log_weights
        self.means = means
        self.axes = axes
        self.variances = variances
        self.labels = labels

    @property
    def dimension(self) -> int:
        """n, the number of elements of a sample."""
        return self.means.shape[-1]

    @property
    def weights(self) -> Tensor:
        """Component weights, [K] or [B, K]."""
        return self.log_weights.exp()

    @property
    def covariances(self) -> Tensor:
        """Sigma_k, [..., K, n, n]."""
        return (self.axes * self.variances[..., None, :]) @ self.axes.mT

    def to(self, dtype: torch.dtype) -> GaussianMixture:
        """The same mixture in another floating-point type."""
        return self._raw(
            self.log_weights.to(dtype), self.means.to(dtype), self.axes.to(dtype), self.variances.to(dtype), self.labels
        )

    def given(self, condition: int | Tensor | None) -> GaussianMixture:
        """The mixture restricted to a label: the conditional distribution p(x | label).

        Args:
            condition: one label, a tensor of labels [B] (the result then has weights [B, K]), or None for the whole
                mixture (the null condition).

        Raises:
            ValueError: if the mixture has no labels or no component with one of the requested labels.
        """
        if condition is None:
            return self
        if self.labels is None:
            raise ValueError(
                f"condition {condition!r} given to a mixture without labels; pass labels= when building it"
            )
        wanted = torch.as_tensor(condition, device=self.labels.device)
        belongs = wanted[..., None] == self.labels
        if belongs.device.type == "cpu" and not bool(belongs.any(-1).all()):
            known = sorted(set(self.labels.tolist()))
            raise ValueError(f"no component has one of the labels {wanted.unique().tolist()}; known labels are {known}")
        log_weights = self.log_weights.masked_fill(~belongs, -math.inf)
        return self._raw(log_weights.log_softmax(-1), self.means, self.axes, self.variances, self.labels)

    def diffuse(self, schedule: NoiseSchedule, t: Tensor) -> GaussianMixture:
        """The law of x_t = alpha_t x_0 + sigma_t eps: means alpha mu_k, covariances alpha² Sigma_k + sigma² I.

        Args:
            t: [] or [B]; with [B] the result belongs to a batch whose sample b has its own level t_b.
        """
        alpha, sigma = schedule.coefficients(t, self.means.new_empty(1, 1, 1))
        alpha, sigma = alpha.to(self.means.dtype), sigma.to(self.means.dtype)
        return self._raw(
            self.log_weights, alpha * self.means, self.axes, alpha**2 * self.variances + sigma**2, self.labels
        )

    def _components(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log(w_k N_k(x)) as [..., K], and the components' scores as [..., K, n]."""
        if x.shape[-1] != self.dimension:
            raise ValueError(f"x must end in dimension {self.dimension}, got shape {tuple(x.shape)}; check the axes")
        # one matrix product per component; a broadcast @ would make one per sample and component
        along_axes = torch.einsum("...kn,knm->...km", x[..., None, :] - self.means, self.axes)
        scaled = along_axes / self.variances
        log_normal = -0.5 * ((along_axes * scaled) + (2 * math.pi * self.variances).log()).sum(-1)
        return self.log_weights + log_normal, -torch.einsum("...km,knm->...kn", scaled, self.axes)

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x): x [..., n] -> [...]. By log-sum-exp, so that it stays finite far from the modes."""
        return self._components(x)[0].logsumexp(-1)

    def score(self, x: Tensor) -> Tensor:
        """∇ log p(x): x [..., n] -> [..., n]; the components' scores, averaged with their responsibilities."""
        log_joint, scores = self._components(x)
        return (log_joint.softmax(-1)[..., None] * scores).sum(-2)

    def responsibilities(self, x: Tensor) -> Tensor:
        """P(component k | x): x [..., n] -> [..., K]."""
        return self._components(x)[0].softmax(-1)

    def sample(self, count: int, rng: torch.Generator) -> Tensor:
        """`count` independent draws, [count, n], from an unbatched mixture; rng lives on the mixture's device."""
        component = torch.multinomial(self.weights, count, replacement=True, generator=rng)
        normal = torch.randn(count, self.dimension, generator=rng, dtype=self.means.dtype, device=self.means.device)
        along_axes = normal * self.variances[component].sqrt()
        return self.means[component] + (self.axes[component] @ along_axes[..., None]).squeeze(-1)

    def posterior_mean(self, x_t: Tensor, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        """E[x_0 | x_t] = (x_t + sigma² score)/alpha (Tweedie): x_t [B, n], t [] or [B] -> [B, n]."""
        score = self.diffuse(schedule, t).score(x_t)
        return schedule.convert(score, x_t, t, source="score", target="x0")

    def tilt(self, reward: LinearReward | QuadraticReward, scale: float) -> GaussianMixture:
        """p(x) exp(scale r(x))/Z, the optimum of KL-regularised reward maximisation, again a mixture.

        A component N(mu, S) under r = ½ xᵀA x + bᵀx becomes N(mu', S') with S' = (S⁻¹ − scale A)⁻¹ and
        mu' = S'(S⁻¹ mu + scale b), and its weight grows by the matching normaliser. With A = 0: mu' = mu + scale S b.

        Raises:
            TypeError: for a reward that has no closed form; grid.tilt_on_grid takes any.
            ValueError: if some S⁻¹ − scale A is not positive definite: then exp(scale r) outgrows p and no optimum
                exists.

        Examples:
            >>> standard = GaussianMixture.isotropic(torch.ones(1), torch.zeros(1, 2), torch.ones(1))
            >>> standard.tilt(LinearReward(torch.tensor([1.0, 0.0])), scale=0.5).means  # N(0, I) moves by scale a
            tensor([[0.5000, 0.0000]])
        """
        if isinstance(reward, LinearReward):
            direction = reward.direction.to(self.means)
            shift = scale * (self.covariances @ direction)
            gain = scale * (self.means @ direction) + 0.5 * scale * (shift @ direction)
            log_weights = (self.log_weights + gain).log_softmax(-1)
            return self._raw(log_weights, self.means + shift, self.axes, self.variances, self.labels)
        if not isinstance(reward, QuadraticReward):
            raise TypeError(
                f"the tilt by a {type(reward).__name__} is no mixture; use a LinearReward or a QuadraticReward, or "
                "grid.tilt_on_grid for any reward"
            )
        curvature = reward.curvature.to(self.means)
        direction = (
            self.means.new_zeros(self.dimension) if reward.direction is None else reward.direction.to(self.means)
        )
        precision = (self.axes / self.variances[..., None, :]) @ self.axes.mT
        tilted_precision = precision - scale * curvature
        smallest = float(torch.linalg.eigvalsh(tilted_precision).min())
        if smallest <= 0:
            raise ValueError(
                f"scale {scale:g} is too large for this quadratic reward: precision − scale·A has eigenvalue "
                f"{smallest:g}, so exp(scale·r) outgrows the density and no optimum exists; lower the scale"
            )
        natural = (precision @ self.means[..., None]).squeeze(-1)
        tilted_natural = natural + scale * direction
        means = torch.linalg.solve(tilted_precision, tilted_natural)
        log_normaliser = 0.5 * ((means * tilted_natural).sum(-1) - torch.linalg.slogdet(tilted_precision)[1])
        previous = 0.5 * ((self.means * natural).sum(-1) + self.variances.log().sum(-1))
        log_weights = (self.log_weights + log_normaliser - previous).log_softmax(-1)
        precisions, axes = torch.linalg.eigh(tilted_precision)
        return self._raw(log_weights, means, axes, 1 / precisions, self.labels)


def ring(modes: int = 8, radius: float = 2.0, deviation: float = 0.25, labels: Tensor | None = None) -> GaussianMixture:
    """The course's reference: `modes` equal round Gaussians on a circle, the first at (radius, 0).

    Examples:
        >>> reference = ring()
        >>> points = reference.sample(1000, torch.Generator().manual_seed(0))
        >>> points.shape, reference.score(points).shape
        (torch.Size([1000, 2]), torch.Size([1000, 2]))
    """
    angles = torch.arange(modes) * (2 * math.pi / modes)
    means = radius * torch.stack([angles.cos(), angles.sin()], dim=-1)
    return GaussianMixture.isotropic(torch.full((modes,), 1 / modes), means, torch.full((modes,), deviation), labels)


def _check_weights_and_means(weights: Tensor, means: Tensor, labels: Tensor | None) -> tuple[int, int]:
    if means.ndim != 2 or weights.shape != means.shape[:1]:
        raise ValueError(
            f"weights must be [K] and means [K, n], got {tuple(weights.shape)} and {tuple(means.shape)}; "
            "give one weight and one mean per component"
        )
    if not bool(torch.isfinite(means).all()):
        raise ValueError(f"means must be finite, got {means.tolist()}; replace the entries that are not numbers")
    total = float(weights.detach().sum())
    if not bool((weights > 0).all()) or abs(total - 1) > 1e-5:
        raise ValueError(
            f"weights must be positive and sum to 1, got {weights.tolist()} with sum {total:g}; divide by the sum"
        )
    if labels is not None and labels.shape != weights.shape:
        raise ValueError(f"labels must have shape {tuple(weights.shape)}, got {tuple(labels.shape)}; one per component")
    return means.shape[0], means.shape[1]
