"""Claim 28: the gradient in the weight of a component is the mean of the method's loss over that component's samples."""

from functools import partial

import pytest
import torch

from distar_core.losses import PseudoHuber, SquaredL2, score_divergence
from distar_core.mixture import GaussianMixture
from distar_core.schedule import VarianceExploding, VariancePreserving
from distar_core.truth.quadrature import (
    grid,
    huber,
    line_setting,
    plane_setting,
    relative_error,
    rotated_nodes,
    squared,
    unit_of,
)

SETTINGS = {
    "line, VE": line_setting(VarianceExploding(), 0.7),
    "line, VP": line_setting(VariancePreserving(), 0.6),
    "plane, VE": plane_setting(VarianceExploding(), 0.7),
}
DISTANCES = {"squared L2": (SquaredL2(), squared()), "pseudo-Huber": (PseudoHuber(0.5), huber(0.5))}


def true_gradient(setting, objective):
    """∂/∂logits of an objective of the law by quadrature over x, autograd through density and score; [K]."""
    generator, target = setting.generator, setting.target()
    logits = generator.weights.log().requires_grad_()
    law = GaussianMixture.from_factors(logits.softmax(0), generator.shifts.detach(), generator.scales.detach())
    law = law.diffuse(setting.schedule, setting.t)
    x, cell = grid(setting.frozen_law(), 8001 if law.dimension == 1 else 401)
    (found,) = torch.autograd.grad(objective(law, target, x, cell), logits)
    return found


def from_means(setting, by_component):
    """w_k (g_k − Σ w g), the gradient in the logits that belongs to gradients g_k in the weights."""
    weights = setting.generator.weights
    return weights * (by_component - (weights * by_component).sum())


def means(setting, loss):
    """The mean of a loss (x0, x_t, noise) -> [N] over the samples of each component; [K]."""
    fine = setting.generator.shifts.shape[1] == 1
    nodes = rotated_nodes(setting, 2000) if fine else rotated_nodes(setting, 110, 2)
    with torch.no_grad():
        x0 = setting.generator.place(nodes.component, nodes.normal)
        value = nodes.weight * loss(x0, setting.alpha * x0 + setting.sigma * nodes.noise, nodes.noise)
    weights = setting.generator.weights
    return torch.zeros_like(weights).index_add(0, nodes.component, value) / weights


@pytest.mark.claim(28)
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("law", ["frozen", "differentiated"])
def test_the_loss_of_theorem_3_1_is_the_gradient_in_a_weight(setting, distance, law, library, holds, fails):
    """Claim 28. ∂/∂w_k of E d(u(s_theta − s_ref)), w_k the weight of a component, is the mean of Theorem 3.1's loss over the
    samples of that component, with the law frozen or differentiated; for KL it is the mean of log p_theta,t/p_ref,t."""
    ours, plain = DISTANCES[distance]

    def objective(own, target, x, cell):
        mass = cell * own.log_density(x).exp()
        divergence = plain.value(unit_of(setting, "eps") * (own.score(x) - target.score(x)))
        return ((mass.detach() if law == "frozen" else mass) * divergence).sum()

    truth = true_gradient(setting, objective)
    loss = library(setting, partial(score_divergence, distance=ours, unit="eps", law=law))
    own = relative_error(from_means(setting, means(setting, loss)), truth)
    holds(own, 1e-5 if distance == "pseudo-Huber" else 1e-8)

    # the control is what one would try first: the divergence itself, whose mean is not this gradient
    def divergence(x0, x_t, noise):
        score = setting.frozen_law().score(x_t) - setting.target().score(x_t)
        return plain.value(unit_of(setting, "eps") * score)

    fails(relative_error(from_means(setting, means(setting, divergence)), truth), own)


@pytest.mark.claim(28)
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_the_log_ratio_is_integral_kls_gradient_in_a_weight(setting, holds, fails):
    def objective(own, target, x, cell):
        log_density = own.log_density(x)
        return (cell * log_density.exp() * (log_density - target.log_density(x))).sum()

    def log_ratio(x0, x_t, noise):
        return setting.frozen_law().log_density(x_t) - setting.target().log_density(x_t)

    def value_of_the_loss(x0, x_t, noise):
        return ((setting.frozen_law().score(x_t) - setting.target().score(x_t)) * x_t).sum(-1)

    truth = true_gradient(setting, objective)
    own = relative_error(from_means(setting, means(setting, log_ratio)), truth)
    holds(own, 1e-8)
    fails(relative_error(from_means(setting, means(setting, value_of_the_loss)), truth), own)
