"""Metrics of pictures against closed forms."""

import math

import pytest
import scipy.linalg
import torch

from distar_core.evaluation import pictures as metrics

RNG = torch.Generator().manual_seed(0)


def test_saturation_of_known_colours():
    colours = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.8, 0.4, 0.4], [0.0, 0.0, 0.0]])
    found = metrics.saturation(colours[:, :, None, None].expand(-1, -1, 4, 4))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 0.5, 0.0]))


def test_power_above_half_of_the_highest_frequency():
    x = torch.arange(32) / 32
    slow, fast = (torch.cos(2 * torch.pi * k * x).expand(1, 3, 32, 32) for k in (3, 12))
    pictures = torch.cat([slow, fast, slow + fast, slow + 2 * fast, torch.full((1, 3, 32, 32), 0.3)])
    torch.testing.assert_close(
        metrics.high_frequency_share(pictures), torch.tensor([0.0, 1.0, 0.5, 0.8, 0.0]), rtol=0, atol=1e-5
    )
    noise = torch.randn(20, 3, 32, 32, generator=RNG)
    # the share of frequencies outside a disc of radius a quarter: 1 − π/16
    assert float(metrics.high_frequency_share(noise).mean()) == pytest.approx(1 - math.pi / 16, abs=0.02)


def test_values_at_an_end_are_clipped_and_those_a_brightness_away_are_not():
    values = torch.tensor([0.0, 0.001, 1.0, 0.9985, 1 / 255, 0.5, 254 / 255, 0.4])
    found = metrics.clipped_share(values.view(1, 1, 2, 4).expand(1, 3, 2, 4))
    assert found.tolist() == [0.5]


def test_distance_in_pixels_is_over_pairs_and_values():
    samples = torch.tensor([0.0, 0.3, 0.9]).view(1, 3, 1, 1, 1).expand(1, 3, 3, 4, 4)
    found = metrics.pixel_distance(torch.cat([samples, samples[:, :1].expand(1, 3, 3, 4, 4)]))
    torch.testing.assert_close(found, torch.tensor([((0.09 + 0.81 + 0.36) / 3) ** 0.5, 0.0]))
    with pytest.raises(ValueError, match="got 1"):
        metrics.pixel_distance(samples[:, :1])


def test_pairwise_distance_of_known_directions():
    alike = torch.ones(3, 5)
    apart = torch.eye(5)[:3]
    opposite = torch.stack([torch.ones(5), -torch.ones(5), torch.ones(5)])
    found = metrics.pairwise_distance(torch.stack([alike, apart, opposite]))
    # three pairs: cosines 1, 0 and (−1, −1, 1)
    torch.testing.assert_close(found, torch.tensor([0.0, 1.0, 4 / 3]))
    with pytest.raises(ValueError, match="at least two samples per prompt, got 1"):
        metrics.pairwise_distance(torch.ones(2, 1, 5))


def test_vendi_counts_what_is_different():
    alike = torch.ones(4, 5)
    apart = 3 * torch.eye(5)[:4]
    pairs = torch.eye(5)[[0, 0, 1, 1]]
    cosine = 0.6
    near = torch.tensor([[1.0, 0, 0, 0, 0], [cosine, 0.8, 0, 0, 0]])
    found = metrics.vendi(torch.stack([alike, apart, pairs]))
    torch.testing.assert_close(found, torch.tensor([1.0, 4.0, 2.0], dtype=torch.float64), rtol=0, atol=1e-6)
    shares = [(1 + cosine) / 2, (1 - cosine) / 2]
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    assert float(metrics.vendi(near[None])) == pytest.approx(expected, abs=1e-6)


def test_clipped_pixels_are_those_with_any_channel_at_an_end():
    pictures = torch.full((3, 3, 2, 2), 0.5)
    pictures[1, 0, 0, 0], pictures[1, 2, 0, 0] = 0.0, 1.0
    pictures[2, 1] = 1.0
    torch.testing.assert_close(metrics.clipped_share(pictures), torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64))


def test_entropy_of_what_was_read():
    found = metrics.attribute_entropy([[(0, 1)] * 4, [(0, 1), (1, 1)] * 2, [(0, 0), (0, 1), (1, 0), (1, 1)]])
    torch.testing.assert_close(found, torch.tensor([0.0, math.log(2), math.log(4)]), rtol=0, atol=1e-6)


def test_path_length_of_a_linear_map_on_a_great_circle():
    """Two orthogonal noises of norm R: z moves on a circle at speed R π/2, whatever u."""
    first = torch.tensor([[3.0, 0.0]] * 5, dtype=torch.float64)
    second = torch.tensor([[0.0, 3.0]] * 5, dtype=torch.float64)
    u = torch.linspace(0, 0.9, 5, dtype=torch.float64)
    found = metrics.path_length(lambda z: 2 * z, first, second, u, epsilon=1e-4)
    torch.testing.assert_close(
        found, torch.full((5,), (2 * 3 * math.pi / 2) ** 2, dtype=torch.float64), rtol=0, atol=1e-3
    )
    # a generator that ignores z has none
    assert float(metrics.path_length(lambda z: 0 * z, first, second, u).abs().max()) == 0


def test_frechet_distance_of_known_gaussians():
    n, d = 200_000, 3
    plain = torch.randn(n, d, generator=RNG)
    scales, shift = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([1.0, 0.0, -2.0])
    other = torch.randn(n, d, generator=RNG) * scales + shift
    expected = float(shift.square().sum() + (1 - scales).square().sum())
    assert metrics.frechet_distance(plain, other) == pytest.approx(expected, abs=0.05)
    assert metrics.frechet_distance(plain, plain) == pytest.approx(0, abs=1e-6)
    # a rotation that does not commute: tr of the root, against a matrix square root by eigenvectors
    mix = torch.randn(d, d, generator=RNG, dtype=torch.float64)
    rotated = plain.double() @ mix
    a, b = torch.cov(rotated.T), torch.cov(other.double().T)
    values, vectors = torch.linalg.eigh(a)
    half = vectors @ torch.diag(values.sqrt()) @ vectors.T
    root = torch.linalg.eigvalsh(half @ b @ half).clamp(min=0).sqrt().sum()
    gap = (rotated.mean(0) - other.double().mean(0)).square().sum()
    expected = float(gap + a.trace() + b.trace() - 2 * root)
    assert metrics.frechet_distance(rotated, other) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="needs two samples, got 1 and 5"):
        metrics.frechet_distance(plain[:1], other[:5])


@pytest.mark.parametrize("samples", [500, 20])
def test_frechet_distance_by_scipys_matrix_root(samples):
    """Also with fewer samples than features, so that the covariances have no inverse; there scipy's root loses half its digits."""
    d = 32
    first = torch.randn(samples, d, generator=RNG, dtype=torch.float64)
    second = (
        torch.randn(samples, d, generator=RNG, dtype=torch.float64) @ torch.rand(d, d, generator=RNG).double() + 0.1
    )
    a, b = torch.cov(first.T), torch.cov(second.T)
    gap = float((first.mean(0) - second.mean(0)).square().sum() + a.trace() + b.trace())
    expected = gap - 2 * float(scipy.linalg.sqrtm((a @ b).numpy()).trace().real)
    assert metrics.frechet_distance(first, second) == pytest.approx(expected, rel=1e-9 if samples > d else 1e-4)
