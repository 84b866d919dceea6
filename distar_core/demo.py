"""The main job: one distilled generator, post-trained under one reward with each leash, beside the known truth.

`run_demo` leaves a folder with runs.csv, figures, an animation and index.html; `distar demo` is its command.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .frontier import Point, scale_for
from .metrics import Summary, summarise
from .roles import PushForward
from .runs import check_finite
from .toy import REWARDS, TOY_METHODS, motion, reference, sample, toy_state
from .training import post_train

START = "distilled generator"
UNLEASHED = "reward only"
REGULARIZERS = tuple(name for name in TOY_METHODS if name != UNLEASHED)


@dataclass(frozen=True)
class Profile:
    """How much work: rewards, seeds, steps, and the rewards to aim for.

    Attributes:
        rewards: names of bounded rewards.
        seeds: number of seeds.
        steps: generator steps of a run.
        aims: mean rewards to aim for, as shares of the way from the reference's mean reward to the reward's maximum.
        distil_steps: steps of the distillation.
        unbounded: whether the exhibit of an unbounded reward is run.
    """

    rewards: tuple[str, ...]
    seeds: int
    steps: int
    aims: tuple[float, ...] = (0.25, 0.5, 0.7)
    distil_steps: int = 2500
    unbounded: bool = True


PROFILES = {
    "ci": Profile(("mode",), seeds=2, steps=40, distil_steps=150),
    "demo": Profile(("mode",), seeds=3, steps=800),
    "full": Profile(("mode", "side", "off-data"), seeds=5, steps=1600),
}


class Job(NamedTuple):
    """One training run; aim is the mean reward that the scale was chosen for, by the known fixed point."""

    reward_name: str
    regularizer: str
    aim: float
    scale: float
    seed: int
    steps: int
    watched: bool


class Run(NamedTuple):
    """What a finished job leaves."""

    job: Job
    summary: Summary
    seconds: float
    snapshots: list[Tensor]
    motions: dict[str, Tensor]
    distances: list[float]


DOTS = torch.cat([reference().means, reference().means.roll(1, 0).add(reference().means)[::2] * 0.5])


def perform(job: Job, generator: PushForward) -> Run:
    """Train one run from the distilled generator's weights; single-threaded, so its numbers do not depend on cores."""
    torch.set_num_threads(1)
    mixture, reward = reference(), REWARDS[job.reward_name]
    method = replace(TOY_METHODS[job.regularizer], reward_scale=job.scale)
    state = toy_state(generator, mixture, reward, seed=job.seed, steps=job.steps)
    snapshots: list[Tensor] = []
    distances: list[float] = []
    seconds = 0.0
    every = max(job.steps // 30, 1)
    for record in post_train(
        state, method, lambda step, rows: None, steps=job.steps, seed=job.seed, batch=256, warmup=50
    ):
        check_finite(record)
        seconds += record.seconds
        if record.step >= 0 and record.step % every == 0:
            points = sample(state, 500)
            distances.append(float(points.norm(dim=1).mean()))
            if job.watched:
                snapshots.append(points)
    points = sample(state, 20_000)
    motions = motion(state, method, DOTS) if job.watched and job.regularizer != UNLEASHED else {}
    if job.watched:
        snapshots.append(points[:1500])
    return Run(job, summarise(points, reward(points), mixture), seconds, snapshots, motions, distances)


def plan(profile: Profile, points: Sequence[Point]) -> list[Job]:
    """All runs of a profile. A regularizer's reward scale is the one whose known fixed point has the reward aimed for.

    For "reward only" Adam makes the scale irrelevant: one run a seed stands for all scales.
    """
    jobs = []
    for name in profile.rewards:
        for index, aim in enumerate(aims(profile, name)):
            for regularizer in TOY_METHODS:
                if regularizer == UNLEASHED and index != len(profile.aims) // 2:
                    continue
                scale = 1.0 if regularizer == UNLEASHED else scale_for(points, name, regularizer, aim)
                for seed in range(profile.seeds):
                    watched = seed == 0 and index == len(profile.aims) // 2
                    jobs.append(Job(name, regularizer, aim, scale, seed, profile.steps, watched))
    if profile.unbounded:
        for regularizer, scale in UNBOUNDED:
            jobs += [
                Job("linear", regularizer, float("nan"), scale, s, profile.steps, False) for s in range(profile.seeds)
            ]
    return jobs


UNBOUNDED = (("score, pseudo-Huber", 1.0), ("score, pseudo-Huber", 4.0), ("KL, w = 1", 4.0))


def aims(profile: Profile, reward_name: str) -> list[float]:
    """The mean rewards that a profile aims for under a reward."""
    mixture, reward = reference(), REWARDS[reward_name]
    start = float(reward(mixture.sample(100_000, torch.Generator().manual_seed(0))).mean())
    return [start + share * (1 - start) for share in profile.aims]


def perform_all(jobs: Sequence[Job], generator: PushForward, workers: int | None = None) -> Iterator[Run]:
    """Perform jobs, one single-threaded process per core, and yield the runs as they finish."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(workers or available, len(jobs))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(perform, job, generator) for job in jobs]):
            yield future.result()


def write_runs(path: Path, runs: Sequence[Run], start: Sequence[tuple[str, Summary]]) -> None:
    """One row a run, and one for the distilled generator under each reward."""
    rows: list[dict[str, Any]] = [
        {"reward_name": name, "regularizer": START, **summary._asdict()} for name, summary in start
    ]
    for run in sorted(runs, key=lambda run: run.job):
        job = {key: value for key, value in run.job._asdict().items() if key != "watched"}
        rows.append(
            job | run.summary._asdict() | {"seconds": round(run.seconds, 2), "mean_distance": run.distances[-1]}
        )
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[-1]])
        writer.writeheader()
        writer.writerows(rows)
