"""Distances, units, weights and the losses as functions. The theorems behind them are in tests/claims."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distar_core import METHODS
from distar_core.losses import (
    DMD_FLOOR,
    HUBER_C,
    Noised,
    PseudoHuber,
    Scores,
    SquaredL2,
    cfg_reward,
    denoising,
    field,
    gap,
    gap_seen_and_missed,
    inner,
    integral_kl,
    one_per_sample,
    score_divergence,
    score_divergence_detached,
    weight_dmd,
    weight_one,
    weight_sigma,
    weight_sigma_squared,
    weight_x0,
)
from distar_core.training import generator_step, make_batch

DISTANCES = [SquaredL2(), PseudoHuber(0.05), PseudoHuber(1.0), PseudoHuber(30.0)]
UNITS = ["score", "eps", "x0"]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def example(shape: tuple[int, ...] = (3, 2)) -> tuple[Noised, Scores]:
    """A noised batch with x_t as a leaf, and scores that are smooth functions of x_t."""
    alpha = torch.tensor([0.9, 0.6, 0.2], dtype=torch.float64).reshape(-1, *[1] * (len(shape) - 1))
    sigma = (1 - alpha**2).sqrt()
    x0, noise = normal(*shape, seed=0), normal(*shape, seed=1)
    x_t = (alpha * x0 + sigma * noise).requires_grad_()
    noised = Noised(x0, x_t, noise, torch.arange(3), alpha, sigma)
    return noised, Scores((0.8 * x_t).sin() - x_t, -x_t + 0.3 * x_t.cos(), -0.5 * x_t)


@pytest.mark.parametrize("c", [0.0, -0.1, math.nan, math.inf, 1e-23, 1e20])
def test_pseudo_huber_refuses_a_constant_whose_square_is_no_number_of_float32(c: float) -> None:
    with pytest.raises(ValueError, match="huber_c") as error:
        PseudoHuber(c)
    assert str(c) in str(error.value)


@pytest.mark.parametrize("c", HUBER_C)
@pytest.mark.parametrize("size", [0.0, 1e-6, 1.0, 1e6])
def test_pseudo_huber_is_right_in_float32_at_the_ends_of_its_range(c: float, size: float) -> None:
    """Value, pull and the pull's derivative, against y²/(rho + c), y/rho and c²/rho³ in Python's float64."""
    y = torch.tensor([[size]], requires_grad=True)
    rho = math.hypot(size, c)
    assert float(PseudoHuber(c)(y).detach()) == pytest.approx(size**2 / (rho + c), rel=1e-6)
    pull = PseudoHuber(c).grad(y)
    assert float(pull.detach()) == pytest.approx(size / rho, rel=1e-6)
    (slope,) = torch.autograd.grad(pull.sum(), y)
    # the slope is 1/rho less almost as much where |y| is far beyond c
    assert float(slope) == pytest.approx(c**2 / rho**3, rel=1e-6, abs=1e-6 / rho)
    # Control: beyond the range the same formula has no force, and is no number.
    beyond = [y.detach() / (y.detach() ** 2 + bad**2).sqrt() for bad in (1e20, 1e-23)]
    assert float(beyond[0]) == 0
    assert math.isnan(float(beyond[1])) == (size == 0)


@pytest.mark.parametrize("distance", DISTANCES, ids=str)
@pytest.mark.parametrize("shape", [(3, 2), (3, 4, 2, 2)])
def test_the_derivative_of_a_distance_against_autograd(distance: Any, shape: tuple[int, ...]) -> None:
    y = normal(*shape, seed=2).requires_grad_()
    value = distance(y)
    assert value.shape == (3,)
    assert bool((value > 0).all())
    (gradient,) = torch.autograd.grad(value.sum(), y)
    torch.testing.assert_close(distance.grad(y), gradient, rtol=0, atol=1e-13)
    assert distance(torch.zeros_like(y)).tolist() == [0, 0, 0]
    # Control: the derivative of another distance is another vector.
    assert float((PseudoHuber(5.0).grad(y.detach()) - gradient).abs().max()) > 1e-2


def test_pseudo_huber_is_accurate_for_small_gaps() -> None:
    """‖y‖²/(rho + c) keeps its digits where rho − c has none left."""
    y, c = torch.tensor([[1e-6, 0.0]], dtype=torch.float32), 1.0
    assert abs(float(PseudoHuber(c)(y)) / 0.5e-12 - 1) < 1e-6
    assert float((inner(y, y) + c**2).sqrt() - c) == 0


def test_the_pull_of_pseudo_huber_is_bounded() -> None:
    for size in (1e-3, 1.0, 1e6):
        assert float(PseudoHuber(0.05).grad(size * normal(5, 7, seed=3)).norm(dim=1).max()) <= 1
    assert float(SquaredL2().grad(1e6 * normal(5, 7, seed=3)).norm(dim=1).min()) > 1e5


def test_units_of_the_gap() -> None:
    noised, scores = example()
    difference = scores.assistant - scores.reference
    torch.testing.assert_close(gap(noised, scores, "score"), difference, rtol=0, atol=0)
    torch.testing.assert_close(gap(noised, scores, "eps"), noised.sigma * difference, rtol=0, atol=0)
    expected = noised.sigma**2 / noised.alpha * difference
    torch.testing.assert_close(gap(noised, scores, "x0"), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("function", [score_divergence, score_divergence_detached])
def test_an_unknown_unit_is_refused(function: Any) -> None:
    noised, scores = example()
    with pytest.raises(ValueError, match="unit 'v' is not one of score, eps, x0; the constant c"):
        function(noised, scores, distance=SquaredL2(), unit="v")


def test_an_unknown_law_is_refused() -> None:
    noised, scores = example()
    with pytest.raises(ValueError, match="law 'moving' is not one of frozen, differentiated; choose one"):
        score_divergence(noised, scores, distance=SquaredL2(), unit="eps", law="moving")  # type: ignore[arg-type]


def test_the_cfg_reward_needs_the_null_score() -> None:
    noised, scores = example()
    with pytest.raises(ValueError, match="null condition, got None; evaluate reference"):
        cfg_reward(noised, scores._replace(null=None))


@pytest.mark.parametrize("shape", [(3, 2), (3, 4, 2, 2)])
def test_every_loss_is_one_value_per_sample(shape: tuple[int, ...]) -> None:
    noised, scores = example(shape)
    options: dict[str, Any] = {"distance": SquaredL2(), "unit": "eps"}
    for loss in (
        denoising(scores.assistant, noised),
        integral_kl(noised, scores),
        score_divergence(noised, scores, **options),
        score_divergence(noised, scores, **options, law="differentiated"),
        score_divergence_detached(noised, scores, **options),
        cfg_reward(noised, scores),
    ):
        assert loss.shape == (3,)
    for weight in (weight_one, weight_sigma, weight_sigma_squared, weight_x0, weight_dmd):
        value = weight(noised, scores)
        assert value.shape == (3,)
        assert bool((value > 0).all())


def test_weights_by_hand() -> None:
    noised, scores = example()
    sigma, alpha = noised.sigma.flatten(), noised.alpha.flatten()
    assert torch.equal(weight_one(noised, scores), torch.ones(3, dtype=torch.float64))
    assert torch.equal(weight_sigma(noised, scores), sigma)
    assert torch.equal(weight_sigma_squared(noised), sigma**2)
    torch.testing.assert_close(weight_x0(noised, scores), sigma**2 / alpha**2, rtol=0, atol=1e-14)


def test_weights_of_one_level_for_the_whole_batch() -> None:
    noised, scores = example()
    one = noised._replace(alpha=torch.tensor(0.6), sigma=torch.tensor(0.8))
    assert weight_x0(one, scores).shape == weight_one(one, scores).shape == (3,)


def test_the_weight_of_dmd_is_finite_where_the_sample_is_the_reference_s_guess() -> None:
    noised, scores = example()
    guess = (noised.x_t + noised.sigma**2 * scores.reference) / noised.alpha
    on_top = weight_dmd(noised._replace(x0=guess), scores)
    torch.testing.assert_close(on_top, weight_x0(noised) / DMD_FLOOR, rtol=1e-12, atol=0)
    # Control: a sample further away than the floor is weighed by its distance.
    apart = weight_dmd(noised._replace(x0=guess + 2 * DMD_FLOOR), scores)
    torch.testing.assert_close(apart, on_top / 2, rtol=1e-6, atol=0)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.zeros(3, np.float32), [0.1, 0.2, 0.3], None], ids=repr)
def test_what_is_no_tensor_is_refused_with_its_type(value: Any) -> None:
    with pytest.raises(TypeError, match="the reward Mine must return a tensor") as error:
        one_per_sample(value, torch.zeros(3, 2), "reward Mine")
    assert type(value).__name__ in str(error.value)
    assert one_per_sample(torch.zeros(3), torch.zeros(3, 2), "reward Mine").shape == (3,)


def pull(loss: Tensor, noised: Noised) -> Tensor:
    (gradient,) = torch.autograd.grad(loss.sum(), noised.x_t, retain_graph=True)
    return gradient


def test_fields_pull_along_their_direction() -> None:
    noised, scores = example()
    direction = normal(3, 2, seed=5).requires_grad_()
    assert torch.equal(pull(field(direction, noised), noised), direction)
    assert torch.equal(pull(integral_kl(noised, scores), noised), scores.assistant - scores.reference)
    assert scores.null is not None
    assert torch.equal(pull(cfg_reward(noised, scores), noised), scores.null - scores.reference)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("distance", DISTANCES[:3], ids=str)
def test_the_exact_loss_by_hand(distance: Any, unit: Any) -> None:
    """−d'(u y)ᵀ u {s_psi + eps/sigma}, and the differentiated law adds d(u y)."""
    noised, scores = example()
    u = {"score": 1.0, "eps": noised.sigma, "x0": noised.sigma**2 / noised.alpha}[unit]
    y = u * (scores.assistant - scores.reference)
    expected = -(distance.grad(y) * u * (scores.assistant + noised.noise / noised.sigma)).sum(1)
    frozen = score_divergence(noised, scores, distance=distance, unit=unit)
    moving = score_divergence(noised, scores, distance=distance, unit=unit, law="differentiated")
    torch.testing.assert_close(frozen, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(moving - frozen, distance(y), rtol=0, atol=1e-12)
    torch.testing.assert_close(pull(frozen, noised), pull(expected, noised), rtol=0, atol=1e-12)
    # Control: without the path through d' the pull is another one.
    detached = -(distance.grad(y).detach() * u * (scores.assistant + noised.noise / noised.sigma)).sum(1)
    assert float((pull(detached, noised) - pull(frozen, noised)).abs().max()) > 1e-2


@pytest.mark.parametrize("unit", UNITS)
def test_the_detached_form_is_kl_times_a_factor_for_squared_l2(unit: Any) -> None:
    noised, scores = example()
    factor = {"score": 2 / noised.sigma**2, "eps": 2.0, "x0": 2 * noised.sigma**2 / noised.alpha**2}[unit]
    detached = score_divergence_detached(noised, scores, distance=SquaredL2(), unit=unit)
    kl = pull(integral_kl(noised, scores), noised)
    torch.testing.assert_close(pull(detached, noised), factor * kl, rtol=0, atol=1e-12)
    huber = score_divergence_detached(noised, scores, distance=PseudoHuber(0.3), unit=unit)
    assert float((pull(huber, noised) - factor * kl).abs().max()) > 1e-2


def test_denoising_is_zero_at_the_conditional_score() -> None:
    noised, scores = example()
    assert denoising(-noised.noise / noised.sigma, noised).tolist() == [0, 0, 0]
    error = noised.sigma * scores.assistant + noised.noise
    expected = error.square().sum(1)
    torch.testing.assert_close(weight_sigma_squared(noised) * denoising(scores.assistant, noised), expected)


@pytest.mark.parametrize("cfg_scale", [0.0, 1.5])
def test_the_dmd_row_is_the_normalised_pull_of_dmd(cfg_scale: float, toy: SimpleNamespace) -> None:
    """DMD (2311.18828, eqs. 7 and 8) in its own terms: (x̂_fake − x̂_real)/mean|x_0 − x̂_real| acts on x_0.

    x̂ are denoised samples, computed here as posterior means of the mixture and from the assistant's output.
    """
    state = toy.state()
    method = replace(METHODS["dmd"], cfg_scale=cfg_scale)
    batch = make_batch(
        state, method.time_law, toy.conditions, seed=0, step=0, stream="generator", batch=6, rows=slice(0, 6)
    )
    pulls = generator_step(state, method, batch)

    with torch.no_grad():
        x0 = state.roles.generator.module(batch.z, batch.condition)
        sigma = batch.t[:, None]
        x_t = x0 + sigma * batch.noise(x0)
        mixture = state.roles.reference.mixture  # type: ignore[attr-defined]
        real = mixture.given(batch.condition).posterior_mean(x_t, state.schedule, batch.t)
        unconditional = mixture.posterior_mean(x_t, state.schedule, batch.t)
        real = real + cfg_scale * (real - unconditional)
        fake = x_t + sigma**2 * state.roles.assistant.module(x_t, batch.t, batch.condition)
        expected = (fake - real) / (x0 - real).abs().mean(dim=1, keepdim=True)
    # alpha = 1 in this schedule, so the pull at x_t is the pull on x_0.
    torch.testing.assert_close(pulls.pulls["regularizer"], expected, rtol=1e-10, atol=1e-10)
    # Control: without the normaliser it is the row diff-instruct.
    plain = generator_step(state, replace(method, weight=weight_x0), batch).pulls["regularizer"]
    torch.testing.assert_close(plain, fake - real, rtol=1e-10, atol=1e-10)
    assert float((plain - expected).abs().max()) > 1e-2


@pytest.mark.parametrize("seen", [1.0, 0.5, 0.25, 2.0])
def test_what_is_missed_of_the_gap_is_its_lag(seen):
    """x_0 ~ N(m, 1) and a reference N(0, 1): at every level the true gap is m alpha/(alpha² + sigma²) in units of the score,
    and an assistant that sees a share of it lags by 1/share − 1. Only an exact one by nothing.
    """
    count, mean, alpha, sigma = 400_000, 0.8, 0.8, 0.6
    rng = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(count, 1, generator=rng, dtype=torch.float64) for _ in range(2))
    x0 = x0 + mean
    x_t = alpha * x0 + sigma * noise
    noised = Noised(x0, x_t, noise, torch.zeros(count), torch.tensor(alpha), torch.tensor(sigma))
    true = mean * alpha
    norm, missed = gap_seen_and_missed(noised, Scores(-x_t + seen * true, -x_t))
    assert norm.allclose(torch.tensor(seen * true * sigma, dtype=torch.float64))
    lags = missed / norm.square().mean()
    assert float(lags.mean()) == pytest.approx(1 / seen - 1, abs=5 * float(lags.std()) / count**0.5)
    assert 5 * float(lags.std()) / count**0.5 < 0.1, "so shares are told apart"
