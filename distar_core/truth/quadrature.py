"""The truth to compare with: exact gradients by quadrature, in float64, for generators that are mixtures of affine maps.

Two sides of one equation are computed here, by different means. On the one side integrals over x, on a dense grid, of
the analytic density and score of the diffused mixture: the objectives and their gradients as they are defined. On the
other side expectations over (z, eps), through x_t = alpha_t x_0 + sigma_t eps: what a loss sees. Nothing in this file
comes from losses.py, so that the losses can be held to it (tests/claims).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..mixture import GaussianMixture
from ..roles import Draw
from ..schedule import NoiseSchedule, VarianceExploding

SampleLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x0 [N, n], x_t [N, n], noise [N, n]) -> [N]."""


class AffineGenerator(nn.Module):
    """x_0 = m_k + S_k z with z ~ N(0, I) and k drawn from fixed weights: a generator whose law is a known mixture.

    Args:
        weights: [K], positive, sum 1; not trained.
        shifts: m, [K, n].
        scales: S, [K, n, n].
    """

    weights: Tensor

    def __init__(self, weights: Tensor, shifts: Tensor, scales: Tensor) -> None:
        super().__init__()
        components, dimension = shifts.shape
        if weights.shape != (components,) or scales.shape != (components, dimension, dimension):
            raise ValueError(
                f"weights must be [K], shifts [K, n] and scales [K, n, n], got {tuple(weights.shape)}, "
                f"{tuple(shifts.shape)} and {tuple(scales.shape)}; give one of each per component"
            )
        self.register_buffer("weights", weights.clone())
        self.shifts = nn.Parameter(shifts.clone())
        self.scales = nn.Parameter(scales.clone())

    @classmethod
    def on_line(
        cls,
        weights: Sequence[float],
        shifts: Sequence[float],
        scales: Sequence[float],
        dtype: torch.dtype | None = None,
    ) -> AffineGenerator:
        """The one-dimensional case, n = 1, from plain numbers: K weights, shifts and scales; float64 by default."""
        dtype = dtype or torch.float64
        return cls(
            torch.tensor(weights, dtype=dtype),
            torch.tensor(shifts, dtype=dtype)[:, None],
            torch.tensor(scales, dtype=dtype)[:, None, None],
        )

    def latent(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """z as a pair of normals: one number [B] that picks the component, and the point [B, n]."""
        return draw("component", ()), draw("z", (self.shifts.shape[1],))

    def forward(self, z: tuple[Tensor, Tensor], condition: Any = None) -> Tensor:
        """x_0, [B, n]; the condition is ignored."""
        picker, normal = z
        edges = self.weights.cumsum(0)[:-1]
        component = torch.searchsorted(edges, torch.special.ndtr(picker.to(edges)), right=True)
        return self.place(component, normal.to(self.shifts.dtype))

    def place(self, component: Tensor, normal: Tensor) -> Tensor:
        """m_k + S_k z for given components [B] and normals [B, n]; returns [B, n]."""
        return self.shifts[component] + (self.scales[component] @ normal[..., None]).squeeze(-1)

    def mixture(self) -> GaussianMixture:
        """The law of x_0: sum_k w_k N(m_k, S_k S_kᵀ), differentiable in shifts and scales.

        For n > 1 each S_k needs distinct singular values, where its axes are differentiable.
        """
        if self.shifts.shape[1] == 1:
            return GaussianMixture.isotropic(self.weights, self.shifts, self.scales[:, 0, 0].abs())
        return GaussianMixture.from_factors(self.weights, self.shifts, self.scales)


class GeneratorScore(nn.Module):
    """The exact score of an AffineGenerator at every level: an assistant that is never stale and needs no updates.

    It reads the generator's parameters at each call, detached, as sg[theta] in Theorem 3.1 demands.
    """

    def __init__(self, generator: AffineGenerator, schedule: NoiseSchedule) -> None:
        super().__init__()
        # In a tuple, so that the generator's parameters are not counted as the assistant's.
        self._generator = (generator,)
        self.schedule = schedule

    def forward(self, x_t: Tensor, t: Tensor, condition: Any = None) -> Tensor:
        """s_theta(x_t, t), [B, n]; differentiable in x_t."""
        with torch.no_grad():
            law = self._generator[0].mixture().diffuse(self.schedule, t)
        return law.score(x_t)


class OneLevel(NoiseSchedule):
    """A single noise level with prescribed alpha and sigma, whatever t is: for numbers printed with rounded ones."""

    def __init__(self, alpha: float, sigma: float) -> None:
        self.low, self.high = -math.inf, math.inf
        self.variance_preserving = abs(alpha**2 + sigma**2 - 1) < 1e-12
        self._level = (alpha, sigma)

    def _at(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # A level by itself has no rate of change, so its diffusion is not a number.
        alpha, sigma, rate = (torch.full_like(t, value, dtype=torch.float64) for value in (*self._level, math.nan))
        return alpha, sigma, rate


@dataclass(frozen=True)
class Setting:
    """A generator, a reference and one noise level t, shape []."""

    generator: AffineGenerator
    reference: GaussianMixture
    schedule: NoiseSchedule
    t: Tensor

    @property
    def alpha(self) -> Tensor:
        """alpha_t, []."""
        return self.schedule.alpha(self.t).double()

    @property
    def sigma(self) -> Tensor:
        """sigma_t, []."""
        return self.schedule.sigma(self.t).double()

    def law(self) -> GaussianMixture:
        """p_theta,t, differentiable in the generator's parameters."""
        return self.generator.mixture().diffuse(self.schedule, self.t)

    def frozen_law(self) -> GaussianMixture:
        """p_sg[theta],t: the same density with its parameters as constants."""
        with torch.no_grad():
            return self.law()

    def target(self) -> GaussianMixture:
        """p_ref,t."""
        return self.reference.diffuse(self.schedule, self.t)


def line_setting(
    schedule: NoiseSchedule, t: float, components: Literal[1, 3] = 3, *, shift: float = 0.4, scale: float = 0.8
) -> Setting:
    """The one-dimensional problem that all known numbers belong to: reference (.4, .6), (−1, 1.5), (.4, .6).

    Args:
        components: 3: weights (.5, .3, .2), shifts (−1.2, .4, 1.8), scales (.3, .5, .4); 1: `shift` and `scale`.
    """
    if components == 3:
        generator = AffineGenerator.on_line((0.5, 0.3, 0.2), (-1.2, 0.4, 1.8), (0.3, 0.5, 0.4))
    else:
        generator = AffineGenerator.on_line((1.0,), (shift,), (scale,))
    reference = GaussianMixture.isotropic(
        torch.tensor([0.4, 0.6], dtype=torch.float64),
        torch.tensor([[-1.0], [1.5]], dtype=torch.float64),
        torch.tensor([0.4, 0.6], dtype=torch.float64),
    )
    return Setting(generator, reference, schedule, _time(t))


def plane_setting(schedule: NoiseSchedule, t: float) -> Setting:
    """A two-dimensional problem: three anisotropic components in the generator and in the reference."""
    generator = AffineGenerator(
        torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
        torch.tensor([[-1.0, 0.3], [0.6, -0.8], [1.0, 1.1]], dtype=torch.float64),
        torch.tensor(
            [[[0.5, 0.1], [-0.2, 0.4]], [[0.6, -0.2], [0.1, 0.3]], [[0.4, 0.2], [0.3, 0.7]]], dtype=torch.float64
        ),
    )
    factors = torch.tensor(
        [[[0.6, 0.0], [0.2, 0.4]], [[0.4, 0.0], [-0.1, 0.5]], [[0.7, 0.0], [0.3, 0.5]]], dtype=torch.float64
    )
    reference = GaussianMixture(
        torch.tensor([0.3, 0.4, 0.3], dtype=torch.float64),
        torch.tensor([[-1.2, -0.4], [0.9, -0.5], [0.4, 1.2]], dtype=torch.float64),
        factors @ factors.mT,
    )
    return Setting(generator, reference, schedule, _time(t))


def pencil_setting(shift: float = 1.0, scale: float = 0.5, sigma: float = 1.0) -> Setting:
    """The Gaussian of the notebooks: x_0 = shift + scale z against N(0, 1), at x_t = x_0 + sigma eps."""
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    generator = AffineGenerator.on_line((1.0,), (shift,), (scale,))
    return Setting(generator, GaussianMixture.isotropic(one, zero, one), VarianceExploding(), _time(float(sigma)))


def _time(t: float) -> Tensor:
    return torch.tensor(t) if isinstance(t, int) else torch.tensor(t, dtype=torch.float64)


class PlainDistance(NamedTuple):
    """d, [N, n] -> [N], and d', [N, n] -> [N, n]; written out here so that losses.py is not asked about itself."""

    value: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]


def squared() -> PlainDistance:
    """d(y) = ‖y‖², d'(y) = 2y."""
    return PlainDistance(lambda y: (y**2).sum(-1), lambda y: 2 * y)


def huber(c: float) -> PlainDistance:
    """d(y) = sqrt(‖y‖² + c²) − c, d'(y) = y/sqrt(‖y‖² + c²)."""

    def rho(y: Tensor) -> Tensor:
        return ((y**2).sum(-1) + c**2).sqrt()

    return PlainDistance(lambda y: rho(y) - c, lambda y: y / rho(y)[..., None])


def unit_of(setting: Setting, unit: str) -> Tensor:
    """u_t, the factor that measures a difference of scores in `unit`: 1, sigma or sigma²/alpha; []."""
    return {"score": torch.ones_like(setting.sigma), "eps": setting.sigma, "x0": setting.sigma**2 / setting.alpha}[unit]


def gradient(value: Tensor, generator: AffineGenerator) -> Tensor:
    """∂value/∂(shifts, scales) as one vector, [K n + K n²]; zeros where nothing flows."""
    parameters = (generator.shifts, generator.scales)
    if not value.requires_grad:
        return torch.cat([torch.zeros_like(p).flatten() for p in parameters])
    parts = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return torch.cat(
        [torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(parameters, parts, strict=True)]
    )


def grid(law: GaussianMixture, count: int, reach: float = 9.0) -> tuple[Tensor, Tensor]:
    """A uniform grid over all of a mixture's mass: points [count^n, n] and the volume of a cell, [].

    The sum over it is the trapezoid rule: for analytic integrands that have died out at the ends, as here, its error
    falls exponentially with the number of points.

    Args:
        reach: how many of the largest deviations the grid extends beyond the outermost means.
    """
    margin = reach * law.variances.max().sqrt().detach()
    low, high = law.means.detach().amin(0) - margin, law.means.detach().amax(0) + margin
    axes = [torch.linspace(float(a), float(b), count, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, len(axes))
    return points, ((high - low) / (count - 1)).prod()


class TrueGradients(NamedTuple):
    """Gradients at one level in (shifts, scales), each [K n + K n²], all by quadrature over x.

    Attributes:
        frozen: of E_{p_sg[theta]} d(u (s_theta − s_ref)), what Theorem 3.1 is about.
        differentiated: of E_{p_theta} d(u (s_theta − s_ref)).
        law: of E_{p_theta} d(u (s_sg[theta] − s_ref)), what differentiating the law adds.
        kl: of KL(p_theta,t ‖ p_ref,t).
    """

    frozen: Tensor
    differentiated: Tensor
    law: Tensor
    kl: Tensor


def true_gradients(setting: Setting, distance: PlainDistance, unit: str, count: int | None = None) -> TrueGradients:
    """The gradients of the objectives as they are defined, by autograd through the analytic density and score.

    Args:
        unit: of the gap: "score", "eps" or "x0".
        count: points per axis; 8001 on the line, 401 in the plane by default.
    """
    law, target = setting.law(), setting.target()
    x, cell = grid(setting.frozen_law(), count or (8001 if law.dimension == 1 else 401))
    log_density = law.log_density(x)
    mass = cell * log_density.exp()
    divergence = distance.value(unit_of(setting, unit) * (law.score(x) - target.score(x)))
    objectives = (
        (mass.detach() * divergence).sum(),
        (mass * divergence).sum(),
        (mass * divergence.detach()).sum(),
        (mass * (log_density - target.log_density(x))).sum(),
    )
    return TrueGradients(*[gradient(objective, setting.generator) for objective in objectives])


class Noisy(NamedTuple):
    """Two laws at one level, points [N, n] over the first one's mass, and its mass at each of them, [N]."""

    own: GaussianMixture
    other: GaussianMixture
    points: Tensor
    mass: Tensor


def _at_levels(p: GaussianMixture, q: GaussianMixture, sigmas: Tensor, count: int) -> Iterator[Noisy]:
    for sigma in sigmas:
        own, other = (law.diffuse(VarianceExploding(), sigma) for law in (p, q))
        points, cell = grid(own, count)
        yield Noisy(own, other, points, cell * own.log_density(points).exp())


def squared_gaps(p: GaussianMixture, q: GaussianMixture, sigmas: Tensor, count: int = 2001) -> Tensor:
    """E_{p_t} ‖s_p − s_q‖², in score units, at levels x_t = x_0 + sigma eps; sigmas [T] -> [T]."""
    levels = _at_levels(p, q, sigmas, count)
    return torch.stack([mass @ (own.score(x) - other.score(x)).square().sum(-1) for own, other, x, mass in levels])


def kl_divergences(p: GaussianMixture, q: GaussianMixture, sigmas: Tensor, count: int = 2001) -> Tensor:
    """KL(p_t ‖ q_t) in nats at levels x_t = x_0 + sigma eps; sigmas [T] -> [T]."""
    levels = _at_levels(p, q, sigmas, count)
    return torch.stack([mass @ (own.log_density(x) - other.log_density(x)) for own, other, x, mass in levels])


class Nodes(NamedTuple):
    """Points (k, z, eps) with probabilities: an expectation over the generator's and the level's noise as a sum.

    Shapes: component [N], normal [N, n], noise [N, n], weight [N]; the weights sum to 1.
    """

    component: Tensor
    normal: Tensor
    noise: Tensor
    weight: Tensor

    def split(self, size: int) -> Iterator[Nodes]:
        """The same nodes in parts of at most `size`, to bound memory."""
        for parts in zip(*[column.split(size) for column in self], strict=True):
            yield Nodes(*parts)


def gauss_hermite(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights, [count] each, of E f(z), z ~ N(0, 1); exact for polynomials of degree 2 count − 1."""
    points, weights = np.polynomial.hermite_e.hermegauss(count)
    return torch.from_numpy(points), torch.from_numpy(weights / math.sqrt(2 * math.pi))


def uniform_normal(count: int, reach: float = 9.0) -> tuple[Tensor, Tensor]:
    """A uniform grid on [−reach, reach] with the standard normal's weights, [count] each."""
    points = torch.linspace(-reach, reach, count, dtype=torch.float64)
    return points, (-0.5 * points**2).softmax(0)


def _product(rules: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Product of one-dimensional rules: points [N, number of rules] and weights [N]."""
    points = torch.cartesian_prod(*[rule[0] for rule in rules]).reshape(-1, len(rules))
    weights = torch.cartesian_prod(*[rule[1] for rule in rules]).reshape(-1, len(rules)).prod(1)
    return points, weights


def plain_nodes(setting: Setting, count: int) -> Nodes:
    """Gauss–Hermite product nodes over (z, eps) for every component: K count^(2n) of them."""
    generator = setting.generator
    components, dimension = generator.shifts.shape
    both, weight = _product([gauss_hermite(count)] * (2 * dimension))
    return Nodes(
        torch.arange(components).repeat_interleave(len(both)),
        both[:, :dimension].repeat(components, 1),
        both[:, dimension:].repeat(components, 1),
        (generator.weights[:, None] * weight).flatten(),
    )


def rotated_nodes(setting: Setting, count: int, across: int = 3) -> Nodes:
    """A uniform grid of `count` points per axis along x_t, and Gauss–Hermite nodes across it, for every component.

    Given the component, x_t − alpha m = [alpha S, sigma I] (z, eps). With L Lᵀ its covariance, u = L⁻¹ [alpha S,
    sigma I] (z, eps) and the n coordinates v orthogonal to it are again independent standard normals: a rotation of
    (z, eps). Scores, and so pseudo-Huber's kink, depend on u alone, which gets the fine grid. At fixed u a gradient of
    any of the losses is a polynomial of degree at most 2 in v, for which `across` >= 2 Gauss–Hermite nodes are exact.
    """
    generator = setting.generator
    components, dimension = generator.shifts.shape
    rotated, weight = _product([uniform_normal(count)] * dimension + [gauss_hermite(across)] * dimension)
    blocks = []
    for scale in generator.scales.detach():
        linear = torch.cat([setting.alpha * scale, setting.sigma * torch.eye(dimension, dtype=scale.dtype)], dim=1)
        along = torch.linalg.solve_triangular(torch.linalg.cholesky(linear @ linear.mT), linear, upper=False)
        across_rows = torch.linalg.svd(along, full_matrices=True).Vh[dimension:]
        blocks.append(rotated @ torch.cat([along, across_rows]))
    both = torch.cat(blocks)
    return Nodes(
        torch.arange(components).repeat_interleave(len(rotated)),
        both[:, :dimension],
        both[:, dimension:],
        (generator.weights[:, None] * weight).flatten(),
    )


class Expectation(NamedTuple):
    """E loss, [], and its gradient in (shifts, scales), [K n + K n²]."""

    value: Tensor
    gradient: Tensor


def expect(loss: SampleLoss, setting: Setting, nodes: Nodes, chunk: int = 200_000) -> Expectation:
    """E over (k, z, eps) of loss(x0, x_t, noise), and the gradient that reaches the generator through x0 and x_t."""
    value = torch.zeros((), dtype=torch.float64)
    total = gradient(value, setting.generator)
    for part in nodes.split(chunk):
        x0 = setting.generator.place(part.component, part.normal)
        mean = part.weight @ loss(x0, setting.alpha * x0 + setting.sigma * part.noise, part.noise)
        value += mean.detach()
        total += gradient(mean, setting.generator)
    return Expectation(value, total)


def theorem_forms(setting: Setting, distance: PlainDistance, unit: str) -> dict[str, SampleLoss]:
    """Theorem 3.1's loss −d'(y)ᵀ{s_theta + eps/sigma} by name, as it should be and with each stop-gradient misplaced.

    y = u (s_sg[theta](x_t) − s_ref(x_t)); theta acts through x_t alone. Row names are those of stop_gradient_table.
    """
    law, target = setting.frozen_law(), setting.target()
    sigma, factor = setting.sigma, unit_of(setting, unit)

    def gap(x_t: Tensor) -> Tensor:
        return factor * (law.score(x_t) - target.score(x_t))

    def slope(x_t: Tensor) -> Tensor:
        return factor * distance.derivative(gap(x_t))

    def braces(x_t: Tensor, noise: Tensor) -> Tensor:
        return law.score(x_t) + noise / sigma

    def right(x0: Tensor, x_t: Tensor, noise: Tensor) -> Tensor:
        return -(slope(x_t) * braces(x_t, noise)).sum(-1)

    return {
        "Theorem 3.1 loss": right,
        "Theorem 3.1 loss + d": lambda x0, x_t, noise: right(x0, x_t, noise) + distance.value(gap(x_t)),
        "wrong: d' detached": lambda x0, x_t, noise: -(slope(x_t).detach() * braces(x_t, noise)).sum(-1),
        "wrong: braces detached": lambda x0, x_t, noise: -(slope(x_t) * braces(x_t, noise).detach()).sum(-1),
        "wrong: conditional score dropped": lambda x0, x_t, noise: -(slope(x_t) * law.score(x_t)).sum(-1),
        "wrong: x_t detached": lambda x0, x_t, noise: right(x0, x_t.detach(), noise),
        "d alone, scores frozen": lambda x0, x_t, noise: distance.value(gap(x_t)),
        "detached form": lambda x0, x_t, noise: (slope(x_t).detach() * x_t).sum(-1) / sigma**2,
        "integral KL": lambda x0, x_t, noise: ((law.score(x_t) - target.score(x_t)).detach() * x_t).sum(-1),
    }


def stop_gradient_table(setting: Setting, distance: PlainDistance, unit: str, nodes: Nodes) -> dict[str, Tensor]:
    """What each misplaced stop-gradient costs: row name -> gradient in (shifts, scales); the true ones come first."""
    true = true_gradients(setting, distance, unit)
    rows = {"true, frozen law": true.frozen, "true, law differentiated": true.differentiated}
    for name, form in theorem_forms(setting, distance, unit).items():
        rows[name] = expect(form, setting, nodes).gradient
    return rows


def format_table(rows: dict[str, Tensor], truth: str = "true, frozen law") -> str:
    """The table as text, with each row's relative distance to the row `truth`."""
    lines = []
    for name, row in rows.items():
        numbers = " ".join(f"{number:+.6f}" for number in row.tolist())
        lines.append(f"{name:34s} {numbers}   {relative_error(row, rows[truth]):8.1e}")
    return "\n".join(lines)


def relative_error(value: Tensor, truth: Tensor) -> float:
    """‖value − truth‖/‖truth‖."""
    return float((value - truth).norm() / truth.norm())


def cosine(a: Tensor, b: Tensor) -> float:
    """aᵀb/(‖a‖ ‖b‖) of two vectors."""
    return float(a @ b / (a.norm() * b.norm()))
