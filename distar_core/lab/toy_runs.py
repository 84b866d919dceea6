"""One toy run of an experiment: from the distilled generator to a summary."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch

from ..frontier import read_points, scale_for
from ..methods import Method
from ..metrics import summarise
from ..mixture import GaussianMixture
from ..roles import Reward
from ..runs import NonFiniteError, check_finite
from ..toy import LOOP, REWARDS, ToyGenerator, distilled, labels_in_turn, reference, sample, toy_state
from ..training import State, post_train

MIDDLE_AIM = 0.5


@lru_cache
def start_generator(steps: int = 2500) -> ToyGenerator:
    """The distilled generator that every run starts from; trained once a process."""
    return distilled(reference(), steps=steps)


def train(
    method: Method,
    reward: Reward | None,
    *,
    seed: int,
    steps: int,
    mixture: GaussianMixture | None = None,
    generator: ToyGenerator | None = None,
    loop: Mapping[str, Any] = LOOP,
    **state_options: Any,
) -> State:
    """Post-train from the distilled generator; state_options go to toy.toy_state.

    A mixture with labels needs a generator of its own, and gets its labels in turn.

    Raises:
        NonFiniteError: when a value of the run becomes NaN or infinite.
    """
    torch.set_num_threads(1)
    mixture = mixture or reference()
    start = generator or start_generator(100 if steps < 100 else 2500)
    state = toy_state(start, mixture, reward, seed=seed, steps=steps, **state_options)
    for record in post_train(state, method, labels_in_turn(mixture), steps=steps, seed=seed, **loop):
        check_finite(record)
    return state


@contextmanager
def flat_components_diverge() -> Iterator[None]:
    """Raise NonFiniteError when a component of an exact.AffineGenerator became flat: its law has no density then."""
    try:
        yield
    except ValueError as error:
        if "positive definite" not in str(error):
            raise
        raise NonFiniteError("a component of the generator became flat") from error


def outcome(state: State, reward_name: str, *, mixture: GaussianMixture | None = None) -> dict[str, float]:
    """The summary of 20,000 samples, by metric."""
    points = sample(state, 20_000)
    return summarise(points, REWARDS[reward_name](points), mixture or reference())._asdict()


def train_and_summarise(method: Method, reward_name: str, **options: Any) -> dict[str, float]:
    """The summary of a run, and whether it diverged: a value that is not finite, or a hundredth of the samples beyond
    the window of the KL (a coordinate above 6), where the reference has nothing."""
    try:
        found = outcome(train(method, REWARDS[reward_name], **options), reward_name)
    except NonFiniteError:
        return dict.fromkeys(("reward", "entropy", "modes", "kl", "off_support", "spread"), math.nan) | {
            "diverged": 1.0
        }
    return found | {"diverged": float(not math.isfinite(found["kl"]))}


def matched_scale(reward_name: str, regularizer: str, share: float = MIDDLE_AIM) -> float:
    """The reward scale whose known fixed point lies `share` of the way from the reference's mean reward to the best."""
    from ..frontier import aims

    (aim,) = aims(reward_name, (share,))
    return scale_for(read_points(), reward_name, regularizer, aim)
