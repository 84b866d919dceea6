"""What the plane's runs are measured by, against known answers."""

from __future__ import annotations

import math

import pytest
import torch

from distar_core import GaussianMixture, ring
from distar_core.toy.summary import KL_SIGMA, WINDOW, summarise
from distar_core.truth.grid import Grid

RING = ring()
GRID = Grid(half_width=5.2, count=119)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_modes_by_hand() -> None:
    """The share of each nearest mode, at any distance: a half and two quarters."""
    modes = GaussianMixture.isotropic(
        torch.ones(3) / 3, torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 3.0]]), torch.full((3,), 0.1)
    )
    points = torch.tensor([[0.1, 0.2], [-3.0, 0.0], [3.5, 1.0], [1.0, 3.5]])
    assert summarise(points, points[:, 0], modes).entropy == pytest.approx(1.5 * math.log(2))


def test_samples_with_known_answers() -> None:
    """Half of the points on mode 0, with deviation 0.1; a quarter on mode 3; a quarter far from every mode."""
    count = 40_000
    normal = torch.randn(count, 2, generator=rng(), dtype=torch.float64)
    points = torch.cat(
        [RING.means[0] + 0.1 * normal[: count // 2], RING.means[3] + 0.1 * normal[count // 2 : 3 * count // 4]]
    )
    points = torch.cat([points, torch.zeros(count // 4, 2) + torch.tensor([0.1, 0.0])])
    summary = summarise(points, points[:, 0], RING)
    # The points at the centre lie nearest to mode 0, at distance 1.9 = 7.6 deviations.
    assert summary.entropy == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), abs=1e-9)
    assert summary.modes == pytest.approx(math.exp(summary.entropy))
    assert summary.off_support == pytest.approx(0.25, abs=1e-9)
    # Relative standard error of a deviation from 40 000 numbers: 1/sqrt(2 · 40 000) = 0.35 %.
    assert summary.spread == pytest.approx(0.1, rel=0.015)
    assert summary.reward == pytest.approx(float(points[:, 0].double().mean()))
    assert summary.kl > 1


def test_the_reference_s_own_samples() -> None:
    points = RING.sample(100_000, rng())
    summary = summarise(points, points[:, 1], RING)
    assert summary.reward == pytest.approx(0, abs=5 * 2**0.5 / 100_000**0.5)
    assert summary.modes == pytest.approx(8, abs=2e-3)
    # A round Gaussian has exp(−4.5) beyond three deviations; five standard errors.
    assert summary.off_support == pytest.approx(math.exp(-4.5), abs=5 * (math.exp(-4.5) / 100_000) ** 0.5)
    # What is cut off beyond three deviations takes 2.5 % of the deviation with it.
    assert 0.235 < summary.spread < 0.25
    # n samples add about (number of blurred cells)/2n.
    assert 0 < summary.kl < 5e-3
    # Control: samples of a shifted reference are told apart by more than a thousand times their own margin.
    shifted = summarise(points + 0.5, points[:, 1], RING)
    assert shifted.kl > 0.5
    assert shifted.off_support > 10 * summary.off_support


def test_samples_and_grid_agree_for_the_reference() -> None:
    reference = RING.to(torch.float64)
    own = GRID.mass(reference.log_density)
    exact = summarise(GRID.points, GRID.points[:, 0].tanh(), RING, mass=own, grid=GRID)
    points = RING.sample(100_000, rng(1))
    sampled = summarise(points, points[:, 0].tanh(), RING)
    tolerances = {"reward": 0.02, "entropy": 1e-3, "modes": 5e-3, "kl": 5e-3, "off_support": 2e-3, "spread": 5e-3}
    for name, tolerance in tolerances.items():
        assert getattr(sampled, name) == pytest.approx(getattr(exact, name), abs=tolerance), name
    assert exact.kl == pytest.approx(0, abs=1e-6)
    assert exact.modes == pytest.approx(8, abs=1e-6)
    assert exact.reward == pytest.approx(0, abs=1e-7)


def test_samples_and_grid_agree_away_from_the_reference() -> None:
    """Three modes with unequal weights, wider than the reference's: a hand-made post-trained generator."""
    weights = torch.tensor([0.6, 0.3, 0.1])
    other = GaussianMixture.isotropic(weights, RING.means[:3], torch.full((3,), 0.3))
    mass = GRID.mass(other.to(torch.float64).log_density)
    exact = summarise(GRID.points, GRID.points[:, 0], RING, mass=mass, grid=GRID)
    points = other.sample(100_000, rng(2))
    sampled = summarise(points, points[:, 0], RING)
    tolerances = {"reward": 0.02, "entropy": 1e-2, "modes": 2e-2, "kl": 2e-2, "off_support": 3e-3, "spread": 5e-3}
    for name, tolerance in tolerances.items():
        assert getattr(sampled, name) == pytest.approx(getattr(exact, name), abs=tolerance), name


def test_kl_is_the_closed_form_of_two_gaussians() -> None:
    """Both blurred with sigma = 0.15, as the summary says."""
    one = GaussianMixture.isotropic(torch.ones(1), torch.zeros(1, 2), torch.tensor([0.5]))
    other = GaussianMixture.isotropic(torch.ones(1), torch.tensor([[0.4, -0.2]]), torch.tensor([0.3]))
    mass = WINDOW.mass(other.to(torch.float64).log_density)
    found = summarise(WINDOW.points, WINDOW.points[:, 0], one, mass=mass, grid=WINDOW).kl
    p, q = 0.3**2 + KL_SIGMA**2, 0.5**2 + KL_SIGMA**2
    expected = p / q - 1 - math.log(p / q) + (0.4**2 + 0.2**2) / (2 * q)
    assert found == pytest.approx(expected, rel=1e-6)
    # Control: without the blur it is another number.
    unblurred = 0.36 - 1 - math.log(0.36) + 0.2 / 0.5
    assert abs(found - unblurred) > 1e-2 * expected


@pytest.mark.parametrize(("leaving", "finite"), [(0, True), (99, True), (100, False), (10_000, False)])
def test_kl_is_infinite_once_a_hundredth_left_the_window(leaving: int, finite: bool) -> None:
    points = RING.sample(10_000, rng())
    points[:leaving] = 50.0
    summary = summarise(points, points[:, 0], RING)
    assert math.isfinite(summary.kl) is finite
    assert not math.isnan(summary.kl)


def test_spread_of_an_empty_mode_is_nan() -> None:
    points = torch.zeros(100, 2)
    summary = summarise(points, points[:, 0], RING)
    assert math.isnan(summary.spread)
    assert summary.off_support == 1
