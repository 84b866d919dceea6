"""Guidance between two Gaussians: closed forms for the flow's end and the resting place."""

from functools import partial

import pytest
import torch

from distar_core.losses import PseudoHuber, integral_kl, score_divergence
from distar_core.toy.ring import LEVELS
from distar_core.truth.gaussians import end_of_flow, fixed_point, placed

PAIR = {"levels": LEVELS, "mean": 1.0, "deviation": 0.5, "null_deviation": 1.0}
HUBER = partial(score_divergence, distance=PseudoHuber(0.05), unit="eps")


def score(x, sigma, cfg_scale):
    return -(1 + cfg_scale) * (x - 1) / (0.25 + sigma**2) + cfg_scale * x / (1 + sigma**2)


@pytest.mark.parametrize("cfg_scale", [0.0, 1.0, 3.0])
def test_the_flow_of_the_guided_score_ends_with_the_deviation_of_its_closed_form(cfg_scale):
    """d log x/dsigma = sigma slope(sigma), so the deviation is s_c^(1 + w)/s_0^w."""
    _, deviation = end_of_flow(lambda x, sigma: score(x, sigma, cfg_scale))
    assert deviation == pytest.approx(0.5 ** (1 + cfg_scale), rel=1e-3)


def test_without_guidance_the_flow_ends_at_the_conditional():
    mean, deviation = end_of_flow(lambda x, sigma: score(x, sigma, 0.0), sigma_max=1000.0)
    assert mean == pytest.approx(1, abs=1e-3)
    assert deviation == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("loss", [integral_kl, HUBER])
def test_without_guidance_a_generator_rests_at_the_conditional(loss):
    assert fixed_point(loss, **PAIR) == pytest.approx((1.0, 0.5), abs=1e-6)


@pytest.mark.parametrize("cfg_scale", [1.0, 3.0])
def test_under_integral_kl_it_rests_where_the_mean_slopes_agree(cfg_scale):
    """dKL/dm: the mean over levels of slope (m − zero) vanishes; dKL/ds: that of slope − 1/(s² + sigma²)."""
    m, s = fixed_point(placed(integral_kl, "inside", cfg_scale), **PAIR)
    sigma = torch.tensor(LEVELS, dtype=torch.float64)
    at_zero = score(0.0, sigma, cfg_scale)
    slope = at_zero - score(1.0, sigma, cfg_scale)
    assert m == pytest.approx(float(at_zero.sum() / slope.sum()), abs=1e-6)
    assert float((slope - 1 / (s**2 + sigma**2)).mean()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("loss", "same"), [(integral_kl, True), (HUBER, False)])
def test_inside_and_outside_rest_at_one_place_for_kl_and_at_two_for_pseudo_huber(loss, same):
    places = [torch.tensor(fixed_point(placed(loss, place, 2.0), **PAIR)) for place in ("inside", "outside")]
    assert (float((places[0] - places[1]).abs().max()) < 1e-9) == same
