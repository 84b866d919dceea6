"""Mixtures: what is refused and with which words, labels, shapes, and stability far away. Values: tests/claims."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from distar_core import GaussianMixture, LinearReward, MixtureScore, QuadraticReward, VarianceExploding, ring

TWO = torch.tensor([0.4, 0.6])
MEANS = torch.tensor([[0.0, 1.0], [2.0, -1.0]])
DEVIATIONS = torch.tensor([0.5, 1.5])
EYES = torch.eye(2).repeat(2, 1, 1)
VE = VarianceExploding()


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (
            lambda: GaussianMixture.isotropic(torch.tensor([0.4, 0.5]), MEANS, DEVIATIONS),
            r"sum to 1, got \[0.4.*, 0.5\] with sum 0.9; divide by the sum",
        ),
        (
            lambda: GaussianMixture.isotropic(torch.tensor([1.2, -0.2]), MEANS, DEVIATIONS),
            r"weights must be positive and sum to 1, got \[1.2.*, -0.2",
        ),
        (lambda: GaussianMixture.isotropic(torch.tensor([1.0, 0.0]), MEANS, DEVIATIONS), "weights must be positive"),
        (lambda: GaussianMixture.isotropic(torch.tensor([math.nan, 1.0]), MEANS, DEVIATIONS), r"got \[nan, 1.0\]"),
        (
            lambda: GaussianMixture.isotropic(torch.ones(3) / 3, MEANS, DEVIATIONS),
            r"weights must be \[K\] and means \[K, n\], got \(3,\) and \(2, 2\); give one weight",
        ),
        (lambda: GaussianMixture.isotropic(TWO, MEANS[:, 0], DEVIATIONS), r"means \[K, n\], got \(2,\) and \(2,\)"),
        (
            lambda: GaussianMixture.isotropic(TWO, MEANS, torch.tensor([0.5, 0.0])),
            r"deviations must be 2 positive numbers.* got \[0.5, 0.0\]; give each",
        ),
        (lambda: GaussianMixture.isotropic(TWO, MEANS, torch.tensor([0.5, -1.0])), r"positive numbers.*-1.0\]"),
        (lambda: GaussianMixture.isotropic(TWO, MEANS, torch.tensor([0.5, math.nan])), r"positive numbers.*nan\]"),
        (lambda: GaussianMixture.isotropic(TWO, MEANS, torch.tensor([0.5])), r"2 positive numbers.* got \[0.5\]"),
        (
            lambda: GaussianMixture.isotropic(TWO, MEANS, DEVIATIONS, torch.tensor([0])),
            r"labels must have shape \(2,\), got \(1,\); one per component",
        ),
        (
            lambda: GaussianMixture(TWO, MEANS, torch.ones(2, 2)),
            r"covariances must have shape \(2, 2, 2\) .* got \(2, 2\); for round components use",
        ),
        (
            lambda: GaussianMixture(TWO, MEANS, torch.tensor([[1.0, 0.5], [0.0, 1.0]]).repeat(2, 1, 1)),
            "covariances must be symmetric; symmetrise",
        ),
        (
            lambda: GaussianMixture(TWO, MEANS, torch.stack([torch.eye(2), torch.diag(torch.tensor([1.0, -0.5]))])),
            "positive definite, smallest eigenvalue is -0.5; add",
        ),
        (
            lambda: GaussianMixture(TWO, MEANS, torch.stack([torch.eye(2), torch.zeros(2, 2)])),
            "positive definite, smallest eigenvalue is 0",
        ),
        (lambda: ring(4).score(torch.zeros(5, 3)), r"x must end in dimension 2, got shape \(5, 3\); check the axes"),
        (lambda: ring(4).log_density(torch.zeros(5, 3)), r"x must end in dimension 2, got shape \(5, 3\)"),
        (lambda: ring(4).given(1), "condition 1 given to a mixture without labels; pass labels="),
        (lambda: ring(2, labels=TWO.new_tensor([0, 1])).given(5), r"labels \[5\]; known labels are \[0.*, 1.*\]"),
        (
            lambda: ring(2, labels=torch.tensor([0, 1])).given(torch.tensor([0, 7])),
            r"no component has one of the labels \[0, 7\]; known labels are \[0, 1\]",
        ),
        (
            lambda: MixtureScore(ring(4), VE)(torch.zeros(2, 2), torch.ones(2), torch.tensor([0, 1])),
            "mixture without labels",
        ),
    ],
)
def test_bad_input_is_refused_with_value_and_remedy(build: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build()


def test_a_quadratic_reward_without_an_optimum_is_refused() -> None:
    growing = QuadraticReward(torch.eye(2))
    mixture = GaussianMixture.isotropic(TWO, MEANS, DEVIATIONS)
    # The precision of the wider component is 1/1.5², so the tilt exists up to that scale.
    assert bool(mixture.tilt(growing, 0.44).variances.isfinite().all())
    with pytest.raises(ValueError, match=r"scale 0.45 is too large for this quadratic reward.*no optimum.*lower"):
        mixture.tilt(growing, 0.45)


def test_a_reward_without_a_closed_form_is_refused() -> None:
    with pytest.raises(TypeError, match=r"tilt by a function is no mixture; use a LinearReward .* grid.tilt_on_grid"):
        ring(4).tilt(lambda x0, condition=None: x0.sum(-1), 1.0)  # type: ignore[arg-type]


def test_the_axes_of_a_full_mixture_give_back_its_covariances() -> None:
    root = torch.tensor([[[1.0, 0.3], [0.0, 0.5]], [[0.2, 0.0], [0.7, 1.0]]], dtype=torch.float64)
    covariances = root @ root.mT
    mixture = GaussianMixture(TWO.double(), MEANS.double(), covariances)
    torch.testing.assert_close(mixture.covariances, covariances, rtol=0, atol=1e-14)
    torch.testing.assert_close(mixture.weights, TWO.double(), rtol=0, atol=1e-15)
    assert mixture.dimension == 2


def test_isotropic_equals_the_general_form() -> None:
    x = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    round_ones = GaussianMixture.isotropic(TWO.double(), MEANS.double(), DEVIATIONS.double())
    general = GaussianMixture(TWO.double(), MEANS.double(), EYES.double() * DEVIATIONS.double()[:, None, None] ** 2)
    torch.testing.assert_close(round_ones.log_density(x), general.log_density(x), rtol=0, atol=1e-13)
    torch.testing.assert_close(round_ones.score(x), general.score(x), rtol=0, atol=1e-13)


LABELLED = ring(4, labels=torch.tensor([0, 0, 1, 1])).to(torch.float64)


def test_a_label_restricts_the_mixture_to_its_components() -> None:
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    by_hand = GaussianMixture.isotropic(
        torch.tensor([0.5, 0.5], dtype=torch.float64), LABELLED.means[2:], torch.full((2,), 0.25, dtype=torch.float64)
    )
    given = LABELLED.given(1)
    torch.testing.assert_close(given.log_density(x), by_hand.log_density(x), rtol=0, atol=1e-7)
    assert given.weights.tolist()[:2] == [0.0, 0.0]
    assert LABELLED.given(None) is LABELLED
    # Control: the other label is another distribution.
    assert float((LABELLED.given(0).log_density(x) - by_hand.log_density(x)).abs().min()) > 1e-2


def test_a_batch_of_labels_and_levels_equals_one_at_a_time() -> None:
    x = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    t = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)
    labels = torch.tensor([0, 1, 0])
    score = MixtureScore(LABELLED, VE)
    together = score(x, t, labels)
    for b in range(3):
        alone = score(x[b : b + 1], t[b : b + 1], int(labels[b]))
        torch.testing.assert_close(together[b : b + 1], alone, rtol=0, atol=1e-13)
    assert LABELLED.given(labels).weights.shape == (3, 4)


def test_diffusion_of_a_batch_of_levels_widens_and_scales() -> None:
    t = torch.tensor([0.5, 2.0], dtype=torch.float64)
    diffused = LABELLED.diffuse(VE, t)
    expected = LABELLED.covariances + (t**2)[:, None, None, None] * torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(diffused.covariances, expected, rtol=0, atol=1e-14)
    assert diffused.means.shape == (2, 4, 2)
    with pytest.raises(ValueError, match="t must lie in"):
        LABELLED.diffuse(VE, torch.tensor([100.0]))


def test_far_from_the_modes_nothing_overflows() -> None:
    far = torch.tensor([[1e4, -3e4], [0.0, 1e6]], dtype=torch.float64)
    assert bool(LABELLED.log_density(far).isfinite().all())
    score = LABELLED.score(far)
    # Out there the nearest component alone counts: the score points back along −x/variance.
    torch.testing.assert_close(score, -far / 0.0625, rtol=1e-3, atol=40.0)
    assert bool(LABELLED.given(1).score(far).isfinite().all())
    # Control: the density itself underflows, so its logarithm taken naively would be −inf.
    naive = (LABELLED.weights * torch.exp(-0.5 * (far[:, None] - LABELLED.means).square().sum(-1) / 0.0625)).sum(-1)
    assert bool((naive.log() == -math.inf).all())


def test_samples_follow_weights_and_rng() -> None:
    rng = torch.Generator().manual_seed(4)
    samples = LABELLED.sample(4000, rng)
    assert samples.shape == (4000, 2)
    assert samples.dtype == torch.float64
    share = LABELLED.responsibilities(samples).mean(0)
    # Four standard errors of a share of one quarter among 4000 draws.
    assert float((share - 0.25).abs().max()) < 4 * math.sqrt(0.25 * 0.75 / 4000)
    assert torch.equal(samples, LABELLED.sample(4000, torch.Generator().manual_seed(4)))
    assert not torch.equal(samples, LABELLED.sample(4000, rng))


def test_tilts_keep_labels_and_normalise() -> None:
    linear = LABELLED.tilt(LinearReward(torch.tensor([0.5, 0.1])), 2.0)
    quadratic = LABELLED.tilt(QuadraticReward(-torch.eye(2), torch.tensor([0.3, 0.0])), 2.0)
    for tilted in (linear, quadratic):
        assert tilted.labels is LABELLED.labels
        assert abs(float(tilted.weights.sum()) - 1) < 1e-12
    none = LABELLED.tilt(LinearReward(torch.tensor([0.5, 0.1])), 0.0)
    torch.testing.assert_close(none.means, LABELLED.means, rtol=0, atol=0)


def test_the_linear_tilt_is_the_quadratic_one_without_curvature() -> None:
    direction = torch.tensor([0.5, -0.2], dtype=torch.float64)
    flat = LABELLED.tilt(QuadraticReward(torch.zeros(2, 2, dtype=torch.float64), direction), 1.5)
    linear = LABELLED.tilt(LinearReward(direction), 1.5)
    torch.testing.assert_close(flat.means, linear.means, rtol=0, atol=1e-12)
    torch.testing.assert_close(flat.weights, linear.weights, rtol=0, atol=1e-12)
    torch.testing.assert_close(flat.covariances, linear.covariances, rtol=0, atol=1e-12)


def test_an_asymmetric_curvature_is_refused() -> None:
    """xᵀA x depends on the symmetric part of A alone, but the tilt reads A: it must not be wrong without a word."""
    with pytest.raises(ValueError, match="symmetric"):
        LABELLED.tilt(QuadraticReward(torch.tensor([[-1.0, 2.0], [0.0, -1.0]], dtype=torch.float64)), 0.3)
