"""Claims 1 to 3: the noise schedule, the mixture, and the tilt, on which every later claim stands."""

import math
from itertools import permutations

import pytest
import torch
from torch import Tensor

from distar_core.mixture import GaussianMixture, LinearReward, QuadraticReward
from distar_core.schedule import (
    DiscreteSchedule,
    NoiseSchedule,
    VarianceExploding,
    VariancePreserving,
    scaled_linear_schedule,
)
from distar_core.truth.quadrature import grid, line_setting, plane_setting, relative_error

SCHEDULES = {
    "variance-exploding": (VarianceExploding(), torch.tensor([0.1, 0.7, 3.0], dtype=torch.float64)),
    "variance-preserving": (VariancePreserving(), torch.tensor([0.1, 0.7, 0.95], dtype=torch.float64)),
    "sdxl": (scaled_linear_schedule(), torch.tensor([20, 399, 980])),
}


def conversion_error(schedule: NoiseSchedule, t: Tensor, v_sign: float = 1.0) -> float:
    """Largest relative error of any conversion between the forms, which are all known from (x0, noise)."""
    rng = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, len(t), 5, generator=rng, dtype=torch.float64)
    alpha, sigma = schedule.coefficients(t, x0)
    x_t = schedule.add_noise(x0, noise, t)
    forms = {"eps": noise, "x0": x0, "score": -noise / sigma}
    if schedule.variance_preserving:
        forms["v"] = alpha * noise - v_sign * sigma * x0
    return max(
        relative_error(schedule.convert(forms[source], x_t, t, source=source, target=target), forms[target])
        for source, target in permutations(forms, 2)
    )


def diffusion_error(schedule: NoiseSchedule, t: Tensor) -> float:
    """Relative error of g² = alpha² d(sigma²/alpha²)/dt against central differences.

    Where alpha² + sigma² = 1, g² = −d log alpha²/dt: in a table of steps that is the other way to form the difference.
    """
    if isinstance(schedule, DiscreteSchedule):
        log_power = 2 * schedule.alpha(torch.stack([t - 1, t + 1])).log()
        return relative_error(schedule.diffusion_squared(t), (log_power[0] - log_power[1]) / 2)
    step = 1e-5
    ratio = [(schedule.sigma(time) / schedule.alpha(time)) ** 2 for time in (t - step, t + step)]
    return relative_error(schedule.diffusion_squared(t), schedule.alpha(t) ** 2 * (ratio[1] - ratio[0]) / (2 * step))


@pytest.mark.claim(1)
@pytest.mark.parametrize("name", SCHEDULES)
def test_claim_01_schedule_values_and_conversions(name, holds):
    """Claim 1. x_t = alpha x_0 + sigma eps; score = −eps/sigma, x0 = (x_t − sigma eps)/alpha, v = alpha eps − sigma x0.

    SDXL's table: alpha_399 = .6528, sigma_399 = .7576, alpha_999 = .0683; the gain sigma/alpha of an eps
    network's error is 1.16 and 14.6 there. v exists only where alpha² + sigma² = 1. g² = alpha² d(sigma²/alpha²)/dt.
    """
    schedule, t = SCHEDULES[name]
    if name == "sdxl":
        times = torch.tensor([399, 999])
        alpha, sigma = schedule.alpha(times), schedule.sigma(times)
        assert [round(float(a), 4) for a in alpha] == [0.6528, 0.0683]
        assert round(float(sigma[0]), 4) == 0.7576
        assert float(sigma[0] / alpha[0]) == pytest.approx(1.16, abs=5e-3)
        assert float(sigma[1] / alpha[1]) == pytest.approx(14.6, abs=5e-2)
    if schedule.variance_preserving:
        assert torch.allclose(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, torch.ones(3, dtype=torch.float64))
    else:
        x = torch.zeros(3, 2, dtype=torch.float64)
        with pytest.raises(ValueError, match="'v' exists only where"):
            schedule.convert(x, x, t, source="eps", target="v")
    assert diffusion_error(schedule, t) <= (1e-3 if name == "sdxl" else 1e-6)
    holds(conversion_error(schedule, t), 1e-12)


def test_claim_01_control_wrong_sign_and_wrong_table(fails):
    """v = alpha eps + sigma x0 does not convert, and betas that are linear themselves give another alpha_399."""
    schedule, t = SCHEDULES["sdxl"]
    fails(conversion_error(schedule, t, v_sign=-1.0), conversion_error(schedule, t))
    betas = torch.linspace(0.00085, 0.012, 1000, dtype=torch.float64)
    linear = DiscreteSchedule((1 - betas).cumprod(0))
    at = torch.tensor(399)
    fails(abs(float(linear.alpha(at)) / 0.6528 - 1), abs(round(float(schedule.alpha(at)), 4) / 0.6528 - 1))


def test_sdxl_table_is_the_one_of_diffusers():
    """The library that the SDXL weights are run with has the same table, to its float32."""
    pytest.importorskip("diffusers")
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    theirs = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod
    ours = scaled_linear_schedule().alpha(torch.arange(1000)) ** 2
    assert relative_error(ours, theirs.double()) <= 1e-5


def mixture_of(dimension: int) -> GaussianMixture:
    setting = line_setting(VarianceExploding(), 0.7) if dimension == 1 else plane_setting(VarianceExploding(), 0.7)
    return setting.reference


def convolved(mixture: GaussianMixture, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """∫ p(x_0) N(x_t; alpha x_0, sigma²) dx_0 on a grid; [N]."""
    x0, cell = grid(mixture, 4001 if mixture.dimension == 1 else 301)
    log_kernel = -0.5 * ((x_t[:, None] - alpha * x0) / sigma).square().sum(-1)
    kernel = log_kernel.exp() / (2 * math.pi * sigma**2) ** (mixture.dimension / 2)
    return cell * (kernel * mixture.log_density(x0).exp()).sum(-1)


@pytest.mark.claim(2)
@pytest.mark.parametrize("dimension", [1, 2])
@pytest.mark.parametrize("name", SCHEDULES)
def test_claim_02_mixture_density_score_diffusion(name, dimension, holds):
    """Claim 2. The density sums to 1, s = ∇ log p, and x_t has means alpha mu_k, covariances alpha² Sigma_k + sigma² I.

    A batch of levels gives what each level gives alone; given(label) is p(x | label); all of it stays finite and right
    at 10,000 deviations.
    """
    schedule, times = SCHEDULES[name]
    mixture = mixture_of(dimension)
    x, cell = grid(mixture, 4001 if dimension == 1 else 301)
    assert abs(float(cell * mixture.log_density(x).exp().sum()) - 1) <= 1e-12

    x = mixture.sample(len(times), torch.Generator().manual_seed(1)) + 0.5
    together = mixture.diffuse(schedule, times)
    errors = []
    for row, t in enumerate(times):
        alone = mixture.diffuse(schedule, t)
        points = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(alone.log_density(points).sum(), points)
        density = convolved(mixture, x, schedule.alpha(t), schedule.sigma(t))
        errors += [
            relative_error(alone.score(x), slope),
            relative_error(alone.log_density(x).exp(), density),
            relative_error(together.score(x)[row], alone.score(x[row])),
            relative_error(together.log_density(x)[row], alone.log_density(x[row])),
        ]

    labels = torch.arange(len(mixture.weights)) % 2
    labelled = GaussianMixture(mixture.weights, mixture.means, mixture.covariances, labels)
    kept = labels == 1
    by_hand = GaussianMixture(
        mixture.weights[kept] / mixture.weights[kept].sum(), mixture.means[kept], mixture.covariances[kept]
    )
    errors.append(relative_error(labelled.given(1).log_density(x), by_hand.log_density(x)))
    errors.append(relative_error(labelled.given(torch.tensor([1, 1, 1])).score(x), by_hand.score(x)))

    far = torch.full((1, dimension), 1e4, dtype=torch.float64)
    nearest_score = -torch.linalg.solve(mixture.covariances, (far - mixture.means)[..., None]).squeeze(-1)
    widest = ((far - mixture.means) * nearest_score).sum(-1).argmax()
    errors.append(relative_error(mixture.score(far)[0], nearest_score[widest]))
    assert bool(mixture.log_density(far).isfinite())
    holds(max(errors), 1e-11)


def test_claim_02_control_forgotten_alpha_and_naive_exponential(fails):
    """Means and covariances that forget alpha give another density, and exp without log-sum-exp has no score far out."""
    schedule, times = SCHEDULES["variance-preserving"]
    mixture, t = mixture_of(1), times[1]
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    density = convolved(mixture, x, alpha, sigma)
    identity = torch.eye(1, dtype=torch.float64)
    forgetful = GaussianMixture(mixture.weights, alpha * mixture.means, mixture.covariances + sigma**2 * identity)
    own = relative_error(mixture.diffuse(schedule, t).log_density(x).exp(), density)
    fails(relative_error(forgetful.log_density(x).exp(), density), own)

    far = torch.full((1, 1), 1e4, dtype=torch.float64, requires_grad=True)
    normal = torch.distributions.Normal(mixture.means[:, 0], mixture.variances[:, 0].sqrt())
    naive = (mixture.weights * normal.log_prob(far).exp()).sum(-1).log()
    (slope,) = torch.autograd.grad(naive.sum(), far)
    assert not bool(slope.isfinite().all())


DIRECTION = torch.tensor([0.8, -0.3], dtype=torch.float64)
CURVATURE = torch.tensor([[0.5, 0.2], [0.2, -0.6]], dtype=torch.float64)
REWARDS = {
    "linear": LinearReward(DIRECTION),
    "quadratic": QuadraticReward(CURVATURE),
    "quadratic with slope": QuadraticReward(CURVATURE, DIRECTION),
}


def tilted_on_grid(mixture: GaussianMixture, reward: LinearReward | QuadraticReward, scale: float):
    """Points of a grid and p(x) exp(scale r(x))/Z there, with Z summed over the grid."""
    x, cell = grid(mixture, 401, reach=14.0)
    log_unnormalised = mixture.log_density(x) + scale * reward(x)
    return x, (log_unnormalised - log_unnormalised.logsumexp(0)).exp() / cell


@pytest.mark.claim(3)
@pytest.mark.parametrize("scale", [0.5, 1.5])
@pytest.mark.parametrize("name", REWARDS)
def test_claim_03_tilt(name, scale, holds):
    """Claim 3. mixture.tilt(r, scale) is p(x) exp(scale r(x))/Z for linear and quadratic rewards.

    A quadratic reward has such an optimum only if every Sigma_k⁻¹ − scale A is positive definite; otherwise the
    library refuses.
    """
    mixture, reward = mixture_of(2), REWARDS[name]
    x, truth = tilted_on_grid(mixture, reward, scale)
    if name != "linear":
        precisions = torch.linalg.inv(mixture.covariances)
        assert bool((torch.linalg.eigvalsh(precisions - 20 * CURVATURE) < 0).any())
        with pytest.raises(ValueError, match="no optimum exists"):
            mixture.tilt(reward, 20.0)
    holds(relative_error(mixture.tilt(reward, scale).log_density(x).exp(), truth), 1e-10)


def test_claim_03_control_weights_not_tilted(fails):
    """Shifting the components by scale Sigma_k a without reweighing them is another density."""
    mixture, reward = mixture_of(2), LinearReward(DIRECTION)
    x, truth = tilted_on_grid(mixture, reward, 1.0)
    tilted = mixture.tilt(reward, 1.0)
    kept = GaussianMixture(mixture.weights, tilted.means, tilted.covariances)
    fails(
        relative_error(kept.log_density(x).exp(), truth),
        relative_error(tilted.log_density(x).exp(), truth),
    )
