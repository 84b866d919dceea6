"""One toy run of an experiment: from the distilled generator to a summary."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch

from ..errors import NonFiniteError
from ..methods import Method
from ..mixture import GaussianMixture
from ..roles import Reward, Score
from ..runs.run import check_finite
from ..toy.frontier import aims, read_points, scale_for
from ..toy.ring import LOOP, REWARDS, ToyGenerator, distilled, labels_in_turn, reference, sample, toy_state
from ..toy.summary import Summary, summarise
from ..training import State, post_train

MIDDLE_AIM = 0.5
SAMPLES = 20_000
"""From which the outcome of a run is summarised."""
UNKNOWN = dict.fromkeys(Summary._fields, math.nan)
"""The summary of a run that was lost."""


@lru_cache
def _distilled(world: Callable[[], GaussianMixture], steps: int) -> ToyGenerator:
    return distilled(world(), steps=steps)


def start_generator(steps: int, world: Callable[[], GaussianMixture] = reference) -> ToyGenerator:
    """The distilled generator that runs of so many steps start from; trained once per process, and briefly for runs of
    less than 100 steps."""
    return _distilled(world, 100 if steps < 100 else 2500)


def train(
    method: Method,
    reward: Reward | None,
    *,
    seed: int,
    steps: int,
    mixture: GaussianMixture | None = None,
    generator: ToyGenerator | None = None,
    target: Score | None = None,
    loop: Mapping[str, Any] = LOOP,
    **state_options: Any,
) -> State:
    """Post-train from the distilled generator; state_options go to toy.toy_state.

    A mixture with labels needs a generator of its own, and gets its labels in turn. `target` takes the place of the
    mixture's exact score as the reference.

    Raises:
        NonFiniteError: when a value of the run becomes NaN or infinite.
    """
    torch.set_num_threads(1)
    mixture = mixture or reference()
    state = toy_state(generator or start_generator(steps), mixture, reward, seed=seed, steps=steps, **state_options)
    if target is not None:
        state.roles = state.roles._replace(reference=target)
    for record in post_train(state, method, labels_in_turn(mixture), steps=steps, seed=seed, **loop):
        check_finite(record)
    return state


@contextmanager
def flat_components_diverge() -> Iterator[None]:
    """Raise NonFiniteError when a component of a quadrature.AffineGenerator became flat: its law has no density then."""
    try:
        yield
    except ValueError as error:
        if "positive definite" not in str(error):
            raise
        raise NonFiniteError("a component of the generator became flat") from error


def outcome(state: State, reward_name: str) -> dict[str, float]:
    """The summary of a run's samples, by metric."""
    points = sample(state, SAMPLES)
    return summarise(points, REWARDS[reward_name](points), reference())._asdict()


def train_and_summarise(method: Method, reward_name: str, **options: Any) -> dict[str, float]:
    """The summary of a run, and whether it diverged: a value that is not finite, or a hundredth of the samples beyond
    the window of the KL (a coordinate above 6), where the reference has nothing."""
    try:
        found = outcome(train(method, REWARDS[reward_name], **options), reward_name)
    except NonFiniteError:
        return UNKNOWN | {"diverged": 1.0}
    return found | {"diverged": float(not math.isfinite(found["kl"]))}


@lru_cache
def matched_scale(reward_name: str, regularizer: str) -> float:
    """The reward scale whose known fixed point lies half-way from the reference's mean reward to the best."""
    (aim,) = aims(reward_name, (MIDDLE_AIM,))
    return scale_for(read_points(), reward_name, regularizer, aim)
