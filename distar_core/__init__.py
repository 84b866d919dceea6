"""Diff-Instruct* and its relatives: post-training of one-step generators, held to closed-form truth."""

from importlib.metadata import version

from .losses import PseudoHuber, SquaredL2
from .methods import METHODS, Method, find_method
from .mixture import GaussianMixture, LinearReward, QuadraticReward, ring
from .roles import (
    Generator,
    MixtureScore,
    NetworkScore,
    OneStep,
    PushForward,
    Recomputed,
    ResidualScore,
    Reward,
    Roles,
    Score,
    Trainable,
)
from .schedule import (
    DiscreteSchedule,
    NoiseSchedule,
    TimeLaw,
    VarianceExploding,
    VariancePreserving,
    scaled_linear_schedule,
)
from .training import Record, State, post_train

__version__ = version("distar-core")

__all__ = [
    "METHODS",
    "DiscreteSchedule",
    "GaussianMixture",
    "Generator",
    "LinearReward",
    "Method",
    "MixtureScore",
    "NetworkScore",
    "NoiseSchedule",
    "OneStep",
    "PseudoHuber",
    "PushForward",
    "QuadraticReward",
    "Recomputed",
    "Record",
    "ResidualScore",
    "Reward",
    "Roles",
    "Score",
    "SquaredL2",
    "State",
    "TimeLaw",
    "Trainable",
    "VarianceExploding",
    "VariancePreserving",
    "find_method",
    "post_train",
    "ring",
    "scaled_linear_schedule",
]
