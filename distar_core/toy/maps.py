"""A generator without a network: affine maps with weights that learn, whose law is a mixture and whose score is exact.

x_0 = m_k + S_k z with probability w_k. The maps move by the loop, as any generator does. The weights take part in no
sample, so that no pull reaches them; they move between the loop's steps, by mirror descent on their own gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..draws import draw
from ..losses import Noised, Scores, integral_kl, score_divergence, weight_dmd
from ..methods import Method
from ..mixture import GaussianMixture
from ..rates import cosine_decay
from ..roles import Draw, MixtureScore, Reward, Roles, Trainable, evaluate_reward
from ..training import Batch, Record, State, noised_samples, post_train, scores_at
from ..truth.quadrature import AffineGenerator, GeneratorScore
from .ring import SCHEDULE, no_conditions

MAPS = 32
SMALLEST = 1e-6
"""Weights are kept at about this or more, so that a map that a method has given up can come back."""
LONGEST_STEP = 0.2
"""Largest change of a log-weight in one step, before the weights are normalised again."""


class EqualShares(nn.Module):
    """The maps of a generator, each drawn equally often whatever its weight: the generator that the loop trains.

    A map with a small weight gets as many samples as the others, and each map's gradient is proportional to the mean pull of
    its own samples, not to its weight; where it is zero is the same. What a sample is pulled by is the law with the true weights, which the assistant knows.
    """

    def __init__(self, generator: AffineGenerator) -> None:
        super().__init__()
        self.generator = generator

    def latent(self, draw: Draw) -> tuple[Tensor, Tensor]:
        return self.generator.latent(draw)

    def which(self, z: tuple[Tensor, Tensor]) -> Tensor:
        """The map of each sample, [B]."""
        count = len(self.generator.weights)
        return (torch.special.ndtr(z[0]) * count).long().clamp(max=count - 1)

    def forward(self, z: tuple[Tensor, Tensor], condition: Any = None) -> Tensor:
        """x_0, [B, n]; the condition is ignored."""
        return self.generator.place(self.which(z), z[1])


def maps_of(mixture: GaussianMixture, count: int = MAPS, *, seed: int = 0, jitter: float = 0.08) -> AffineGenerator:
    """Maps that start as a mixture of round modes: as many at each mode, their centres apart by `jitter` so that they differ.

    Raises:
        ValueError: for a count that the number of modes does not divide, a jitter as wide as a mode, or modes that are not
            round.
    """
    if not torch.equal(mixture.variances, mixture.variances[..., :1].expand_as(mixture.variances)):
        raise ValueError(
            "maps start as round modes, and this mixture has others; use one with a single deviation per mode"
        )
    modes, deviations = len(mixture.means), mixture.variances[..., 0].sqrt()
    if count < modes or count % modes:
        raise ValueError(f"{count} maps cannot share {modes} modes equally; choose a multiple of {modes}")
    if not 0 <= jitter < float(deviations.min()):
        raise ValueError(f"jitter {jitter:g} does not fit modes of deviation {float(deviations.min()):g}; choose less")
    mode = torch.arange(count) % modes
    rng = torch.Generator().manual_seed(seed)
    own = (deviations[mode].square() - jitter**2).sqrt()
    return AffineGenerator(
        mixture.weights[mode] * modes / count,
        mixture.means[mode] + jitter * torch.randn(count, mixture.dimension, generator=rng),
        own[:, None, None] * torch.eye(mixture.dimension),
    )


def dots_of(mixture: GaussianMixture, count: int, *, seed: int = 0) -> AffineGenerator:
    """`count` single points in place of maps, drawn from the mixture: their scales are zero and do not learn."""
    n = mixture.dimension
    points = mixture.sample(count, torch.Generator().manual_seed(seed))
    generator = AffineGenerator(torch.full((count,), 1 / count), points, torch.zeros(count, n, n))
    generator.scales.requires_grad_(False)
    return generator


def exact_state(
    generator: AffineGenerator, mixture: GaussianMixture, reward: Reward | None, *, steps: int, lr: float = 0.02
) -> State:
    """A fresh run of maps against the reference `mixture`, with their exact score as the assistant; the rate decays as a
    cosine."""
    learning = [parameter for parameter in generator.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(learning, lr=lr, betas=(0.0, 0.99))
    return State(
        Roles(
            generator=Trainable(EqualShares(generator), optimizer, lr=cosine_decay(lr, steps)),
            reference=MixtureScore(mixture, SCHEDULE),
            assistant=Trainable(GeneratorScore(generator, SCHEDULE)),
            reward=reward,
        ),
        SCHEDULE,
    )


def require_known(method: Method) -> None:
    """Raise ValueError unless the gradient of a method's objective in a weight is known here: see loss_by_sample."""
    name = getattr(method.regularizer, "__name__", str(method.regularizer))
    if method.regularizer not in (None, integral_kl, score_divergence):
        wrong = f"of {name}"
    elif method.reward_at not in ("sample", "nowhere") or method.guides or method.weight is weight_dmd:
        wrong = f"of {method.name!r}, whose target or weight depends on more than the two laws and t,"
    else:
        return
    raise ValueError(
        f"the gradient {wrong} in a weight is not known here; use integral_kl or score_divergence with the reward on the sample "
        "and no guidance, or weight_rate=0"
    )


def mean_noise(generator: AffineGenerator, which: Tensor, noised: Noised) -> Tensor:
    """E[eps | x_t, k] = sigma_t C⁻¹(x_t − alpha_t m_k) with C = alpha_t² S_k S_kᵀ + sigma_t² I, of the maps k [B]; [B, n]."""
    scales = noised.alpha[..., None] * generator.scales[which]
    covariances = scales @ scales.mT + noised.sigma[..., None].square() * torch.eye(scales.shape[-1])
    offset = noised.x_t - noised.alpha * generator.shifts[which]
    return noised.sigma * torch.linalg.solve(covariances, offset)


def loss_by_sample(state: State, method: Method, noised: Noised, scores: Scores, which: Tensor) -> Tensor:
    """The number whose mean over a map's samples is the regularizer's gradient in that map's weight, without w(t); [B].

    With p = Σ w_k p_k, every term here up to a constant that all maps share:

    - integral KL: ∂/∂w_k E_p log p/p_ref = E_{p_k}[log p/p_ref], the sampling law included;
    - the score divergence with a frozen law: ∂/∂w_k of s_p is p_k (s_k − s_p)/p, so ∂/∂w_k E_{sg p} d(y) = E_{p_k}[d'(y)ᵀ(s_k − s_p)],
      and as E[eps/sigma | x_t, k] = −s_k, this is the mean over the map's samples of Theorem 3.1's loss itself; with the
      law differentiated the loss has d(y) in addition, which is the part of the law.

    Derived here, for the methods that `require_known` lets pass.
    """
    maps: EqualShares = state.roles.generator.module  # type: ignore[assignment]
    if method.regularizer is score_divergence:
        return method.loss(noised._replace(noise=mean_noise(maps.generator, which, noised)), scores)
    own: GaussianMixture = maps.generator.mixture()
    reference: GaussianMixture = state.roles.reference.mixture  # type: ignore[attr-defined]
    ours, theirs = (law.diffuse(state.schedule, noised.t).log_density(noised.x_t) for law in (own, reference))
    return ours - theirs


@torch.no_grad()
def weight_gradient(state: State, method: Method, *, seed: int, step: int, batch: int) -> Tensor:
    """The gradient of a method's objective in each weight, up to a constant that all share; [K], an estimate from `batch`
    samples, rounded up to as many for each map.

    All maps are asked with the same normals, times and noise, since only their differences count. Raises as require_known.
    """
    require_known(method)
    roles = state.roles
    generator: AffineGenerator = roles.generator.module.generator  # type: ignore[assignment]
    count, dimension = generator.shifts.shape
    each = math.ceil(batch / count)

    def drawn(name: str, *shape: int, uniform: bool = False) -> Tensor:
        return draw(seed, step, f"weights/{name}", (each, *shape), slice(None), uniform=uniform)

    t = method.time_law.quantile(drawn("t", uniform=True))
    which = torch.arange(count).repeat_interleave(each)
    x0 = generator.place(which, drawn("z", dimension).repeat(count, 1))
    noise = drawn("noise", dimension).repeat(count, 1)
    noised = noised_samples(state.schedule, x0, Batch(None, t.repeat(count), None, lambda x0: noise))
    value = torch.zeros(len(which))
    if method.regularizer is not None:
        scores = scores_at(roles, method, noised, None, state.schedule)
        value = method.weight(noised, scores) * loss_by_sample(state, method, noised, scores, which).detach()
    if method.reward_at == "sample" and method.reward_scale:
        value = value - method.reward_scale * evaluate_reward(roles.reward, noised.x0, None).detach()
    return value.view(count, each).mean(1)


def move_weights(generator: AffineGenerator, gradient: Tensor, rate: float) -> None:
    """One step of mirror descent: log w_k falls by rate · (gradient_k − its mean under w), by at most
    LONGEST_STEP before they are normalised."""
    change = rate * (gradient - (generator.weights * gradient).sum())
    weights = (generator.weights.log() - change.clamp(-LONGEST_STEP, LONGEST_STEP)).softmax(0).clamp(min=SMALLEST)
    generator.weights.copy_(weights / weights.sum())


def train_maps(
    state: State,
    method: Method,
    *,
    steps: int,
    seed: int,
    batch: int = 512,
    weight_rate: float = 0.3,
) -> Iterator[Record]:
    """`post_train` of maps, with a step of their weights after each of its own; weight_rate 0 holds the weights fixed.

    The weights' rate decays as the maps' does. They take the step that belongs to a record when the next one is asked for.

    Raises:
        ValueError: for a method as in require_known, unless the weights are held fixed; and as post_train.
    """
    if weight_rate:
        require_known(method)
    generator: AffineGenerator = state.roles.generator.module.generator  # type: ignore[assignment]
    rate = cosine_decay(weight_rate, steps)
    for record in post_train(state, method, no_conditions, steps=steps, seed=seed, batch=batch):
        yield record
        if weight_rate:
            gradient = weight_gradient(state, method, seed=seed, step=record.step, batch=batch)
            move_weights(generator, gradient, rate(record.step))


def sample_maps(generator: AffineGenerator, count: int, *, seed: int = 1234) -> Tensor:
    """`count` points of the generator's law, weights included; [count, n]."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return generator(generator.latent(lambda name, shape: torch.randn(count, *shape, generator=rng)))
