"""The 2D world with labels, for guidance: eight overlapping modes on a ring, four labels of two neighbouring modes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..evaluation.statistics import entropy
from ..methods import Guidance, Method
from ..mixture import GaussianMixture, ring
from ..roles import Reward
from ..truth.grid import kl_at_level
from .ring import TOY_METHODS, ToyReward, label_count
from .summary import KL_SIGMA, WINDOW

DIRECTIONS = ("right", "top", "left", "bottom")
"""Where the two modes of each label are, label 0 first."""

REWARD = ToyReward("rightwards", "tanh(x₁/2)", True, lambda x0: (x0[..., 0] / 2).tanh())
"""Agrees with the label on the right, disagrees with the one on the left, picks a mode at top and bottom."""

_STAR = TOY_METHODS["star"]


def guided_method(placement: Guidance, reward_scale: float, cfg_scale: float) -> Method:
    """Diff-Instruct* on the toy's levels, with guidance "inside" or "outside"; cfg_scale 0 is off."""
    return replace(_STAR, guidance=placement, reward_scale=reward_scale, cfg_scale=cfg_scale)


def labelled_reference(deviation: float = 0.5) -> GaussianMixture:
    """The ring of eight modes turned by −22.5°, so that modes 2k and 2k + 1 lie about the direction of label k.

    With deviation 0.5 neighbouring modes are 3.1 deviations apart: labels overlap, and more so under noise.
    """
    mixture = ring(deviation=deviation, labels=torch.arange(8) // 2)
    turn = torch.tensor(-math.pi / 8)
    rotation = torch.stack([torch.stack([turn.cos(), -turn.sin()]), torch.stack([turn.sin(), turn.cos()])])
    return GaussianMixture.isotropic(
        mixture.weights, mixture.means @ rotation.mT, torch.full((8,), deviation), mixture.labels
    )


class LabelSummary(NamedTuple):
    """The samples of a label, beside a labelled reference in the plane.

    Attributes:
        reward: mean reward.
        label: mean of p(label | x_0) under the clean reference, the probability with which it names the label that the
            sample was made for; 0.91 for the reference itself.
        modes: effective number of the label's own modes in use, exp of the entropy of their shares among the samples
            whose nearest mode is one of them; 2 at most, 0 if there are no such samples.
        spread: root mean square deviation per axis of a label's samples from their mean; 0.74 for the reference.
        kl: KL to p_ref(x | label) in nats, both noised with sigma = 0.15; infinite once a hundredth left the window.
        off_support: share farther than three deviations from every mode of the reference.
    """

    reward: float
    label: float
    modes: float
    spread: float
    kl: float
    off_support: float


def summarise_label(points: Tensor, label: int, mixture: GaussianMixture, reward: Reward) -> LabelSummary:
    """Summary of the samples of one label, [N, 2]."""
    points, mixture = points.double(), mixture.to(torch.float64)
    assert mixture.labels is not None
    own = mixture.labels == label
    distances = torch.cdist(points, mixture.means)
    shares = torch.bincount(distances.argmin(1), minlength=len(own))[own].double()
    mass, outside = WINDOW.histogram(points)
    deviations = mixture.variances.mean(-1).sqrt()
    return LabelSummary(
        reward=float(reward(points, torch.full((len(points),), label)).mean()),
        label=float(mixture.responsibilities(points)[:, own].sum(1).mean()),
        modes=math.exp(entropy(shares / shares.sum())) if shares.sum() > 0 else 0.0,
        spread=float((points - points.mean(0)).square().mean().sqrt()),
        kl=kl_at_level(mass, mixture.given(label), WINDOW, KL_SIGMA) if outside < 0.01 else math.inf,
        off_support=float((distances > 3 * deviations).all(1).double().mean()),
    )


def summarise_labels(points: Tensor, condition: Tensor, mixture: GaussianMixture, reward: Reward) -> list[LabelSummary]:
    """One summary per label, of samples [N, 2] made for the labels [N]; every label of the mixture must occur."""
    return [summarise_label(points[condition == k], k, mixture, reward) for k in range(label_count(mixture))]


def over_labels(summaries: Sequence[LabelSummary]) -> LabelSummary:
    """The mean over the labels, equally weighted."""
    return LabelSummary(*(sum(values) / len(summaries) for values in zip(*summaries, strict=True)))


def labels_for(count: int, mixture: GaussianMixture) -> Tensor:
    """`count` labels in turn, [count]: 0, 1, …, 0, 1, …"""
    return torch.arange(count) % label_count(mixture)


def draw(mixture: GaussianMixture, condition: Tensor, rng: torch.Generator) -> Tensor:
    """One draw of p(x | label) for each of the labels [N], [N, 2]."""
    points = torch.empty(len(condition), mixture.dimension)
    for label in range(label_count(mixture)):
        wanted = condition == label
        points[wanted] = mixture.given(label).sample(int(wanted.sum()), rng)
    return points
