"""The pencil Gaussian of the notebooks: its closed forms are what quadrature gives."""

import pytest
import torch

from distar_core.truth.quadrature import (
    kl_divergences,
    pencil_setting,
    relative_error,
    rotated_nodes,
    squared,
    squared_gaps,
    stop_gradient_table,
    true_gradients,
)


@pytest.mark.parametrize(("m", "s", "sigma"), [(1.0, 0.5, 1.0), (-0.7, 1.4, 0.6)])
def test_the_pencil_gaussian_by_hand(m, s, sigma):
    """Squared L2 in score units, v = s² + σ², q = 1 + σ²: both laws, and KL."""
    v, q = s**2 + sigma**2, 1 + sigma**2
    true = true_gradients(pencil_setting(m, s, sigma), squared(), "score")
    frozen = (2 * m / (q * v), 4 * s * (v - q) / (q * v**2))
    differentiated = (2 * m / q**2, 2 * s * (v - q) * (v + q) / (q * v) ** 2)
    kl = (m / q, s * (v - q) / (q * v))
    for found, wanted in zip((true.frozen, true.differentiated, true.kl), (frozen, differentiated, kl), strict=True):
        assert found.tolist() == pytest.approx(wanted, rel=1e-10)


def test_what_one_gaussian_hides():
    """With squared L2 the dropped conditional score does no harm, d' detached is right in m and half in s."""
    pencil = pencil_setting()
    rows = stop_gradient_table(pencil, squared(), "score", rotated_nodes(pencil, 2000))
    truth = rows["true, frozen law"]
    by_m, by_s = truth.tolist()
    assert relative_error(rows["wrong: conditional score dropped"], truth) <= 1e-12
    assert rows["wrong: d' detached"].tolist() == pytest.approx([by_m, by_s / 2], rel=1e-12)
    assert rows["wrong: braces detached"].tolist() == pytest.approx([0, by_s / 2], abs=1e-12)


def test_gaps_and_kl_of_the_pencil_gaussian():
    """N(m, s²) against N(0, 1) at level sigma, with v = s² + sigma² and u = 1 + sigma²: E‖gap‖² = m²/u² + v (1/u − 1/v)² and
    KL = ½ ((v + m²)/u − 1 − log(v/u)); relative tolerance 1e-9."""
    m, s = 1.0, 0.5
    sigmas = torch.tensor([0.1, 0.7, 3.0], dtype=torch.float64)
    pencil = pencil_setting(m, s)
    own, reference = pencil.generator.mixture(), pencil.reference
    v, u = s**2 + sigmas**2, 1 + sigmas**2
    gaps = m**2 / u**2 + v * (1 / u - 1 / v) ** 2
    kl = 0.5 * ((v + m**2) / u - 1 - (v / u).log())
    assert torch.allclose(squared_gaps(own, reference, sigmas).detach(), gaps, rtol=1e-9)
    assert torch.allclose(kl_divergences(own, reference, sigmas).detach(), kl, rtol=1e-9)
