"""Diff-Instruct* and its relatives: post-training of one-step generators, held to closed-form truth."""

from importlib.metadata import version

from .methods import METHODS, Method, find_method
from .mixture import GaussianMixture, LinearReward, QuadraticReward, ring
from .roles import MixtureScore, NetworkScore, OneStep, PushForward, ResidualScore, Roles, Trainable
from .schedule import DiscreteSchedule, NoiseSchedule, TimeLaw, VarianceExploding, VariancePreserving
from .training import Record, State, post_train

__version__ = version("distar-core")

__all__ = [
    "METHODS",
    "DiscreteSchedule",
    "GaussianMixture",
    "LinearReward",
    "Method",
    "MixtureScore",
    "NetworkScore",
    "NoiseSchedule",
    "OneStep",
    "PushForward",
    "QuadraticReward",
    "Record",
    "ResidualScore",
    "Roles",
    "State",
    "TimeLaw",
    "Trainable",
    "VarianceExploding",
    "VariancePreserving",
    "find_method",
    "post_train",
    "ring",
]
