"""Claims 15 to 17: classifier-free guidance is an implicit reward; inside or outside the distance; 0 is off.

Reference side: truth/quadrature.py, integrals over x_t of log densities, differentiated in the generator's parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distar_core import Roles, State, Trainable
from distar_core.losses import Noised, PseudoHuber, Scores, SquaredL2, cfg_reward, field
from distar_core.methods import METHODS, Method
from distar_core.mixture import GaussianMixture, LinearReward
from distar_core.roles import MixtureScore
from distar_core.schedule import (
    DiscreteSchedule,
    NoiseSchedule,
    VarianceExploding,
    VariancePreserving,
    scaled_linear_schedule,
)
from distar_core.training import Batch, generator_step
from distar_core.truth.quadrature import (
    Setting,
    expect,
    gradient,
    grid,
    line_setting,
    plane_setting,
    relative_error,
    rotated_nodes,
)

WANTED = 0


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def on_the_line(setting: Setting) -> Setting:
    """The setting with a labelled reference: two labels, two components each."""
    reference = GaussianMixture.isotropic(
        tensor(0.3, 0.2, 0.35, 0.15),
        tensor(-1.0, 1.5, 0.3, -2.0)[:, None],
        tensor(0.5, 0.6, 0.5, 0.7),
        torch.tensor([0, 0, 1, 1]),
    )
    return replace(setting, reference=reference)


def in_the_plane(setting: Setting) -> Setting:
    """The setting with labels on its reference: two components for label 0, one for label 1."""
    reference = setting.reference
    labels = torch.tensor([0, 1, 0])
    return replace(
        setting, reference=GaussianMixture(reference.weights, reference.means, reference.covariances, labels)
    )


# Gradients are taken in the shifts and scales of a generator with three components: translations alone would not
# notice many mistakes.
SETTINGS = {
    "line, VE, sigma 0.5": on_the_line(line_setting(VarianceExploding(), 0.5)),
    "line, VE, sigma 2": on_the_line(line_setting(VarianceExploding(), 2.0)),
    "line, VP, sigma 0.7": on_the_line(line_setting(VariancePreserving(), 0.7)),
    "line, SDXL's table, t = 399": on_the_line(line_setting(scaled_linear_schedule(), 399)),
    "plane, VE, sigma 0.7": in_the_plane(plane_setting(VarianceExploding(), 0.7)),
    "plane, VP, sigma 0.7": in_the_plane(plane_setting(VariancePreserving(), 0.7)),
}


def implicit_reward_gradient(setting: Setting) -> Tensor:
    """The gradient of E log p_ref(x_t | c)/p_ref(x_t), the expectation being an integral over x_t."""
    law = setting.law()
    x, cell = grid(setting.frozen_law(), 4001 if law.dimension == 1 else 301)
    conditional = setting.reference.given(WANTED).diffuse(setting.schedule, setting.t)
    log_ratio = conditional.log_density(x) - setting.target().log_density(x)
    return gradient((cell * law.log_density(x).exp() * log_ratio).sum(), setting.generator)


def pushed_through_the_generator(loss: Callable[[Noised, Scores], Tensor], setting: Setting) -> Tensor:
    """The gradient that reaches the generator through x_t from a loss of the library, by quadrature over (z, eps)."""
    reference = MixtureScore(setting.reference, setting.schedule)

    def of_samples(x0: Tensor, x_t: Tensor, noise: Tensor) -> Tensor:
        conditional, null = reference(x_t, setting.t, WANTED), reference(x_t, setting.t, None)
        noised = Noised(x0, x_t, noise, setting.t, setting.alpha, setting.sigma)
        return loss(noised, Scores(torch.zeros_like(x_t), conditional, null))

    count = 201 if setting.reference.dimension == 1 else 81
    return expect(of_samples, setting, rotated_nodes(setting, count)).gradient


@pytest.mark.claim(15)
@pytest.mark.parametrize("name", SETTINGS)
def test_claim_15_guidance_is_an_implicit_reward(name: str) -> None:
    """Claim 15 (Theorem 3.2 as reconstructed; the derivation is ours): the pull of −sg[s_ref(x_t|c) − s_null(x_t)]ᵀ x_t, pushed through a
    generator, is minus the gradient of the implicit reward E log p_ref(x_t|c)/p_ref(x_t). Tolerance 1e-11, relative."""
    setting = SETTINGS[name]
    pushed = pushed_through_the_generator(cfg_reward, setting)
    assert relative_error(pushed, -implicit_reward_gradient(setting)) < 1e-11


@pytest.mark.claim(15)
@pytest.mark.parametrize("name", SETTINGS)
def test_claim_15_control_without_the_null_score(name: str) -> None:
    """Following s_ref(x_t|c) alone, without subtracting s_null, raises log p_ref(x_t|c), another reward: 50 % off."""
    setting = SETTINGS[name]
    wrong = pushed_through_the_generator(lambda noised, scores: field(-scores.reference, noised), setting)
    assert relative_error(wrong, -implicit_reward_gradient(setting)) > 0.5


class LabelledAffine(nn.Module):
    """x_0 = A_c z + m_c, a generator in two dimensions with parameters of its own for each label."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(tensor([[0.6, 0.2], [-0.1, 0.5]], [[0.4, 0.0], [0.3, 0.7]]))
        self.mean = nn.Parameter(tensor([0.8, -0.3], [-0.5, 0.9]))

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:
        return (self.matrix[condition] @ z[..., None]).squeeze(-1) + self.mean[condition]


class OwnScore(nn.Module):
    """The exact score of the generator's law, as an assistant that never errs."""

    def __init__(self, generator: LabelledAffine, schedule: NoiseSchedule) -> None:
        super().__init__()
        matrix = generator.matrix.detach()
        law = GaussianMixture(tensor(0.5, 0.5), generator.mean.detach(), matrix @ matrix.mT, torch.tensor([0, 1]))
        self.score = MixtureScore(law, schedule)

    def forward(self, x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
        return self.score(x_t, t, condition)


class CountingReference:
    """A labelled mixture that notes the conditions it is asked for."""

    def __init__(self, score: MixtureScore, asked: list[Any]) -> None:
        self.score = score
        self.asked = asked

    def __call__(self, x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
        self.asked.append(condition)
        return self.score(x_t, t, condition)

    def tilted(self, reward: Any, scale: float) -> CountingReference:
        return CountingReference(self.score.tilted(reward, scale), self.asked)


def generator_gradient(method: Method, schedule: NoiseSchedule) -> tuple[Tensor, list[Any]]:
    """The generator's gradient after one generator_step on a fixed batch, and the conditions the reference saw."""
    rng = torch.Generator().manual_seed(0)
    count = 256
    z, noise = torch.randn(2, count, 2, generator=rng, dtype=torch.float64)
    condition = torch.randint(2, (count,), generator=rng)
    if isinstance(schedule, DiscreteSchedule):
        t = torch.randint(20, 980, (count,), generator=rng)
    else:
        t = 0.2 + 0.7 * torch.rand(count, generator=rng, dtype=torch.float64)
    generator = LabelledAffine()
    reference = GaussianMixture.isotropic(
        tensor(0.3, 0.2, 0.35, 0.15),
        tensor([-1, 0], [1.5, 0.4], [0.3, 1.2], [-1.0, -1.0]),
        tensor(0.5, 0.6, 0.5, 0.7),
        torch.tensor([0, 0, 1, 1]),
    )
    asked: list[Any] = []
    roles = Roles(
        Trainable(generator),
        CountingReference(MixtureScore(reference, schedule), asked),
        Trainable(OwnScore(generator, schedule)),
        LinearReward(tensor(0.5, -0.2)),
    )
    generator_step(State(roles, schedule), method, Batch(z, t, condition, lambda x0: noise))
    return torch.cat([parameter.grad.flatten() for parameter in generator.parameters()]), asked


SCHEDULES = {"VE": VarianceExploding(), "VP": VariancePreserving(), "SDXL's table": scaled_linear_schedule()}


@pytest.mark.claim(16)
@pytest.mark.parametrize("name", ["diff-instruct", "diff-instruct++", "didr", "didr-proxy"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_claim_16_inside_equals_outside_for_integral_kl(schedule: str, name: str) -> None:
    """Claim 16: for integral KL the guided score inside, s_psi − {s_c + cfg_scale (s_c − s_null)}, and the plain score
    plus the CFG reward outside give the same gradient on the same batch, to rounding: 1e-13, relative. (The loss is
    linear in the reference score, so they are the same vector; with the reward on x_0, in the target or absent, for any
    weight that does not depend on the scores.)"""
    method = replace(METHODS[name], cfg_scale=3.0)
    inside, _ = generator_gradient(replace(method, guidance="inside"), SCHEDULES[schedule])
    outside, _ = generator_gradient(replace(method, guidance="outside"), SCHEDULES[schedule])
    assert relative_error(inside, outside) < 1e-13


@pytest.mark.claim(16)
@pytest.mark.parametrize("distance", [PseudoHuber(0.05), PseudoHuber(1.0), SquaredL2()])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_claim_16_control_score_divergence_tells_them_apart(schedule: str, distance: Any) -> None:
    """For the score divergence the two placements are different objectives: more than 10 % apart. (For squared L2 too:
    d' is linear there, but the guidance inside acts through the gradient of the score, outside directly.)"""
    method = replace(METHODS["diff-instruct*"], cfg_scale=3.0, distance=distance)
    inside, _ = generator_gradient(replace(method, guidance="inside"), SCHEDULES[schedule])
    outside, _ = generator_gradient(replace(method, guidance="outside"), SCHEDULES[schedule])
    assert relative_error(inside, outside) > 1e-1


GUIDED_METHODS = [name for name, method in METHODS.items() if method.guidance != "none"]


@pytest.mark.claim(17)
@pytest.mark.parametrize("placement", ["inside", "outside"])
@pytest.mark.parametrize("name", GUIDED_METHODS)
def test_claim_17_scale_zero_is_off(name: str, placement: Any) -> None:
    """Claim 17: cfg_scale is additive, s_c + cfg_scale (s_c − s_null), so 0 is off: bit for bit the gradient of
    guidance "none", and the reference is never asked for the null condition."""
    method = replace(METHODS[name], guidance=placement, cfg_scale=0.0)
    plain, _ = generator_gradient(replace(method, guidance="none"), VarianceExploding())
    off, asked = generator_gradient(method, VarianceExploding())
    assert torch.equal(off, plain)
    assert len(asked) == 1
    assert asked[0] is not None


@pytest.mark.claim(17)
@pytest.mark.parametrize("placement", ["inside", "outside"])
@pytest.mark.parametrize("name", GUIDED_METHODS)
def test_claim_17_control_scale_one_is_on(name: str, placement: Any) -> None:
    """In the other convention, s_null + w (s_c − s_null), it is 1 that is off. Here 1 is on: the gradient changes by
    more than 10 %, and the null score is asked for once."""
    method = replace(METHODS[name], guidance=placement, cfg_scale=1.0)
    plain, _ = generator_gradient(replace(method, guidance="none", cfg_scale=0.0), VarianceExploding())
    on, asked = generator_gradient(method, VarianceExploding())
    assert relative_error(on, plain) > 1e-1
    assert [condition is None for condition in asked].count(True) == 1
