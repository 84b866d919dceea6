"""The generator of affine maps: its law, its start, the gradient in its weights, and where it comes to rest."""

from dataclasses import replace

import pytest
import torch

from distar_core.losses import score_divergence_detached, weight_sigma
from distar_core.methods import METHODS as METHODS_BY_NAME
from distar_core.mixture import GaussianMixture, ring
from distar_core.toy.frontier import read_points
from distar_core.toy.maps import (
    LONGEST_STEP,
    SMALLEST,
    exact_state,
    maps_of,
    mean_noise,
    move_weights,
    sample_maps,
    train_maps,
    weight_gradient,
)
from distar_core.toy.ring import REWARDS, SCHEDULE, TOY_METHODS, no_conditions, on_levels, reference
from distar_core.training import Batch, make_batch, noised_samples, scores_at

METHODS = [method for method in TOY_METHODS.values() if method.regularizer is not None]


def rows(method, scale):
    return replace(method, reward_scale=scale)


def test_maps_start_as_the_mixture():
    mixture = ring(4, radius=1.5, deviation=0.3)
    generator = maps_of(mixture, 16, jitter=0.1)
    points = sample_maps(generator, 200_000)
    mean, deviation = points.mean(0), points.std(0)
    drawn = mixture.sample(200_000, torch.Generator().manual_seed(0))
    assert torch.allclose(mean, drawn.mean(0), atol=0.05)
    assert torch.allclose(deviation, drawn.std(0), atol=0.05)
    assert generator.weights.sum() == pytest.approx(1)
    assert torch.allclose(generator.mixture().variances, torch.full((16, 2), 0.3**2 - 0.1**2))


@pytest.mark.parametrize(("count", "jitter"), [(12, 0.08), (0, 0.08), (8, 0.25), (8, -0.1)])
def test_maps_that_do_not_fit_the_modes_are_refused(count, jitter):
    with pytest.raises(ValueError, match=str(count) if count != 8 else f"{jitter:g}"):
        maps_of(reference(), count, jitter=jitter)


def test_samples_follow_the_weights():
    generator = maps_of(reference(), 8, jitter=0.0)
    generator.scales.data.zero_()
    wanted = torch.tensor([0.6, 0.4, *[1e-9] * 6])
    generator.weights.copy_(wanted / wanted.sum())
    nearest = torch.cdist(sample_maps(generator, 40_000), reference().means).argmin(1)
    shares = torch.bincount(nearest, minlength=8) / len(nearest)
    assert torch.allclose(shares, wanted, atol=0.02)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_the_gradient_in_the_weights_shows_the_better_map(method):
    """Two of the eight modes have too little: their weights are to grow, and under a reward those near its best point."""
    state = exact_state(maps_of(reference()), reference(), REWARDS["mode"], steps=1)
    generator = state.roles.generator.module.generator
    starved = torch.arange(32) % 8 < 2
    generator.weights.copy_(torch.where(starved, 0.2, 1.0) / torch.where(starved, 0.2, 1.0).sum())
    gradient = weight_gradient(state, rows(method, 0.0), seed=0, step=0, batch=8192)
    assert gradient[starved].mean() < gradient[~starved].mean()
    rewarded = weight_gradient(state, rows(method, 5.0), seed=0, step=0, batch=8192)
    near = torch.arange(32) % 8 == 0
    far = torch.arange(32) % 8 == 4
    assert rewarded[near].mean() < rewarded[far].mean() - 3


def test_the_mean_noise_of_a_map_is_its_score():
    """E[eps | x_t, k] = −sigma_t times the score of the map's own noised law; control: another map's."""
    generator = maps_of(reference(), 8, seed=1).double()
    generator.scales.data += 0.1 * torch.randn(8, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    which, t = torch.tensor([0, 3, 3, 7]), torch.tensor([0.1, 0.5, 2.0, 3.0]).double()
    x0 = generator.place(which, torch.randn(4, 2, generator=torch.Generator().manual_seed(1)).double())
    noised = noised_samples(SCHEDULE, x0, Batch(None, t, None, torch.zeros_like))
    found = mean_noise(generator, which, noised).detach()
    for row, k in enumerate(which):
        own = GaussianMixture.from_factors(torch.ones(1).double(), generator.shifts[k][None], generator.scales[k][None])
        score = own.diffuse(SCHEDULE, t[row]).score(noised.x_t[row]).detach()
        assert torch.allclose(found[row], -t[row] * score, rtol=1e-10)
    assert not torch.allclose(found[1], mean_noise(generator, which - 1 + 2 * (which == 0), noised)[1])


@pytest.mark.parametrize("law", ["frozen", "differentiated"])
@pytest.mark.parametrize("name", ["star", "l2"])
def test_the_gradient_in_the_weights_is_the_mean_of_the_loss(name, law):
    """Against the loss as the loop has it, with each sample's own noise, on many independent samples."""
    state = exact_state(maps_of(reference(), 8), reference(), None, steps=1)
    weights = state.roles.generator.module.generator.weights
    weights.copy_(torch.arange(1.0, 9.0) / 36)
    method = replace(TOY_METHODS[name], reward_at="nowhere", reward_scale=0.0, law=law)
    own = torch.stack([weight_gradient(state, method, seed=0, step=step, batch=8192) for step in range(20)]).mean(0)
    maps, count = state.roles.generator.module, 200_000
    batch = make_batch(
        state, method.time_law, no_conditions, seed=1, step=0, stream="many", batch=count, rows=slice(None)
    )
    noised = noised_samples(SCHEDULE, maps(batch.z), batch)
    with torch.no_grad():
        loss = method.loss(noised, scores_at(state.roles, method, noised, None, SCHEDULE))
        which = maps.which(batch.z)
        plain = torch.zeros(8).index_add(0, which, loss) / torch.bincount(which, minlength=8)
    away = (own - own.mean()) - (plain - plain.mean())
    assert plain.std() > 0.03
    assert away.abs().max() < 0.15 * plain.std()


def test_a_regularizer_whose_gradient_in_a_weight_is_not_known_is_refused():
    state = exact_state(maps_of(reference()), reference(), None, steps=1)
    method = replace(TOY_METHODS["l2"], reward_at="nowhere", reward_scale=0, law=None)
    method = replace(method, regularizer=score_divergence_detached, exact=False, weight=weight_sigma)
    others = [on_levels(METHODS_BY_NAME[name]) for name in ("dmd", "didr-proxy")]
    others.append(replace(TOY_METHODS["l2"], guidance="inside", cfg_scale=1.0))
    before = state.roles.generator.module.generator.shifts.clone()
    for refused in (method, *others):
        named = "score_divergence_detached" if refused is method else refused.name
        with pytest.raises(ValueError, match=named):
            weight_gradient(state, refused, seed=0, step=0, batch=64)
        with pytest.raises(ValueError, match=named):
            next(train_maps(state, refused, steps=1, seed=0, batch=64))
    assert torch.equal(before, state.roles.generator.module.generator.shifts), "nothing has moved"


def test_maps_of_modes_that_are_not_round_are_refused():
    flat = GaussianMixture.from_factors(torch.ones(1), torch.zeros(1, 2), torch.diag(torch.tensor([1.0, 0.5]))[None])
    with pytest.raises(ValueError, match="round"):
        maps_of(flat, 4)


def test_a_step_of_the_weights_keeps_them_a_distribution():
    generator = maps_of(reference(), 8)
    move_weights(generator, torch.tensor([-1e6, *[0.0] * 6, 1e6]), 0.1)
    before = torch.full((8,), 1 / 8)
    assert generator.weights.sum() == pytest.approx(1)
    assert (generator.weights.log() - before.log()).abs().max() <= 2 * LONGEST_STEP
    for _ in range(200):
        move_weights(generator, torch.arange(8.0), 1.0)
    assert generator.weights.min() >= 0.9 * SMALLEST
    assert generator.weights.argmax() == 0


@pytest.mark.parametrize("name", ["kl-one", "l2"])
def test_a_short_run_comes_to_rest_at_the_fixed_point(name):
    """Control: with the weights held fixed the score divergence is still on its way."""
    (point,) = [p for p in read_points() if (p.reward_name, p.regularizer, p.reward_scale) == ("mode", name, 0.631)]

    def reached(weight_rate):
        state = exact_state(maps_of(reference()), reference(), REWARDS["mode"], steps=150, lr=0.03)
        for _ in train_maps(
            state, rows(TOY_METHODS[name], 0.631), steps=150, seed=0, batch=512, weight_rate=weight_rate
        ):
            pass
        points = sample_maps(state.roles.generator.module.generator, 50_000)
        return float(REWARDS["mode"](points).mean())

    assert reached(1.0) == pytest.approx(point.summary.reward, abs=0.03)
    if name == "l2":
        assert reached(0.0) < point.summary.reward - 0.06
