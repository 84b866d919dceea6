"""The wrappers around networks and mixtures: their formulas. What all of them owe the loop is in tests/contract."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distar_core import (
    GaussianMixture,
    LinearReward,
    MixtureScore,
    NetworkScore,
    OneStep,
    PushForward,
    QuadraticReward,
    ResidualScore,
    VarianceExploding,
    VariancePreserving,
    ring,
)
from distar_core.roles import ProxyTilt, Recomputed, guided, target_score
from distar_core.toy.networks import MLP, TimeMLP

VE, VP = VarianceExploding(), VariancePreserving()
T = torch.tensor([0.3, 0.6, 0.9], dtype=torch.float64)
X = torch.tensor([[0.5, -1.0], [1.5, 0.2], [-0.3, 2.0]], dtype=torch.float64)
MIXTURE = ring(4, labels=torch.tensor([0, 0, 1, 1])).to(torch.float64)
LINEAR = LinearReward(torch.tensor([0.7, -0.4], dtype=torch.float64))


class Oracle(nn.Module):
    """A network that predicts what is known about the mixture, in the given form."""

    def __init__(self, prediction: Any, schedule: Any) -> None:
        super().__init__()
        self.prediction, self.schedule = prediction, schedule
        self.times: list[Tensor] = []

    def forward(self, x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
        self.times.append(t)
        score = MixtureScore(MIXTURE, self.schedule)(x_t, t, condition)
        return self.schedule.convert(score, x_t, t, source="score", target=self.prediction)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "score"])
@pytest.mark.parametrize("condition", [None, torch.tensor([0, 1, 1])])
def test_a_network_score_is_the_score_whatever_the_network_predicts(prediction: Any, condition: Any) -> None:
    expected = MixtureScore(MIXTURE, VP)(X, T, condition)
    got = NetworkScore(Oracle(prediction, VP), VP, prediction)(X, T, condition)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_a_network_read_in_the_wrong_form_is_another_score() -> None:
    expected = MixtureScore(MIXTURE, VP)(X, T, None)
    got = NetworkScore(Oracle("eps", VP), VP, "v")(X, T, None)
    assert float((got - expected).abs().max()) > 1e-2


@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "score"])
def test_one_step_is_the_posterior_mean_at_t_star(prediction: Any) -> None:
    generator = OneStep(Oracle(prediction, VP), VP, prediction, 0.75, (2,))
    expected = MIXTURE.posterior_mean(X, VP, torch.full((3,), 0.75, dtype=torch.float64))
    torch.testing.assert_close(generator(X, None), expected, rtol=1e-12, atol=1e-12)
    other = OneStep(Oracle(prediction, VP), VP, prediction, 0.5, (2,))(X, None)
    assert float((other - expected).abs().max()) > 1e-2


@pytest.mark.parametrize(("t_star", "dtype"), [(1, torch.int64), (1.0, torch.float64)])
def test_t_star_keeps_its_kind(t_star: float, dtype: torch.dtype) -> None:
    network = Oracle("eps", VE)
    OneStep(network, VE, "eps", t_star, (2,))(X, None)
    assert network.times[0].dtype == dtype
    assert network.times[0].tolist() == [1, 1, 1]


def test_push_forward_calls_its_network_with_the_condition() -> None:
    network = MLP(2, 2, width=4, depth=1).double()
    assert torch.equal(PushForward(network, (2,))(X, None), network(X))


def test_a_residual_of_zero_is_the_reference() -> None:
    reference = MixtureScore(MIXTURE, VE)
    torch.manual_seed(0)
    zero = TimeMLP(2, width=4, depth=1, labels=2, zero_output=True).double()
    labels = torch.tensor([1, 0, 1])
    assert torch.equal(ResidualScore(reference, zero, VE)(X, T, labels), reference(X, T, labels))
    network = TimeMLP(2, width=4, depth=1, labels=2).double()
    corrected = ResidualScore(reference, network, VE)(X, T, labels)
    expected = reference(X, T, labels) - network(X, T, labels) / T[:, None]
    torch.testing.assert_close(corrected, expected, rtol=0, atol=1e-12)
    assert not torch.allclose(corrected, reference(X, T, labels), rtol=0, atol=1e-2)


def test_the_null_condition_of_a_time_mlp_is_label_minus_one() -> None:
    torch.manual_seed(0)
    network = TimeMLP(2, width=4, depth=1, labels=2).double()
    assert torch.equal(network(X, T, None), network(X, T, torch.tensor([-1, -1, -1])))
    assert not torch.equal(network(X, T, None), network(X, T, torch.tensor([0, 0, 0])))
    unconditional = TimeMLP(2, width=4, depth=1).double()
    assert torch.equal(unconditional(X, T, None), unconditional(X, T, torch.tensor([0, 1, 0])))


@pytest.mark.parametrize("kind", ["mixture", "network", "residual"])
def test_a_plain_number_is_one_time_for_the_whole_batch(kind: str) -> None:
    torch.manual_seed(0)
    mixture = MixtureScore(MIXTURE, VE)
    network = NetworkScore(TimeMLP(2, width=4, depth=1).double(), VE, "eps")
    score = {"mixture": mixture, "network": network, "residual": ResidualScore(mixture, network.network, VE)}[kind]
    for number in (0.4, 2):
        t = torch.full((3,), float(number), dtype=torch.float64)
        torch.testing.assert_close(score(X, number, None), score(X, t, None), rtol=1e-12, atol=1e-12)


def test_guidance_is_additive_and_off_at_zero() -> None:
    conditional, null = X, X.flip(0)
    assert torch.equal(guided(conditional, null, 0.0), conditional)
    torch.testing.assert_close(guided(conditional, null, 1.5), 2.5 * conditional - 1.5 * null, rtol=0, atol=1e-14)


@pytest.mark.parametrize("condition", [None, torch.tensor([0, 1, 1])])
def test_the_exact_target_is_the_reference_s_own_tilt(condition: Any) -> None:
    reference = MixtureScore(MIXTURE, VE)
    expected = MIXTURE.tilt(LINEAR, 0.8).given(condition).diffuse(VE, T).score(X)
    target = target_score(reference, LINEAR, "every_level", 0.8, VE)
    torch.testing.assert_close(target(X, T, condition), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("reward_at", ["nowhere", "sample"])
def test_without_a_reward_at_the_levels_the_target_is_the_reference(reward_at: str) -> None:
    reference = MixtureScore(MIXTURE, VE)
    assert target_score(reference, LINEAR, reward_at, 0.8, VE) is reference
    assert target_score(reference, None, reward_at, 0.8, VE) is reference


def test_a_reference_without_a_tilt_is_refused_with_the_way_out() -> None:
    network = NetworkScore(TimeMLP(2), VE, "eps")
    assert isinstance(target_score(network, LINEAR, "every_level_by_proxy", 1.0, VE), ProxyTilt)
    with pytest.raises(TypeError, match=r"NetworkScore has no closed-form tilt; use the method 'didr-proxy', or hand"):
        target_score(network, LINEAR, "every_level", 1.0, VE)


@pytest.mark.parametrize("schedule", [VE, VP])
def test_the_proxy_is_exact_for_one_gaussian_and_a_linear_reward(schedule: Any) -> None:
    one = GaussianMixture.isotropic(torch.ones(1), torch.tensor([[0.4, -1.0]]), torch.tensor([0.6])).to(torch.float64)
    reference = MixtureScore(one, schedule)
    proxy = ProxyTilt(reference, LINEAR, 0.8, schedule)(X, T, None)
    torch.testing.assert_close(proxy, reference.tilted(LINEAR, 0.8)(X, T, None), rtol=0, atol=1e-6)
    # Control: for a quadratic reward it is not.
    bend = QuadraticReward(-torch.eye(2, dtype=torch.float64))
    bent = ProxyTilt(reference, bend, 0.8, schedule)(X, T, None)
    assert float((bent - reference.tilted(bend, 0.8)(X, T, None)).abs().max()) > 1e-2


def test_the_proxy_by_hand_with_and_without_a_graph() -> None:
    reference = MixtureScore(MIXTURE, VE)
    proxy = ProxyTilt(reference, LINEAR, 0.8, VE)
    x = X.clone().requires_grad_()
    x0 = x + T[:, None] ** 2 * reference(x, T, None)
    (pull,) = torch.autograd.grad(LINEAR(x0).sum(), x)
    expected = reference(X, T, None) + 0.8 * pull
    with torch.no_grad():
        without = proxy(x, T, None)
    assert not without.requires_grad
    torch.testing.assert_close(without, expected, rtol=0, atol=1e-12)
    with_graph = proxy(x, T, None)
    assert with_graph.requires_grad
    assert torch.equal(with_graph.detach(), without)


def test_recomputed_gives_the_same_and_keeps_no_activations() -> None:
    torch.manual_seed(0)
    runs = []
    network = TimeMLP(2, width=4, depth=1).double()
    network.register_forward_pre_hook(lambda module, inputs: runs.append(torch.is_grad_enabled()))
    role = NetworkScore(network, VE, "eps")

    def gradients(score: Any) -> list[Tensor]:
        x = X.clone().requires_grad_()
        return list(torch.autograd.grad(score(x, T, None).square().sum(), [x, *network.parameters()]))

    plain = gradients(role)
    assert len(runs) == 1
    again = gradients(Recomputed(role))
    assert len(runs) == 3
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_recomputed_passes_the_latent_on(toy: SimpleNamespace) -> None:
    generator = Recomputed(PushForward(MLP(2, 2), (2,)))
    assert generator.latent(lambda name, shape: torch.zeros(5, *shape)).shape == (5, 2)
    # A role with more than one latent hands a tuple through the same door.

    class TwoLatents(nn.Module):
        def latent(self, draw: Any) -> tuple[Tensor, Tensor]:
            return draw("first", (2,)), draw("second", (2,))

        def forward(self, z: tuple[Tensor, Tensor], condition: Any) -> Tensor:
            return z[0] * z[1]

    two = Recomputed(TwoLatents())
    z = two.latent(lambda name, shape: torch.full((5, *shape), {"first": 2.0, "second": 3.0}[name]))
    assert torch.equal(two(z, None), torch.full((5, 2), 6.0))
