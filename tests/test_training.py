"""The loop: micro-batches, updates, averages, and what it refuses. Resume from disk: test_runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial, wraps
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distar_core import (
    METHODS,
    Method,
    MixtureScore,
    NetworkScore,
    NoiseSchedule,
    OneStep,
    Record,
    Roles,
    State,
    TimeLaw,
    Trainable,
    VarianceExploding,
    VariancePreserving,
    post_train,
    ring,
)
from distar_core.losses import Noised, PseudoHuber, Scores, inner, score_divergence_detached
from distar_core.roles import PushForward, Recomputed
from distar_core.schedule import scaled_linear_schedule
from distar_core.toy.networks import TimeMLP
from distar_core.training import assistant_step, generator_step, make_batch

METHOD = replace(METHODS["diff-instruct*"], cfg_scale=1.5)
BATCH = 8
FRACTIONS = [slice(0, 4), slice(4, 8)]


def labels(rows: slice) -> Tensor:
    return torch.arange(rows.start, rows.stop) % 2


def run(state: State, toy: SimpleNamespace, method: Method = METHOD, **options: Any) -> list[Record]:
    settings: dict[str, Any] = {"steps": 3, "seed": 1, "batch": BATCH} | options
    return list(post_train(state, method, toy.conditions, **settings))


def weights(state: State) -> list[Tensor]:
    """A copy of everything that a run changes: parameters and averages of both roles."""
    roles = (state.roles.generator, state.roles.assistant)
    return [p.detach().clone() for role in roles for p in [*role.parameters().values(), *role.ema.values()]]


def all_equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) > 0 and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def largest_difference(a: list[Tensor], b: list[Tensor]) -> float:
    assert len(a) == len(b) > 0
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


def same_record(a: Record, b: Record) -> bool:
    """Equality to the last bit of everything but the wall time."""

    def flat(record: Record) -> Iterator[Any]:
        for name, value in record._replace(seconds=0)._asdict().items():
            yield from value.items() if isinstance(value, dict) else [(name, value)]

    pairs = list(zip(flat(a), flat(b), strict=True))
    return all(
        key == other and (torch.equal(x, y) if isinstance(x, Tensor) and isinstance(y, Tensor) else x == y)
        for (key, x), (other, y) in pairs
    )


def test_assistant_and_generator_see_different_samples(toy: SimpleNamespace) -> None:
    seen = []
    state = toy.state()
    state.roles.generator.module.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    record = run(state, toy, steps=1, assistant_updates=2)[0]
    assert len(seen) == 3
    assert len({tuple(z.flatten().tolist()) for z in seen}) == 3
    assert not torch.equal(record.t, record.assistant_t)


# What one step computes.


@pytest.mark.parametrize("name", [name for name in METHODS if name != "reward-only"])
@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_micro_batches_give_the_gradients_of_the_whole(name: str, micro_batch: int, toy: SimpleNamespace) -> None:
    """With plain gradient descent at rate 1 the displacement is the gradient."""
    method = METHODS[name]
    whole, parts = toy.state(optimizer=toy.sgd), toy.state(optimizer=toy.sgd)
    start = weights(whole)
    records = [run(whole, toy, method, steps=1), run(parts, toy, method, steps=1, micro_batch=micro_batch)]
    assert largest_difference(weights(whole), weights(parts)) < 1e-12
    assert largest_difference(weights(whole), start) > 1e-4
    for a, b in zip(*records, strict=True):
        for term, value in a.losses.items():
            torch.testing.assert_close(b.losses[term], value, rtol=0, atol=1e-12)
        assert torch.equal(a.t, b.t)


def test_control_micro_batches_of_another_batch_give_other_gradients(toy: SimpleNamespace) -> None:
    whole, other = toy.state(optimizer=toy.sgd), toy.state(optimizer=toy.sgd)
    run(whole, toy, steps=1)
    run(other, toy, steps=1, seed=2, micro_batch=2)
    assert largest_difference(weights(whole), weights(other)) > 1e-4


def test_the_mean_over_processes_is_the_gradient_of_the_whole(toy: SimpleNamespace) -> None:
    """Each process runs its rows; averaging their gradients, as data-parallel training does, gives the whole batch's.

    The assistant does not learn here, since each process would need the other's part of that update first.
    """
    states = [toy.state(optimizer=toy.sgd) for _ in range(3)]
    start = list(states[0].roles.generator.parameters().values())
    start = [p.detach().clone() for p in start]
    moved = []
    for state, rows in zip(states, [None, *FRACTIONS], strict=True):
        frozen = state.roles._replace(assistant=Trainable(state.roles.assistant.module))
        list(post_train(replace(state, roles=frozen), METHOD, toy.conditions, steps=1, seed=1, batch=BATCH, rows=rows))
        after = state.roles.generator.parameters().values()
        moved.append([p.detach() - q for p, q in zip(after, start, strict=True)])
    mean = [(a + b) / 2 for a, b in zip(moved[1], moved[2], strict=True)]
    assert largest_difference(mean, moved[0]) < 1e-12
    assert largest_difference(moved[1], moved[0]) > 1e-4


@pytest.mark.parametrize("name", METHODS)
def test_recomputation_of_each_role_gives_the_gradients_of_the_joint_graph(name: str, toy: SimpleNamespace) -> None:
    method = METHODS[name] if METHODS[name].guidance == "none" else replace(METHODS[name], cfg_scale=1.5)
    joint, recomputed = toy.state(), toy.state(wrap=Recomputed)
    run(joint, toy, method)
    run(recomputed, toy, method)
    assert largest_difference(weights(joint), weights(recomputed)) < 1e-12


@pytest.mark.parametrize("name", METHODS)
def test_pulls_of_the_loop_are_those_of_one_joint_graph(name: str, toy: SimpleNamespace) -> None:
    """The generator's gradient from the two cut points is the vector-Jacobian product with alpha pull_t + pull_0."""
    state = toy.state(optimizer=toy.sgd)
    batch = make_batch(
        state, METHOD.time_law, toy.conditions, seed=0, step=0, stream="generator", batch=BATCH, rows=slice(0, BATCH)
    )
    pulls = generator_step(state, METHODS[name], batch)
    parameters = list(state.roles.generator.parameters().values())
    got = [p.grad for p in parameters]
    x0 = state.roles.generator.module(batch.z, batch.condition)
    # alpha is 1 in this schedule.
    expected = torch.autograd.grad((x0 * sum(pulls.pulls.values())).sum() / BATCH, parameters)
    assert largest_difference(got, list(expected)) < 1e-13
    assert all(p.grad is None for p in state.roles.assistant.parameters().values())


def denoised(noised: Noised, score: Tensor) -> Tensor:
    """x̂(s) = (x_t + sigma² s)/alpha, Tweedie's guess of x_0."""
    return (noised.x_t + noised.sigma**2 * score) / noised.alpha


def between_guesses(noised: Noised, scores: Scores) -> Tensor:
    """(x̂(s_ref) − x̂(s_psi))ᵀ(x̂(s_psi) − x_0): a regularizer that lives at x_t and at x_0."""
    guess = denoised(noised, scores.assistant)
    return inner(denoised(noised, scores.reference) - guess, guess - noised.x0)


SHORT = TimeLaw.uniform(0.2, 0.9)
BETWEEN = Method("between-guesses", between_guesses, exact=True, time_law=SHORT, assistant_time_law=SHORT)


@pytest.mark.parametrize("schedule", [VarianceExploding(), VariancePreserving()], ids=["ve", "vp"])
@pytest.mark.parametrize("rewarded", [False, True])
def test_a_regularizer_that_uses_x0_is_differentiated_at_both_points(
    schedule: NoiseSchedule, rewarded: bool, toy: SimpleNamespace
) -> None:
    """The generator's gradient against plain joint autograd, through x_0 and x_t and nothing cut."""
    method = replace(BETWEEN, reward_at="sample", reward_scale=0.7) if rewarded else BETWEEN
    state = toy.state(optimizer=toy.sgd, schedule=schedule)
    roles, rows = state.roles, slice(0, BATCH)
    options: dict[str, Any] = {"seed": 0, "step": 0, "stream": "generator", "batch": BATCH, "rows": rows}
    batch = make_batch(state, method.time_law, toy.conditions, **options)
    pulls = generator_step(state, method, batch)
    parameters = list(roles.generator.parameters().values())
    got = [p.grad for p in parameters]

    x0 = roles.generator.module(batch.z, batch.condition)
    noise = batch.noise(x0)
    x_t = schedule.add_noise(x0, noise, batch.t)
    noised = Noised(x0, x_t, noise, batch.t, *schedule.coefficients(batch.t, x0))
    scores = [score(x_t, batch.t, batch.condition) for score in (roles.assistant.module, roles.reference)]

    def joint(x0: Tensor) -> list[Tensor]:
        loss = between_guesses(noised._replace(x0=x0), Scores(*scores))
        if rewarded:
            loss = loss - 0.7 * roles.reward(noised.x0, batch.condition)
        return list(torch.autograd.grad(loss.mean(), parameters, retain_graph=True))

    assert largest_difference(got, joint(x0)) < 1e-12
    # Control: without the pull at x_0 the gradient is another one.
    assert largest_difference(got, joint(x0.detach())) > 1e-2
    assert set(pulls.at_x_t) == {"regularizer"}
    assert set(pulls.at_x0) == {"regularizer"} | ({"reward"} if rewarded else set())
    assert torch.equal(pulls.pulls["regularizer"], pulls.at_x_t["regularizer"])
    # The term as it acts on x_0, and the norm that a record keeps of it.
    both = pulls.at_x_t["regularizer"], pulls.at_x0["regularizer"]
    torch.testing.assert_close(pulls.on_x0["regularizer"], pulls.alpha * both[0] + both[1], rtol=0, atol=0)
    record = run(toy.state(schedule=schedule), toy, method, steps=1, seed=0, assistant_updates=0)[0]
    norms = (both[0].square().sum(1) + both[1].square().sum(1)).sqrt()
    torch.testing.assert_close(record.pull_norms["regularizer"], norms, rtol=1e-12, atol=0)


def only_x0(noised: Noised, scores: Scores) -> Tensor:
    return noised.x0.square().sum(1)


def test_a_regularizer_may_live_at_x0_alone(toy: SimpleNamespace) -> None:
    method = Method("decay", only_x0)
    batch = make_batch(
        toy.state(), method.time_law, toy.conditions, seed=0, step=0, stream="g", batch=BATCH, rows=slice(0, BATCH)
    )
    state = toy.state()
    pulls = generator_step(state, method, batch)
    x0 = state.roles.generator.module(batch.z, batch.condition).detach()
    assert torch.equal(pulls.pulls["regularizer"], 2 * x0)
    assert torch.equal(pulls.on_x0["regularizer"], 2 * x0)
    assert not pulls.at_x_t


@pytest.mark.parametrize("name", METHODS)
def test_terms_of_the_library_live_at_one_point_each(name: str, toy: SimpleNamespace) -> None:
    method = METHODS[name] if name in ("reward-only", "didr") else replace(METHODS[name], cfg_scale=1.5)
    state = toy.state()
    batch = make_batch(
        state, method.time_law, toy.conditions, seed=0, step=0, stream="g", batch=BATCH, rows=slice(0, BATCH)
    )
    pulls = generator_step(state, method, batch)
    assert set(pulls.at_x0) == set(pulls.losses) & {"reward"}
    assert set(pulls.at_x_t) == set(pulls.losses) - {"reward"}
    assert set(pulls.pulls) == set(pulls.on_x0) == set(pulls.losses)


def quartic(noised: Noised, scores: Scores) -> Tensor:
    """Nothing but the scores depends on x_t."""
    return (scores.assistant - scores.reference).pow(4).sum(1)


def kl_without_detach(noised: Noised, scores: Scores) -> Tensor:
    """As a loss it is another one than KL's: the scores, too, depend on x_t."""
    return inner(scores.assistant - scores.reference, noised.x_t)


def kl(noised: Noised, scores: Scores) -> Tensor:
    return inner((scores.assistant - scores.reference).detach(), noised.x_t)


def reads_null(noised: Noised, scores: Scores) -> Tensor:
    assert scores.null is not None
    return quartic(noised, scores) + scores.null.square().sum(1)


@pytest.mark.parametrize(
    ("method", "score"),
    [
        (replace(BETWEEN, exact=False), "assistant"),
        (Method("quartic", quartic), "assistant"),
        (Method("kl", kl_without_detach), "assistant"),
        (Method("null", reads_null, exact=True, guidance="outside", cfg_scale=1.0), "null"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_regularizer_that_would_be_differentiated_in_half_is_told(
    method: Method, score: str, toy: SimpleNamespace
) -> None:
    state = toy.state()
    before = weights(state)
    with pytest.raises(ValueError, match=rf"the regularizer differentiates the {score} score.*exact=True"):
        run(state, toy, method, assistant_updates=0)
    assert all_equal(weights(state), before)


@pytest.mark.parametrize(
    "method",
    [
        BETWEEN,
        Method("quartic", quartic, exact=True),
        Method("kl", kl_without_detach, exact=True),
        Method("kl", kl),
        Method("null", reads_null, exact=True, guidance="inside", cfg_scale=1.0),
        Method("detached", partial(score_divergence_detached, distance=PseudoHuber(0.1), unit="eps")),
    ],
    ids=lambda method: f"{method.name}-{method.exact}",
)
def test_control_one_that_is_differentiated_whole_runs(method: Method, toy: SimpleNamespace) -> None:
    assert len(run(toy.state(), toy, method)) == 3


def test_a_reference_that_gives_no_graph_to_an_exact_method_is_told(toy: SimpleNamespace) -> None:
    state = toy.state()
    state.roles = state.roles._replace(reference=torch.no_grad()(state.roles.reference.__call__))
    with pytest.raises(ValueError, match="the regularizer differentiates the reference score"):
        run(state, toy, METHODS["sim"])
    with pytest.raises(ValueError, match="returned a score without a graph to x_t"):
        run(state, toy, METHODS["didr-proxy"])
    # Control: a method that takes the scores as constants does not ask for one.
    assert len(run(state, toy, METHODS["diff-instruct"])) == 3


def test_a_term_without_a_gradient_is_told(toy: SimpleNamespace) -> None:
    constant = Method("constant", lambda noised, scores: torch.ones(len(noised.x_t)))
    with pytest.raises(ValueError, match="the regularizer has no gradient at x_t or x_0"):
        run(toy.state(), toy, constant)
    scale = nn.Parameter(torch.ones(()))
    with pytest.raises(ValueError, match="the reward has no gradient at x_t or x_0"):
        run(toy.state(reward=lambda x0, condition: scale * x0.detach().sum(1)), toy)


def test_the_assistant_step_is_weighted_regression_on_detached_samples(toy: SimpleNamespace) -> None:
    state = toy.state()
    batch = make_batch(
        state, METHOD.time_law, toy.conditions, seed=0, step=0, stream="assistant/0", batch=BATCH, rows=slice(0, BATCH)
    )
    loss = assistant_step(state, METHOD, batch)
    assert all(p.grad is None for p in state.roles.generator.parameters().values())
    x0 = state.roles.generator.module(batch.z, batch.condition).detach()
    noise, sigma = batch.noise(x0), batch.t[:, None]
    score = state.roles.assistant.module(x0 + sigma * noise, batch.t, batch.condition)
    by_hand = (sigma * score + noise).square().sum(1)
    torch.testing.assert_close(loss, by_hand, rtol=1e-12, atol=0)
    parameters = list(state.roles.assistant.parameters().values())
    expected = torch.autograd.grad(by_hand.mean(), parameters)
    assert largest_difference([p.grad for p in parameters], list(expected)) < 1e-12


# The sequence of updates.


def count_updates(state: State) -> dict[str, int]:
    """Counts of optimizer steps by role, kept up to date."""
    counts = {"generator": 0, "assistant": 0}
    for name in counts:
        optimizer = getattr(state.roles, name).optimizer

        def count(*arguments: Any, name: str = name) -> None:
            counts[name] += 1

        optimizer.register_step_post_hook(count)
    return counts


@pytest.mark.parametrize("assistant_updates", [0, 1, 3])
def test_several_assistant_updates_a_step(assistant_updates: int, toy: SimpleNamespace) -> None:
    state = toy.state()
    counts = count_updates(state)
    records = run(state, toy, assistant_updates=assistant_updates, warmup=2)
    assert counts == {"generator": 3, "assistant": 5 * assistant_updates}
    assert all(("assistant" in record.losses) == (assistant_updates > 0) for record in records)


def test_the_warm_up_updates_the_assistant_alone(toy: SimpleNamespace) -> None:
    state = toy.state(ema_decay=0.9)
    before = weights(state)
    steps = []
    for record in post_train(state, METHOD, toy.conditions, steps=4, seed=1, batch=BATCH, warmup=3):
        steps.append(record.step)
        after = weights(state)
        generator_size = 2 * len(state.roles.generator.parameters())
        assert all_equal(after[:generator_size], before[:generator_size]) == (record.step < 0)
        assert not all_equal(after[generator_size:], before[generator_size:])
        if record.step < 0:
            assert set(record.losses) == {"assistant"}
            assert record.pull_norms == {}
            assert record.t is record.reward is record.gap_norm is None
            assert record.assistant_t.shape == (BATCH,)
        before = after
    assert steps == [-3, -2, -1, 0, 1, 2, 3]
    assert state.step == 4
    assert run(state, toy, steps=4, warmup=3) == []


def test_an_assistant_without_optimizer_gets_no_updates(toy: SimpleNamespace) -> None:
    """An exact assistant, such as a mixture's score, needs none; here the one that would learn is left as it is."""
    state = toy.state()
    assistant = state.roles.assistant.module
    state.roles = state.roles._replace(assistant=Trainable(assistant))
    before = [p.detach().clone() for p in assistant.parameters()]
    generator = [p.detach().clone() for p in state.roles.generator.module.parameters()]
    records = run(state, toy, warmup=1)
    assert all("assistant" not in record.losses and record.assistant_t is None for record in records)
    assert all_equal([p.detach() for p in assistant.parameters()], before)
    assert not all_equal([p.detach() for p in state.roles.generator.module.parameters()], generator)


def test_reward_only_never_asks_reference_or_assistant(toy: SimpleNamespace) -> None:
    class Silent(nn.Module):
        def forward(self, *inputs: Any) -> Tensor:
            raise AssertionError("a score was asked for")

    state = toy.state()
    state.roles = state.roles._replace(reference=Silent(), assistant=Trainable(Silent()))
    records = run(state, toy, METHODS["reward-only"])
    assert all(set(record.losses) == {"reward"} for record in records)
    assert all(record.gap_norm is None for record in records)


@pytest.mark.parametrize("cfg_scale", [0.0, 1.5])
@pytest.mark.parametrize("guidance", ["inside", "outside"])
def test_sim_is_di_star_without_its_reward(cfg_scale: float, guidance: Any, toy: SimpleNamespace) -> None:
    sim = replace(METHODS["sim"], guidance=guidance, cfg_scale=cfg_scale)
    star = replace(METHODS["diff-instruct*"], guidance=guidance, cfg_scale=cfg_scale, reward_scale=0.0)
    one, other = toy.state(), toy.state()
    for a, b in zip(
        post_train(one, sim, toy.conditions, steps=4, seed=1, batch=BATCH, warmup=1),
        post_train(other, star, toy.conditions, steps=4, seed=1, batch=BATCH, warmup=1),
        strict=True,
    ):
        assert same_record(a, b)
        assert all_equal(weights(one), weights(other))
    # Control: with its reward it goes elsewhere.
    rewarded = toy.state()
    run(rewarded, toy, replace(star, reward_scale=0.1), steps=4, warmup=1)
    assert largest_difference(weights(one), weights(rewarded)) > 1e-6


# Continuation, averages, rates, clipping.

STEADY: dict[str, Any] = {
    "ema_decay": 0.9,
    "lr": lambda step: 1e-2 * 0.8 ** max(step, 0),
    "max_grad_norm": 0.5,
}


@pytest.mark.parametrize("stop", [1, 2, 3, 5, 7])
def test_a_run_that_stops_and_goes_on_equals_one_that_does_not(stop: int, toy: SimpleNamespace) -> None:
    options: dict[str, Any] = {
        "steps": 6,
        "seed": 1,
        "batch": BATCH,
        "warmup": 3,
        "assistant_updates": 2,
        "micro_batch": 4,
    }
    whole = toy.state(**STEADY)
    expected = list(post_train(whole, METHOD, toy.conditions, **options))
    state = toy.state(**STEADY)
    first = list(islice(post_train(state, METHOD, toy.conditions, **options), stop))
    assert state.step == stop - 3
    rest = list(post_train(state, METHOD, toy.conditions, **options))
    assert len(first + rest) == len(expected) == 9
    assert all(same_record(a, b) for a, b in zip(first + rest, expected, strict=True))
    assert all_equal(weights(state), weights(whole))


def test_fewer_steps_first_and_then_more_equal_all_at_once(toy: SimpleNamespace) -> None:
    whole, state = toy.state(**STEADY), toy.state(**STEADY)
    run(whole, toy, steps=5, warmup=2)
    run(state, toy, steps=2, warmup=2)
    # Whatever else draws random numbers in between does not matter.
    torch.rand(100)
    run(state, toy, steps=5, warmup=2)
    assert all_equal(weights(state), weights(whole))
    # Control: a step more, or another seed after the pause, shows.
    other = toy.state(**STEADY)
    run(other, toy, steps=2, warmup=2)
    run(other, toy, steps=5, warmup=2, seed=2)
    assert not all_equal(weights(other), weights(whole))


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_the_average_is_the_one_computed_by_hand(decay: float, toy: SimpleNamespace) -> None:
    state = toy.state(ema_decay=decay)
    roles = {"generator": state.roles.generator, "assistant": state.roles.assistant}
    by_hand = {key: {name: p.detach().clone() for name, p in role.parameters().items()} for key, role in roles.items()}
    for record in post_train(state, METHOD, toy.conditions, steps=4, seed=1, batch=BATCH, warmup=2):
        for key, role in roles.items():
            for name, p in role.parameters().items() if key == "assistant" or record.step >= 0 else []:
                by_hand[key][name] = decay * by_hand[key][name] + (1 - decay) * p.detach()
    for key, role in roles.items():
        assert role.ema.keys() == by_hand[key].keys()
        ema = list(role.ema.values())
        assert largest_difference(ema, list(by_hand[key].values())) < 1e-14
        # Control: the average is not the last value.
        assert largest_difference(ema, [p.detach() for p in role.parameters().values()]) > 1e-4


def test_averaged_calls_the_module_with_the_averages(toy: SimpleNamespace) -> None:
    state = toy.state(ema_decay=0.5)
    run(state, toy)
    generator, other = state.roles.generator, toy.state().roles.generator
    z = torch.ones(3, 2, dtype=torch.float64)
    with torch.no_grad():
        for name, p in other.parameters().items():
            p.copy_(generator.ema[name])
    assert torch.equal(generator.averaged(z, None), other.module(z, None))
    assert not torch.equal(generator.averaged(z, None), generator.module(z, None))
    assert torch.equal(other.averaged(z, None), other.module(z, None))


def test_the_averages_can_take_the_place_of_the_parameters(toy: SimpleNamespace) -> None:
    state = toy.state(ema_decay=0.5)
    run(state, toy)
    generator = state.roles.generator
    averages = [average.clone() for average in generator.ema.values()]
    assert not all_equal([p.detach() for p in generator.parameters().values()], averages)
    generator.load_ema()
    assert all_equal([p.detach() for p in generator.parameters().values()], averages)
    # Without averages nothing changes.
    plain = toy.state().roles.generator
    before = [p.detach().clone() for p in plain.parameters().values()]
    plain.load_ema()
    assert all_equal([p.detach() for p in plain.parameters().values()], before)


def test_averages_leave_the_run_itself_alone(toy: SimpleNamespace) -> None:
    with_average, without = toy.state(ema_decay=0.9), toy.state()
    run(with_average, toy)
    run(without, toy)
    for a, b in ((with_average.roles.generator, without.roles.generator),):
        assert all_equal(list(a.parameters().values()), list(b.parameters().values()))


@pytest.mark.parametrize("decay", [1.0, -0.1, 2.0])
def test_a_decay_outside_its_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=rf"ema_decay must lie in \[0, 1\), got {decay}; 0.999 is usual, 0 is off"):
        Trainable(nn.Linear(1, 1), ema_decay=decay)


def test_the_learning_rate_is_a_function_of_the_step(toy: SimpleNamespace) -> None:
    asked = []

    def rate(step: int) -> float:
        asked.append(step)
        return 10.0 ** -(step + 3)

    state = toy.state(optimizer=toy.sgd, lr=rate)
    for record in post_train(state, METHOD, toy.conditions, steps=2, seed=1, batch=BATCH, warmup=1):
        assert state.roles.assistant.optimizer.param_groups[0]["lr"] == 10.0 ** -(record.step + 3)
    # The assistant asks in each step, the generator from step 0 on.
    assert sorted(asked) == [-1, 0, 0, 1, 1]


@pytest.mark.parametrize("limit", [1e-3, 0.05])
def test_clipping_bounds_the_norm_of_the_gradient(limit: float, toy: SimpleNamespace) -> None:
    """With plain gradient descent at rate 1 the displacement is the clipped gradient."""

    def displacement(**options: Any) -> list[Tensor]:
        state = toy.state(optimizer=toy.sgd, **options)
        before = [p.detach().clone() for p in state.roles.generator.parameters().values()]
        run(state, toy, METHODS["reward-only"], steps=1)
        after = state.roles.generator.parameters().values()
        return [p.detach() - q for p, q in zip(after, before, strict=True)]

    def norm(tensors: list[Tensor]) -> float:
        return float(torch.cat([one.flatten() for one in tensors]).norm())

    free = displacement()
    assert norm(free) > 2 * limit
    clipped = displacement(max_grad_norm=limit)
    # torch divides by norm + 1e-6.
    assert abs(norm(clipped) - limit) < 1e-5 * limit / norm(free) + 1e-12
    # Clipping keeps the direction.
    assert largest_difference(clipped, [limit / norm(free) * one for one in free]) < 1e-5 * limit
    assert all_equal(displacement(max_grad_norm=1e6), free)


# Records.


@pytest.mark.parametrize(
    ("name", "terms", "rewarded"),
    [
        ("diff-instruct*", {"regularizer", "reward"}, True),
        ("diff-instruct*-out", {"regularizer", "cfg", "reward"}, True),
        ("sim", {"regularizer"}, False),
        ("didr", {"regularizer"}, False),
    ],
)
def test_fields_of_a_record(name: str, terms: set[str], rewarded: bool, toy: SimpleNamespace) -> None:
    method = replace(METHODS[name], cfg_scale=0.0 if name == "didr" else 1.5)
    records = run(toy.state(), toy, method, steps=2, micro_batch=2)
    for step, record in enumerate(records):
        assert record.step == step
        assert set(record.losses) == terms | {"assistant"}
        assert set(record.pull_norms) == terms
        tensors = [*record.losses.values(), *record.pull_norms.values(), record.t, record.assistant_t, record.gap_norm]
        if rewarded:
            tensors.append(record.reward)
            torch.testing.assert_close(record.losses["reward"], -method.reward_scale * record.reward)
        else:
            assert record.reward is None
        for value in tensors:
            assert value.shape == (BATCH,)
            assert value.dtype == torch.float64
            assert not value.requires_grad
        assert record.seconds > 0


def test_times_of_a_record_follow_the_laws_of_the_method(toy: SimpleNamespace) -> None:
    method = replace(METHOD, time_law=TimeLaw.levels([0.5]), assistant_time_law=TimeLaw.uniform(2.0, 3.0))
    record = run(toy.state(), toy, method, steps=1)[0]
    assert record.t.tolist() == [0.5] * BATCH
    assert bool(((record.assistant_t >= 2) & (record.assistant_t <= 3)).all())


def test_a_guided_loss_outside_is_scaled_by_cfg_scale(toy: SimpleNamespace) -> None:
    method = METHODS["diff-instruct*-out"]
    pulls = [
        run(toy.state(), toy, replace(method, cfg_scale=scale), steps=1)[0].pull_norms["cfg"] for scale in (1.0, 3.0)
    ]
    torch.testing.assert_close(3 * pulls[0], pulls[1], rtol=1e-12, atol=0)


def test_the_loss_against_an_exact_assistant_is_no_progress_metric(toy: SimpleNamespace) -> None:
    """With s_psi = s_ref the gap is zero, so the pull is zero whatever the samples are."""
    state = toy.state()
    reference: MixtureScore = state.roles.reference

    class Exact(nn.Module):
        def forward(self, *inputs: Any) -> Tensor:
            return reference(*inputs)

    state.roles = state.roles._replace(assistant=Trainable(Exact()))
    record = run(state, toy, METHODS["sim"], steps=1)[0]
    assert float(record.gap_norm.max()) == 0
    assert float(record.losses["regularizer"].abs().max()) == 0


# Refusals: each before anything has moved.


def no_conditions(step: int, rows: slice) -> None:
    return None


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        (METHOD, {"micro_batch": 3}, "micro_batch 3 does not divide the 8 rows .* choose a divisor"),
        (METHOD, {"micro_batch": 16}, "micro_batch 16 does not divide the 8 rows"),
        (METHOD, {"micro_batch": 3, "rows": slice(0, 4)}, "micro_batch 3 does not divide the 4 rows"),
        (METHOD, {"micro_batch": -2}, "micro_batch -2 does not divide"),
        (
            replace(METHOD, time_law=TimeLaw.uniform(0.5, 100.0)),
            {},
            r"draws t from 0.5 to 100, but VarianceExploding is defined on \[0.002, 80\]; narrow the law",
        ),
        (replace(METHOD, assistant_time_law=TimeLaw.levels([0.001])), {}, "draws t from 0.001 to 0.001"),
        (Method("nothing"), {}, "'nothing' has no term that moves the generator; give it a regularizer or a? ?reward"),
        (replace(METHODS["reward-only"], reward_scale=0.0), {}, "'reward-only' has no term"),
    ],
)
def test_bad_settings_are_refused_before_anything_moves(
    method: Method, options: dict[str, Any], words: str, toy: SimpleNamespace
) -> None:
    state = toy.state()
    before = weights(state)
    with pytest.raises(ValueError, match=words):
        run(state, toy, method, warmup=2, **options)
    assert all_equal(weights(state), before)


@pytest.mark.parametrize("guidance", ["inside", "outside"])
def test_guidance_without_conditions_is_refused(guidance: Any, toy: SimpleNamespace) -> None:
    method = replace(METHODS["sim"], guidance=guidance, cfg_scale=2.0)
    with pytest.raises(ValueError, match=r"'sim' has cfg_scale 2 but conditions are None.* pass conditions or set"):
        list(post_train(toy.state(), method, no_conditions, steps=1, seed=0, batch=BATCH))
    # Without guidance None is the null condition and runs.
    off = replace(method, cfg_scale=0.0)
    assert len(list(post_train(toy.state(), off, no_conditions, steps=1, seed=0, batch=BATCH))) == 1


@pytest.mark.parametrize(
    ("reward", "shape"),
    [
        (lambda x0, condition: x0, r"\(8, 2\)"),
        (lambda x0, condition: x0.sum(), r"\(\)"),
        (lambda x0, condition: x0.sum(1, keepdim=True), r"\(8, 1\)"),
    ],
)
def test_a_reward_of_the_wrong_shape_is_refused(reward: Any, shape: str, toy: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match=rf"one value per sample, shape \[8\], got {shape}; reduce over"):
        run(toy.state(reward=reward), toy)


class Judge:
    """A reward whose value is right and whose kind is not."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind

    def __call__(self, x0: Tensor, condition: Any) -> Any:
        return self.kind(x0[:, 0])


@pytest.mark.parametrize("name", ["diff-instruct*", "reward-only", "didr-proxy"])
@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        (lambda value: value.detach(), ValueError, "the reward Judge has no gradient at x0"),
        (lambda value: value.round().long(), ValueError, "the reward Judge has no gradient at x0"),
        (lambda value: torch.zeros(len(value)), ValueError, "the reward Judge has no gradient at x0"),
        (lambda value: value.detach().numpy(), TypeError, "the reward Judge must return a tensor.* got ndarray"),
        (lambda value: value.detach().numpy()[0], TypeError, "the reward Judge must return a tensor.* got float64"),
        (lambda value: value.mean().item(), TypeError, "the reward Judge must return a tensor.* got float "),
        (lambda value: value.tolist(), TypeError, "the reward Judge must return a tensor.* got list"),
        (lambda value: None, TypeError, "the reward Judge must return a tensor.* got NoneType"),
    ],
)
def test_a_reward_of_another_kind_or_without_gradient_is_refused(
    name: str, kind: Any, error: type[Exception], words: str, toy: SimpleNamespace
) -> None:
    with pytest.raises(error, match=words):
        run(toy.state(reward=Judge(kind)), toy, METHODS[name])
    # Control: the same value as it should be.
    assert len(run(toy.state(reward=Judge(lambda value: value)), toy, METHODS[name], steps=1)) == 1


@pytest.mark.parametrize("name", ["diff-instruct*", "reward-only", "didr", "didr-proxy"])
def test_a_missing_reward_is_refused_with_the_remedy(name: str, toy: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match=r"uses a reward but the roles have none; pass reward= in Roles"):
        run(toy.state(reward=None), toy, METHODS[name])


@pytest.mark.parametrize("name", ["sim", "diff-instruct", "dmd"])
def test_methods_without_a_reward_run_without_one(name: str, toy: SimpleNamespace) -> None:
    assert len(run(toy.state(reward=None), toy, METHODS[name])) == 3


def test_no_optimizer_touches_what_is_not_its_own(toy: SimpleNamespace) -> None:
    """The generator's step leaves no gradient in the assistant that its next update could pick up."""
    state = toy.state(optimizer=toy.sgd)
    run(state, toy, steps=1)
    for p in state.roles.assistant.parameters().values():
        p.grad = None
    batch = make_batch(
        state, METHOD.time_law, toy.conditions, seed=0, step=1, stream="generator", batch=BATCH, rows=slice(0, BATCH)
    )
    generator_step(state, METHOD, batch)
    assert all(p.grad is None for p in state.roles.assistant.parameters().values())
    assert all(p.grad is not None for p in state.roles.generator.parameters().values())


def test_a_reward_of_the_wrong_shape_is_refused_by_the_proxy_too(toy: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match=r"one value per sample, shape \[8\], got \(8, 2\); reduce over"):
        run(toy.state(reward=lambda x0, condition: x0), toy, METHODS["didr-proxy"])


# Modes: what does not learn has no dropout, and a batch in parts is the whole one.


class Noisy(nn.Module):
    """A score of points with dropout and batch statistics inside, deep enough to hide in."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.Dropout(0.1), nn.Linear(16, 2)).double()

    def forward(self, x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
        shift = 0 if condition is None else condition[:, None]
        return self.block(x_t) - x_t + shift


def noisy_state(toy: SimpleNamespace, **options: Any) -> State:
    state = toy.state(**options)
    torch.manual_seed(3)
    state.roles = state.roles._replace(reference=Noisy())
    return state


def test_a_reference_in_training_mode_is_the_same_function_as_in_evaluation_mode(toy: SimpleNamespace) -> None:
    left, put = noisy_state(toy), noisy_state(toy)
    put.roles.reference.eval()
    assert left.roles.reference.training
    for a, b in zip(run(left, toy), run(put, toy), strict=True):
        assert same_record(a, b)
    assert all_equal(weights(left), weights(put))
    assert all_equal(list(left.roles.reference.state_dict().values()), list(put.roles.reference.state_dict().values()))
    # Control: in training mode it is no function of its input.
    reference, x = left.roles.reference.train(), torch.ones(4, 2, dtype=torch.float64)
    assert not torch.equal(reference(x, x[:, 0], None), reference(x, x[:, 0], None))


class Held:
    """A role that is no module and holds one."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __call__(self, x0: Tensor, condition: Any) -> Tensor:
        return x0[:, 0]

    def method(self, x0: Tensor, condition: Any) -> Tensor:
        return x0[:, 0]


def takes_first(model: Any, x0: Tensor, condition: Any) -> Tensor:
    return x0[:, 0]


def closure_over(model: Any) -> Any:
    def reward(x0: Tensor, condition: Any) -> Tensor:
        return x0[:, 0] if model else x0[:, 1]

    return reward


HIDING_PLACES: dict[str, Callable[[Any], Any]] = {
    "attribute": Held,
    "attribute of an attribute": lambda model: Held(Held(model)),
    "dict of tuples": lambda model: Held({"term": (1.0, Held(model))}),
    "list": lambda model: Held([Held(model)]),
    "closure": closure_over,
    "default": lambda model: lambda x0, condition, model=model: x0[:, 0],
    "partial": lambda model: partial(takes_first, model),
    "bound method": lambda model: Held(model).method,
    "wrapped": lambda model: wraps(takes_first)(closure_over(Held(model))),
}


@pytest.mark.parametrize("place", HIDING_PLACES)
def test_the_modules_of_a_reward_are_in_evaluation_mode_wherever_it_holds_them(
    place: str, toy: SimpleNamespace
) -> None:
    model = Noisy()
    state = toy.state(reward=HIDING_PLACES[place](model))
    run(state, toy, METHODS["reward-only"], steps=1)
    assert not any(module.training for module in model.modules())
    # The learners' modes are the caller's.
    assert all(role.module.training for role in (state.roles.generator, state.roles.assistant))


def test_a_reward_that_can_see_the_learners_leaves_their_mode(toy: SimpleNamespace) -> None:
    state = toy.state()
    generator = state.roles.generator.module
    state.roles = state.roles._replace(reward=closure_over([state, generator]))
    run(state, toy, METHODS["reward-only"], steps=1)
    assert all(module.training for module in generator.modules())


def test_a_module_that_recomputes_its_blocks_keeps_its_mode_and_its_dropout_is_off(toy: SimpleNamespace) -> None:
    """Libraries recompute a block if `gradient_checkpointing and training`; evaluation mode would switch that off."""
    state = noisy_state(toy)
    recomputing = state.roles.reference.block
    recomputing.gradient_checkpointing = True
    run(state, toy, METHODS["sim"], steps=1)
    assert recomputing.training
    assert not any(module.training for module in recomputing.children())
    assert not state.roles.reference.training


class Normed(nn.Module):
    """A generator or score with a normalisation inside."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block = nn.Sequential(nn.Linear(2, 8), norm, nn.Linear(8, 2)).double()

    def latent(self, draw: Any) -> Tensor:
        return draw("z", (2,))

    def forward(self, x: Tensor, *rest: Any) -> Tensor:
        return self.block(x)


def normed_state(toy: SimpleNamespace, role: str, norm: nn.Module) -> State:
    state = toy.state(optimizer=toy.sgd)
    module = Normed(norm)
    change: Any = Trainable(module, toy.sgd(module)) if role in ("generator", "assistant") else module
    state.roles = state.roles._replace(**{role: change})
    return state


@pytest.mark.parametrize("role", ["generator", "assistant"])
def test_batch_statistics_are_refused_where_a_batch_is_computed_in_parts(role: str, toy: SimpleNamespace) -> None:
    state = normed_state(toy, role, nn.BatchNorm1d(8))
    before = weights(state)
    with pytest.raises(ValueError, match=rf"the {role} takes statistics over the batch in BatchNorm1d\(8"):
        run(state, toy, micro_batch=4)
    assert all_equal(weights(state), before)
    assert len(run(state, toy, micro_batch=8)) == 3
    # Control: what would be promised is not so: the gradient of the parts is not that of the whole.
    module = state.roles._asdict()[role].module.train()
    x = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def gradient(*parts: Tensor) -> Tensor:
        loss = sum(module(part).square().sum() for part in parts)
        return torch.autograd.grad(loss, module.block[0].weight)[0]

    whole = gradient(x)
    assert float((gradient(x[:4], x[4:]) - whole).norm() / whole.norm()) > 1e-2


def test_statistics_that_do_not_see_the_batch_are_not_refused(toy: SimpleNamespace) -> None:
    for role in ("generator", "assistant"):
        fixed = normed_state(toy, role, nn.BatchNorm1d(8))
        fixed.roles._asdict()[role].module.eval()
        assert len(run(fixed, toy, micro_batch=4)) == 3
        assert len(run(normed_state(toy, role, nn.GroupNorm(2, 8)), toy, micro_batch=4)) == 3
    # A frozen role's statistics are the stored ones, unless it has stored none.
    assert len(run(normed_state(toy, "reference", nn.BatchNorm1d(8)), toy, micro_batch=4)) == 3
    with pytest.raises(ValueError, match="the reference takes statistics over the batch"):
        run(normed_state(toy, "reference", nn.BatchNorm1d(8, track_running_stats=False)), toy, micro_batch=4)


# Memory, and devices that nobody waits for.


def test_an_update_frees_the_gradients(toy: SimpleNamespace) -> None:
    """The generator's gradients are gone while the assistant learns, and the other way round."""
    state = toy.state()
    roles = {"generator": state.roles.generator, "assistant": state.roles.assistant}
    seen = []

    def look(name: str, other: str) -> None:
        assert all(p.grad is not None for p in roles[name].parameters().values())
        assert all(p.grad is None for p in roles[other].parameters().values())
        seen.append(name)

    for name, other in (("generator", "assistant"), ("assistant", "generator")):
        roles[name].optimizer.register_step_pre_hook(lambda *_, name=name, other=other: look(name, other))
    run(state, toy, steps=2, assistant_updates=2)
    assert seen == ["assistant", "assistant", "generator"] * 2
    assert all(p.grad is None for role in roles.values() for p in role.parameters().values())


@pytest.mark.parametrize("guidance", ["inside", "outside"])
@pytest.mark.parametrize("name", [name for name in METHODS if name != "didr"])
def test_the_loop_neither_waits_for_the_device_nor_mixes_devices(
    name: str, guidance: Any, toy: SimpleNamespace
) -> None:
    """Tensors on the meta device hold no numbers: reading one, or adding one of the CPU to it, is an error.

    DIDR with the exact tilt needs a reference that is a formula, and is left out.
    """
    schedule = scaled_linear_schedule()
    law = TimeLaw.levels(range(20, 980))
    networks = [TimeMLP(2, width=8, depth=1, labels=2).to("meta") for _ in range(3)]
    generator = OneStep(networks[0], schedule, "eps", 399, (2,))
    reference, assistant = (NetworkScore(network, schedule, "v") for network in networks[1:])
    learners = [Trainable(role, toy.adam(role), ema_decay=0.9, max_grad_norm=1.0) for role in (generator, assistant)]
    roles = Roles(learners[0], reference, learners[1], lambda x0, condition: x0.sum(1))
    method = replace(METHODS[name], time_law=law, assistant_time_law=law, guidance=guidance, cfg_scale=1.5)
    records = list(
        post_train(
            State(roles, schedule, place=lambda tensor: tensor.to("meta")),
            method,
            lambda step, rows: labels(rows).to("meta"),
            steps=2,
            seed=0,
            batch=BATCH,
            warmup=1,
            micro_batch=4,
        )
    )
    assert len(records) == 3
    tensors = [*records[-1].losses.values(), *records[-1].pull_norms.values(), records[-1].t]
    assert all(tensor.device.type == "meta" and tensor.shape == (BATCH,) for tensor in tensors)


def test_control_a_reader_of_numbers_and_a_mix_of_devices_fail_on_the_meta_device() -> None:
    somewhere = torch.ones(3, device="meta")
    with pytest.raises((RuntimeError, NotImplementedError)):
        float(somewhere.sum())
    with pytest.raises(RuntimeError):
        somewhere + torch.ones(3)


# The warm-up alone: the training of a diffusion on data.


class Data(nn.Module):
    """In the generator's place: samples of N(0, 1) that nobody trains."""

    def latent(self, draw: Any) -> Tensor:
        return draw("z", (1,))

    def forward(self, z: Tensor, condition: Any) -> Tensor:
        return z


class LinearScore(nn.Module):
    """s(x_t) = −slope · x_t."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(()))

    def forward(self, x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
        return -self.slope * x_t


def test_with_no_generator_steps_the_warm_up_learns_the_score_of_data() -> None:
    """N(0, 1) at sigma = 1 is N(0, 2), whose score is −x/2."""
    law = TimeLaw.levels([1.0])
    method = replace(METHODS["diff-instruct"], time_law=law, assistant_time_law=law)
    score = LinearScore()
    learner = Trainable(score, torch.optim.Adam(score.parameters(), 0.05), lr=lambda step: 0.05 * -step / 200)
    state = State(Roles(Trainable(Data()), MixtureScore(ring(), VarianceExploding()), learner), VarianceExploding())
    records = list(post_train(state, method, lambda step, rows: None, steps=0, seed=0, batch=256, warmup=200))
    assert (len(records), state.step) == (200, 0)
    assert abs(score.slope.item() - 0.5) < 0.02
    # control: the generator is not asked to move, and if it were, it would be refused
    with pytest.raises(ValueError, match="the generator has no optimizer"):
        next(post_train(state, method, lambda step, rows: None, steps=1, seed=0, batch=256))
    # control: nor would one whose parameters are all frozen
    frozen = torch.nn.Linear(2, 2).requires_grad_(False)
    generator = PushForward(frozen, (2,))
    roles = state.roles._replace(generator=Trainable(generator, torch.optim.Adam(frozen.parameters())))
    with pytest.raises(ValueError, match="the generator's optimizer holds only frozen parameters"):
        next(post_train(State(roles, state.schedule), method, lambda step, rows: None, steps=1, seed=0, batch=256))
