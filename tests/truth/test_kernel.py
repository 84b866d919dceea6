"""The kernel mean: the score of the samples that it draws, and so of the generator's noised law."""

import pytest
import torch

from distar_core.mixture import GaussianMixture
from distar_core.roles import PushForward
from distar_core.schedule import VarianceExploding, VariancePreserving
from distar_core.truth.kernel import KernelScore

SCHEDULES = {"VE": (VarianceExploding(), 0.4), "VP": (VariancePreserving(), 0.3)}


class Stretched(torch.nn.Module):
    """x_0 = scale · z, a Gaussian."""

    def __init__(self, scale=0.5):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(scale))

    def forward(self, z, condition=None):
        return self.scale * z


def gaussian(scale=0.5):
    return PushForward(Stretched(scale), (2,))


def noised(schedule, level, count=200):
    rng = torch.Generator().manual_seed(0)
    t = torch.full((count,), level)
    x0, noise = (torch.randn(count, 2, generator=rng) for _ in range(2))
    return schedule.add_noise(0.5 * x0, noise, t), t


@pytest.mark.parametrize(("schedule", "level"), SCHEDULES.values(), ids=SCHEDULES)
def test_it_is_the_score_of_the_mixture_of_its_samples(schedule, level):
    """Against a mixture of components without width, the same samples, in float64."""
    drawn = []

    class Noting(Stretched):
        def forward(self, z, condition=None):
            drawn.append(super().forward(z).double())
            return drawn[-1]

    x_t, t = (value.double() for value in noised(schedule, level, 20))
    score = KernelScore(PushForward(Noting(), (2,)), schedule, 64)(x_t, t)
    points = drawn[0].detach()
    flat = GaussianMixture.from_factors(torch.full((64,), 1 / 64).double(), points, torch.zeros(64, 2, 2).double())
    assert torch.allclose(score, flat.diffuse(schedule, t).score(x_t), rtol=1e-9)


@pytest.mark.parametrize(("schedule", "level"), SCHEDULES.values(), ids=SCHEDULES)
def test_it_approaches_the_exact_score_faster_than_independent_samples(schedule, level):
    x_t, t = noised(schedule, level)
    alpha, sigma = schedule.coefficients(t, x_t)
    exact = -x_t / (alpha**2 * 0.5**2 + sigma**2)

    def error(found):
        return float((sigma * (found - exact)).norm(dim=1).median())  # in the tails there are few samples to go by

    with torch.no_grad():
        own = [error(KernelScore(gaussian(), schedule, count)(x_t, t)) for count in (256, 4096)]
        points = 0.5 * torch.randn(4096, 2, generator=torch.Generator().manual_seed(1))
        flat = GaussianMixture.from_factors(torch.full((4096,), 1 / 4096), points, torch.zeros(4096, 2, 2))
        independent = error(flat.diffuse(schedule, t).score(x_t))
        wrong = error(KernelScore(gaussian(0.6), schedule, 4096)(x_t, t))
    assert own[1] < 0.1 * own[0]
    assert own[1] < 0.1 * independent
    assert wrong > 3 * own[1]


def test_every_call_draws_anew_and_a_seed_repeats_them():
    schedule, level = SCHEDULES["VE"]
    x_t, t = noised(schedule, level, 8)
    first, again, other = (KernelScore(gaussian(), schedule, 64, seed=seed) for seed in (3, 3, 4))
    one, two = first(x_t, t), first(x_t, t)
    assert not torch.equal(one, two)
    assert torch.equal(one, again(x_t, t))
    assert torch.equal(two, again(x_t, t))
    assert not torch.equal(one, other(x_t, t))
