"""The main job: one distilled generator, post-trained under a reward with each regularizer, beside the known truth.

`run_demo` leaves a folder with runs.csv, figures, an animation and index.html; `distar demo` is its command.
"""

from __future__ import annotations

import csv
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..probes import motion
from ..runs.folders import claim
from ..runs.parallel import in_parallel
from ..runs.progress import Progress, Tell, silent
from ..runs.run import check_finite
from ..training import post_train
from .frontier import AIMS, Point, aims, read_points, scale_for
from .page import write_page
from .records import START, read_runs
from .report import UNLEASHED
from .ring import (
    DISTIL_STEPS,
    LOOP,
    REWARDS,
    TOY_METHODS,
    ToyGenerator,
    distil,
    no_conditions,
    reference,
    sample,
    spread_out,
    toy_state,
)
from .summary import Summary, summarise

UNBOUNDED = (("star", 1.0), ("star", 4.0), ("kl-one", 4.0))


@dataclass(frozen=True)
class Profile:
    """How much work: rewards, seeds, steps, and the rewards to aim for.

    Attributes:
        rewards: names of bounded rewards.
        seeds: number of seeds.
        steps: generator steps of a run.
        aims: mean rewards to aim for, as shares of the way from the reference's mean reward to the reward's maximum 1.
        distil_steps: steps of the distillation.
    """

    rewards: tuple[str, ...]
    seeds: int
    steps: int
    aims: tuple[float, ...] = AIMS
    distil_steps: int = DISTIL_STEPS


PROFILES = {
    "ci": Profile(("mode",), seeds=2, steps=30, distil_steps=100),
    "demo": Profile(("mode",), seeds=3, steps=600),
    "full": Profile(("mode", "side", "off-data"), seeds=5, steps=2000),
}


class Job(NamedTuple):
    """One training run; aim is the mean reward that the scale was chosen for, nan under an unbounded reward."""

    reward_name: str
    regularizer: str
    aim: float
    reward_scale: float
    seed: int
    steps: int
    watched: bool


class Run(NamedTuple):
    """What a finished job leaves; clouds, motions and dots only if it was watched."""

    job: Job
    summary: Summary
    seconds: float
    distances: list[tuple[int, float]]
    clouds: Tensor
    dots: Tensor | None
    motions: dict[str, Tensor]


def perform(job: Job, generator: ToyGenerator) -> Run:
    """Train one run from the distilled generator; single-threaded, so its numbers do not depend on the cores."""
    torch.set_num_threads(1)
    mixture, reward = reference(), REWARDS[job.reward_name]
    method = replace(TOY_METHODS[job.regularizer], reward_scale=job.reward_scale)
    state = toy_state(generator, mixture, reward, seed=job.seed, steps=job.steps)
    clouds = [sample(state, 1500)]
    distances = [(0, float(clouds[0].norm(dim=1).mean()))]
    seconds = 0.0
    every = max(job.steps // 30, 1)
    for record in post_train(state, method, no_conditions, steps=job.steps, seed=job.seed, **LOOP):
        check_finite(record)
        seconds += record.seconds
        if record.step >= 0 and (record.step + 1) % every == 0:
            clouds.append(sample(state, 1500))
            distances.append((record.step + 1, float(clouds[-1].norm(dim=1).mean())))
    points = sample(state, 20_000)
    summary = summarise(points, reward(points), mixture)
    if not job.watched:
        return Run(job, summary, seconds, distances, torch.empty(0), None, {})
    dots = spread_out(points[:300], 14)
    motions = motion(state, method, dots) if method.regularizer else {}
    return Run(job, summary, seconds, distances, torch.stack(clouds), dots, motions)


def plan(profile: Profile, points: Sequence[Point]) -> list[Job]:
    """All runs of a profile. A regularizer's reward scale is the one whose known fixed point has the reward aimed for.

    With the reward only the scale cancels in Adam, so one run per seed stands for all scales.
    """
    jobs = []
    middle = len(profile.aims) // 2
    for name in profile.rewards:
        for index, aim in enumerate(aims(name, profile.aims)):
            for regularizer in TOY_METHODS:
                if regularizer == UNLEASHED and index != middle:
                    continue
                scale = 1.0 if regularizer == UNLEASHED else round(scale_for(points, name, regularizer, aim), 4)
                for seed in range(profile.seeds):
                    jobs.append(Job(name, regularizer, aim, scale, seed, profile.steps, seed == 0 and index == middle))
    for regularizer, scale in UNBOUNDED:
        for seed in range(profile.seeds):
            jobs.append(Job("linear", regularizer, float("nan"), scale, seed, profile.steps, False))
    return sorted(jobs, key=lambda job: not job.watched)


def perform_all(jobs: Sequence[Job], generator: ToyGenerator, workers: int | None = None) -> Generator[Run, None, None]:
    """The runs of all jobs as they finish; closing it ends the processes, see in_parallel."""
    return in_parallel(partial(perform, generator=generator), jobs, workers)


def write_runs(folder: Path, runs: Sequence[Run], start: dict[str, Summary]) -> None:
    """runs.csv: one row per run, and one for the distilled generator under each reward; distances.csv: how far the
    samples of the unbounded exhibit got, by step."""
    columns = ["reward_name", "regularizer", "aim", "reward_scale", "seed", "steps", *Summary._fields, "seconds"]
    with open(folder / "runs.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for name, summary in start.items():
            writer.writerow({"reward_name": name, "regularizer": START} | _rounded(summary._asdict()))
        for run in runs:
            job = {key: value for key, value in run.job._asdict().items() if key != "watched"}
            writer.writerow(job | _rounded(run.summary._asdict()) | {"seconds": f"{run.seconds:.2f}"})
    with open(folder / "distances.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["regularizer", "reward_scale", "seed", "step", "distance"])
        writer.writeheader()
        for run in runs:
            if run.job.reward_name == "linear":
                for step, distance in run.distances:
                    row = {
                        "regularizer": run.job.regularizer,
                        "reward_scale": run.job.reward_scale,
                        "seed": run.job.seed,
                    }
                    writer.writerow(row | {"step": step, "distance": f"{distance:.6g}"})


def _rounded(values: dict[str, float]) -> dict[str, str]:
    return {key: f"{value:.6g}" for key, value in values.items()}


def run_demo(folder: Path, profile: Profile, tell: Tell = silent) -> Path:
    """Distil, post-train, measure, draw; returns the page.

    Starts processes that import the calling script: there, call it below `if __name__ == "__main__":`. Sets torch to one
    thread.

    Args:
        folder: where everything goes; created if need be, files of an earlier demo are replaced.
        tell: called at the start of each stage ("distil", "post-train", "draw"), after every distillation step, run and
            set of pictures, and when the first picture, of the distilled generator, can be opened.

    Raises:
        FileExistsError: if the folder holds files of others.
        PermissionError: if the folder cannot be written.
        RuntimeError: if a process that performs runs dies, or a run becomes NaN or infinite.
    """
    from . import pictures

    claim(folder, "demo")
    torch.set_num_threads(1)
    mixture = reference()
    tell(Progress("distil", 0, profile.distil_steps))
    for step, distilled in enumerate(distil(mixture, steps=profile.distil_steps), start=1):
        tell(Progress("distil", step, profile.distil_steps))
        generator = distilled
    z = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(1234))
    with torch.no_grad():
        points = generator(z, None)
    alts = pictures.start(folder, mixture, REWARDS[profile.rewards[0]], points)
    tell(Progress("distil", profile.distil_steps, profile.distil_steps, made=folder / "01_start.png"))
    start = {name: summarise(points, REWARDS[name](points), mixture) for name in (*profile.rewards, "linear")}
    known = read_points()
    jobs = plan(profile, known)
    runs: list[Run] = []
    tell(Progress("post-train", 0, len(jobs)))
    with closing(perform_all(jobs, generator)) as performed:
        for run in performed:
            runs.append(run)
            tell(Progress("post-train", len(runs), len(jobs)))
    order = [*REWARDS, *TOY_METHODS]
    runs.sort(key=lambda run: (*(order.index(name) for name in run.job[:2]), run.job.reward_scale, run.job.seed))
    # a page of an earlier demo must not stand above the numbers of this one
    (folder / "index.html").unlink(missing_ok=True)
    write_runs(folder, runs, start)
    sets = len(profile.rewards) + 1
    tell(Progress("draw", 0, sets))
    for done, name in enumerate(profile.rewards, start=1):
        watched = {run.job.regularizer: run for run in runs if run.job.watched and run.job.reward_name == name}
        alts |= pictures.watched(folder, mixture, REWARDS[name], points, watched)
        tell(Progress("draw", done, sets))
    rows = read_runs(folder / "runs.csv")
    alts |= pictures.from_tables(folder, rows, known)
    page = write_page(folder, rows, known, alts)
    tell(Progress("draw", sets, sets))
    return page
