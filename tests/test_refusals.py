"""What the loop refuses before, or as soon as, it would go wrong without a word; each with a control that runs."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from distar_core import METHODS, OneStep, Roles, State, Trainable, VarianceExploding, ring
from distar_core.roles import MixtureScore, ResidualScore
from distar_core.toy.networks import TimeMLP
from distar_core.toy.ring import no_conditions
from distar_core.training import post_train

SCHEDULE = VarianceExploding()


def tanh(x0, condition):
    return x0[:, 0].tanh()


def learner(module):
    return Trainable(module, torch.optim.Adam(module.parameters(), lr=1e-3))


def roles(**other):
    torch.manual_seed(0)
    exact = MixtureScore(ring(4), SCHEDULE)
    cast = {
        "generator": learner(OneStep(TimeMLP(2, width=8, depth=2), SCHEDULE, "eps", 1.0, (2,))),
        "reference": exact,
        "assistant": learner(ResidualScore(exact, TimeMLP(2, width=8, depth=2), SCHEDULE)),
        "reward": tanh,
    }
    return Roles(**(cast | other))


def steps(cast, *, method="diff-instruct*", **options):
    state = State(cast, SCHEDULE)
    return list(post_train(state, METHODS[method], no_conditions, **({"steps": 1, "seed": 0, "batch": 4} | options)))


def test_control_the_cast_runs():
    assert len(steps(roles(), steps=2, warmup=1)) == 3


@pytest.mark.parametrize("name", ["generator", "assistant"])
def test_an_optimizer_over_another_modules_parameters_is_refused(name):
    own = getattr(roles(), name)
    stranger = Trainable(copy.deepcopy(own.module), own.optimizer)
    with pytest.raises(ValueError, match=f"the {name}'s optimizer holds"):
        steps(roles(**{name: stranger}))


@pytest.mark.parametrize("norm", [0, -1.0, float("nan")])
def test_a_gradient_is_clipped_to_a_positive_norm_only(norm):
    with pytest.raises(ValueError, match="max_grad_norm"):
        Trainable(nn.Linear(1, 1), max_grad_norm=norm)


@pytest.mark.parametrize(
    "wrong", [lambda x: -x[:, :1], lambda x: -x[:1], lambda x: -x[:, 0]], ids=["[B, 1]", "[1, n]", "[B]"]
)
@pytest.mark.parametrize("method", ["diff-instruct*", "diff-instruct++"])
def test_a_score_of_another_shape_is_refused(wrong, method):
    with pytest.raises(ValueError, match="reference's score"):
        steps(roles(reference=lambda x_t, t, condition: wrong(x_t)), method=method)


def test_a_score_that_is_no_tensor_is_refused():
    with pytest.raises(TypeError, match="reference's score"):
        steps(roles(reference=lambda x_t, t, condition: x_t.detach().numpy()))


@pytest.mark.parametrize("name", ["steps", "warmup", "seed", "batch"])
@pytest.mark.parametrize("value", [1.5, True, "3"])
def test_counts_are_whole_numbers(name, value):
    with pytest.raises(TypeError, match=name):
        steps(roles(), **{name: value})


def test_statistics_over_a_share_of_the_batch_are_refused():
    class Normed(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.norm = inner, nn.LazyBatchNorm1d()

        def latent(self, draw):
            return self.inner.latent(draw)

        def forward(self, z, condition):
            return self.norm(self.inner(z, condition))

    module = Normed(roles().generator.module)
    module(torch.randn(4, 2), None)
    generator = learner(module)
    with pytest.raises(ValueError, match="statistics over the batch"):
        steps(roles(generator=generator), batch=8, rows=slice(0, 4))
    with pytest.raises(ValueError, match="statistics over the batch"):
        steps(roles(generator=generator), batch=8, micro_batch=4)
    assert len(steps(roles(generator=generator), batch=8)) == 1


def test_exact_is_yes_or_no():
    with pytest.raises(TypeError, match="'no'"):
        replace(METHODS["diff-instruct*"], exact="no")
