"""A museum of failed runs: short, seeded, each with its symptom, its cause and its cures in the docstring.

Notebook 03 shows the pieces by letter and without their labels, so that the learner diagnoses them; the tests hold each
to its symptom. `exhibit` runs a piece and reads the instruments on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..methods import Method
from ..roles import Reward
from ..toy.ring import LOOP, REWARDS, TOY_METHODS, ToyGenerator, no_conditions, reference, sample, toy_state
from ..toy.summary import summarise
from ..training import State, post_train


@dataclass(frozen=True)
class LinearFit:
    """r(x) = constant + directionᵀx, fitted to another reward.

    Attributes:
        constant: [].
        direction: [n].
    """

    constant: Tensor
    direction: Tensor

    def __call__(self, x0: Tensor, condition: Any = None) -> Tensor:
        """[B, n] -> [B]."""
        return self.constant + x0 @ self.direction


def fit_linear(judge: Callable[[Tensor], Tensor], points: Tensor) -> LinearFit:
    """The least-squares fit of a linear reward to what `judge` says of the points [N, n]: a proxy, right near them."""
    columns = torch.cat([torch.ones(len(points), 1), points], dim=1)
    solution = torch.linalg.lstsq(columns, judge(points)[:, None]).solution[:, 0]
    return LinearFit(solution[0], solution[1:])


@dataclass(frozen=True)
class Piece:
    """A run to make again: variants come from dataclasses.replace.

    Attributes:
        label: the diagnosis.
        reward: what the run is trained on.
        method: the method, with its reward scale.
        judge: what people would really say of a sample; the run never sees it.
    """

    label: str
    reward: Reward
    method: Method
    judge: Reward


def _method(name: str, scale: float) -> Method:
    return replace(TOY_METHODS[name], reward_scale=scale)


def collapse() -> Piece:
    """A reward with one best point, and no leash.

    Symptom: the reward reaches its maximum, the spread falls towards 0, and yet the samples are *likelier* under the
    reference than its own. Cause: nothing pulls back; the best point is one point. Cure: any leash.
    """
    return Piece("collapse", REWARDS["mode"], _method("reward-only", 1.0), REWARDS["mode"])


def reward_hacking() -> Piece:
    """A linear proxy, fitted to a judge's marks for 500 samples of the reference, under a leash that is too weak for it.

    Symptom: the proxy rises to the end and the run comes to rest, leash against reward; the judge's mark rises, turns and
    falls below where it began; the samples are far off the data. Cause: the proxy is right near the reference's samples
    (correlation 0.9 with the judge there) and wrong beyond, where it was never fitted. Cures: stop where the judge turns,
    lower the reward scale, a leash with more weight at low noise, fresh marks where the samples are now.
    """
    judge = REWARDS["mode"]
    marked = reference().sample(500, torch.Generator().manual_seed(3))
    return Piece("reward hacking", fit_linear(judge, marked), _method("kl-x0", 10.0), judge)


def runaway() -> Piece:
    """A reward without a maximum, stronger than the pull of pseudo-Huber can ever become.

    Symptom: reward and distance grow as long as the run lasts; the gap between the scores grows with them, the leash's
    pull does not. Cause: pseudo-Huber's pull is bounded (claim 25), the reward's pull of length 2 is above the bound.
    Cures: a lower reward scale (1 is held), a distance whose pull grows with the gap, a bounded reward.
    """
    return Piece("runaway", REWARDS["linear"], _method("star", 4.0), REWARDS["linear"])


PIECES = {"A": reward_hacking, "B": runaway, "C": collapse}


def piece(letter: str) -> Piece:
    """The piece behind a letter. Raises ValueError that lists the letters."""
    if letter not in PIECES:
        raise ValueError(f"piece {letter!r} is unknown; the museum has {', '.join(PIECES)}")
    return PIECES[letter]()


class Reading(NamedTuple):
    """The instruments at one step.

    Attributes:
        step: generator steps done.
        reward: mean of the reward that the run is trained on.
        judged: mean of the judge's mark.
        modes, spread: effective number of modes, and width of the fullest; see summary.Summary.
        log_density: median log-density of the samples under the reference.
        reward_pull, leash_pull: mean length of the pulls on a sample since the last reading; nan before the first step,
            0 without a leash.
        gap: mean length of the gap between the two scores, in eps-units, likewise.
        points: the samples [1000, 2].
    """

    step: int
    reward: float
    judged: float
    modes: float
    spread: float
    log_density: float
    reward_pull: float
    leash_pull: float
    gap: float
    points: Tensor


class Exhibit(NamedTuple):
    """A piece after its run: the state at the end and the readings on the way."""

    piece: Piece
    state: State
    readings: list[Reading]

    def column(self, instrument: str) -> list[float]:
        """One instrument over all readings."""
        return [getattr(reading, instrument) for reading in self.readings]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def exhibit(
    piece: Piece, generator: ToyGenerator, *, steps: int, until: int | None = None, readings: int = 20, seed: int = 0
) -> Exhibit:
    """Run a piece from a copy of `generator`, on the ring, and read the instruments.

    Args:
        steps: generator steps of the whole run, over which the learning rate decays.
        until: stop after so many of them.
        readings: how many, evenly spaced, beside the one before the first step.
    """
    mixture = reference()
    state = toy_state(generator, mixture, piece.reward, seed=seed, steps=steps)
    last = until or steps
    pulls: dict[str, list[float]] = {"reward": [], "regularizer": [], "gap": []}

    def read(step: int) -> Reading:
        points = sample(state, 1000)
        rewards = piece.reward(points, None)
        summary = summarise(points, rewards, mixture)
        lengths = (_mean(pulls["reward"]), 0.0 if unleashed else _mean(pulls["regularizer"]), _mean(pulls["gap"]))
        return Reading(
            step,
            float(rewards.mean()),
            float(piece.judge(points, None).mean()),
            summary.modes,
            summary.spread,
            float(mixture.log_density(points).median()),
            *lengths,
            points,
        )

    unleashed = piece.method.regularizer is None
    found = [read(0)]
    for record in post_train(state, piece.method, no_conditions, steps=steps, seed=seed, **LOOP):
        done = record.step + 1
        if done < 1:
            continue
        for term, norms in record.pull_norms.items():
            pulls[term].append(float(norms.mean()))
        if record.gap_norm is not None:
            pulls["gap"].append(float(record.gap_norm.mean()))
        if done % max(1, last // readings) == 0 or done == last:
            found.append(read(done))
            pulls = {key: [] for key in pulls}
        if done == last:
            break
    return Exhibit(piece, state, found)
