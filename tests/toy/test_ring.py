"""The 2D world: its distilled generator, its start, and the arrows."""

from dataclasses import replace

import pytest
import torch

from distar_core.probes import motion
from distar_core.toy.ring import REWARDS, TOY_METHODS, distilled, ode_map, reference, sample, spread_out, toy_state
from distar_core.toy.summary import summarise


def test_the_flow_sends_unit_noise_to_the_reference():
    z = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0))
    points = ode_map(z, reference())
    found = summarise(points, REWARDS["side"](points), reference())
    assert found.kl < 0.02
    assert found.modes == pytest.approx(8, abs=0.02)
    assert found.spread == pytest.approx(0.244, abs=0.01)
    untouched = summarise(z, REWARDS["side"](z), reference())
    assert untouched.kl > 0.5


def test_distillation_is_a_function_of_its_seed():
    weights = [
        torch.cat([p.flatten() for p in distilled(reference(), seed=s, steps=5).parameters()]) for s in (0, 0, 1)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.allclose(weights[0], weights[2])


def test_a_run_starts_as_the_reference_and_as_the_generator():
    generator = distilled(reference(), steps=5)
    state = toy_state(generator, reference(), REWARDS["mode"], seed=3, steps=10)
    x_t, t = torch.randn(50, 2), torch.full((50,), 0.7)
    assert torch.equal(state.roles.assistant.module(x_t, t, None), state.roles.reference(x_t, t, None))
    z = torch.randn(50, 2, generator=torch.Generator().manual_seed(7))
    assert torch.equal(sample(state, 50, seed=7), generator(z, None))


def test_arrows_are_the_scaled_reward_gradient_and_the_expected_pull():
    state = toy_state(distilled(reference(), steps=5), reference(), REWARDS["mode"], seed=0, steps=10)
    dots = torch.tensor([[1.0, 0.5], [-0.3, 2.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(REWARDS["mode"](dots).sum(), dots)
    for name in ("kl-one", "star"):
        method = replace(TOY_METHODS[name], reward_scale=0.8)
        arrows = motion(state, method, dots.detach(), draws=64)
        assert torch.allclose(arrows["reward"], 0.8 * gradient, atol=1e-6)
        # assistant and reference are the same score here, so there is nothing to pull
        assert float(arrows["regularizer"].norm()) < 1e-6
        with torch.no_grad():
            state.roles.assistant.module.network.body.layers[-1].bias.fill_(0.5)
        assert float(motion(state, method, dots.detach(), draws=64)["regularizer"].norm()) > 0.1
        with torch.no_grad():
            state.roles.assistant.module.network.body.layers[-1].bias.zero_()


def test_chosen_dots_lie_far_apart():
    points = torch.tensor([[0.0, 0.0], [0.1, 0.0], [5.0, 0.0], [0.0, 5.0]])
    assert {tuple(point) for point in spread_out(points, 3).tolist()} == {(0.0, 0.0), (5.0, 0.0), (0.0, 5.0)}
