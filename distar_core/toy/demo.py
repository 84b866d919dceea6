"""The main job: what each regularizer asks for under a reward, and what a network makes of it, beside the known truth.

First generators whose score is exact come to rest where the theory says; then networks are trained under the same
objectives. `run_demo` leaves a folder with tables, figures, an animation and index.html; `distar demo` is its command.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..methods import Method
from ..probes import motion
from ..runs.folders import claim
from ..runs.parallel import in_parallel
from ..runs.progress import Progress, Tell, silent
from ..runs.run import check_finite
from ..training import Record, State, post_train
from .frontier import AIMS, Point, aims, read_points, scale_for
from .maps import exact_state, maps_of, sample_maps, train_maps
from .page import Cause, write_page
from .records import EXACT, REGULARIZERS, START, read_runs
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
    """How much work.

    Attributes:
        rewards: names of bounded rewards.
        exact_steps, exact_seeds: steps and seeds of the exact generators, which have all of AIMS.
        seeds: number of seeds of the networks; without a regularizer, and under the unbounded reward, at most `other_seeds`.
        steps: generator steps of a network's run.
        aims: mean rewards that the networks aim for, as shares of the way from the reference's mean reward to the reward's
            maximum 1.
        distil_steps: steps of the distillation.
    """

    rewards: tuple[str, ...]
    exact_steps: int
    exact_seeds: int
    seeds: int
    other_seeds: int
    steps: int
    aims: tuple[float, ...] = AIMS
    distil_steps: int = DISTIL_STEPS


PROFILES = {
    "ci": Profile(("mode",), exact_steps=30, exact_seeds=1, seeds=2, other_seeds=1, steps=30, distil_steps=100),
    "demo": Profile(("mode",), exact_steps=700, exact_seeds=1, seeds=2, other_seeds=1, steps=600, aims=(0.5,)),
    "full": Profile(("mode", "side", "off-data"), exact_steps=1200, exact_seeds=3, seeds=5, other_seeds=5, steps=2000),
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

    @property
    def method(self) -> Method:
        """What trains the run."""
        return replace(TOY_METHODS[self.regularizer], reward_scale=self.reward_scale)


class Run(NamedTuple):
    """What a finished job leaves; clouds, motions and dots only if it was watched."""

    job: Job
    summary: Summary
    seconds: float
    distances: list[tuple[int, float]]
    clouds: Tensor
    dots: Tensor | None
    motions: dict[str, Tensor]


def perform_exact(job: Job) -> Run:
    """One run of an exact generator from the reference; single-threaded, so its numbers do not depend on the cores."""
    torch.set_num_threads(1)
    mixture = reference()
    generator = maps_of(mixture, seed=job.seed)
    state = exact_state(generator, mixture, REWARDS[job.reward_name], steps=job.steps)
    records = train_maps(state, job.method, steps=job.steps, seed=job.seed)
    return _followed(job, state, records, partial(sample_maps, generator))


def perform(job: Job, generator: ToyGenerator) -> Run:
    """One run of a network from the distilled generator; single-threaded, so its numbers do not depend on the cores."""
    torch.set_num_threads(1)
    state = toy_state(generator, reference(), REWARDS[job.reward_name], seed=job.seed, steps=job.steps)
    records = post_train(state, job.method, no_conditions, steps=job.steps, seed=job.seed, **LOOP)
    return _followed(job, state, records, partial(sample, state))


def _followed(job: Job, state: State, records: Iterable[Record], drawn: Callable[[int], Tensor]) -> Run:
    """Train to the end, looking at `drawn(count)` on the way."""
    clouds = [drawn(1500)]
    distances = [(0, float(clouds[0].norm(dim=1).mean()))]
    seconds = 0.0
    every = max(job.steps // 30, 1)
    for record in records:
        check_finite(record)
        seconds += record.seconds
        if record.step >= 0 and ((record.step + 1) % every == 0 or record.step + 1 == job.steps):
            clouds.append(drawn(1500))
            distances.append((record.step + 1, float(clouds[-1].norm(dim=1).mean())))
    points = drawn(20_000)
    summary = summarise(points, REWARDS[job.reward_name](points), reference())
    if not job.watched:
        return Run(job, summary, seconds, distances, torch.empty(0), None, {})
    dots = spread_out(points[:300], 14)
    motions = motion(state, job.method, dots) if job.method.regularizer else {}
    return Run(job, summary, seconds, distances, torch.stack(clouds), dots, motions)


def plan_exact(profile: Profile, points: Sequence[Point]) -> list[Job]:
    """The runs of exact generators: every regularizer at the reward scales whose fixed points have the rewards of AIMS."""
    jobs = []
    for name in profile.rewards:
        for index, aim in enumerate(aims(name)):
            for regularizer in REGULARIZERS:
                scale = round(scale_for(points, name, regularizer, aim), 4)
                for seed in range(profile.exact_seeds):
                    watched = seed == 0 and index == len(AIMS) // 2
                    jobs.append(Job(name, regularizer, aim, scale, seed, profile.exact_steps, watched))
    return jobs


def plan(profile: Profile, points: Sequence[Point]) -> list[Job]:
    """The runs of networks. A regularizer's reward scale is the one whose known fixed point has the reward aimed for.

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
                for seed in range(profile.other_seeds if regularizer == UNLEASHED else profile.seeds):
                    jobs.append(Job(name, regularizer, aim, scale, seed, profile.steps, seed == 0 and index == middle))
    for regularizer, scale in UNBOUNDED:
        for seed in range(profile.other_seeds):
            jobs.append(Job("linear", regularizer, float("nan"), scale, seed, profile.steps, False))
    return sorted(jobs, key=lambda job: not job.watched)


def perform_all(jobs: Sequence[Job], generator: ToyGenerator, workers: int | None = None) -> Generator[Run, None, None]:
    """The networks' runs as they finish; closing it ends the processes, see in_parallel."""
    return in_parallel(partial(perform, generator=generator), jobs, workers)


def write_runs(path: Path, runs: Sequence[Run], start: dict[str, Summary]) -> None:
    """One row per run, in order, and before them one for the generator that runs start from under each reward."""
    order = [*REWARDS, *TOY_METHODS]
    columns = ["reward_name", "regularizer", "aim", "reward_scale", "seed", "steps", *Summary._fields, "seconds"]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for name, summary in start.items():
            writer.writerow({"reward_name": name, "regularizer": START} | _rounded(summary._asdict()))
        for run in sorted(
            runs, key=lambda run: (*(order.index(name) for name in run.job[:2]), run.job.reward_scale, run.job.seed)
        ):
            job = {key: value for key, value in run.job._asdict().items() if key != "watched"}
            writer.writerow(job | _rounded(run.summary._asdict()) | {"seconds": f"{run.seconds:.2f}"})


def write_distances(path: Path, runs: Sequence[Run]) -> None:
    """How far the samples of the runs under the unbounded reward got, by step."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["regularizer", "reward_scale", "seed", "step", "distance"])
        writer.writeheader()
        for run in sorted(runs, key=lambda run: run.job[:5]):
            for step, distance in run.distances if run.job.reward_name == "linear" else ():
                job = run.job
                row = {"regularizer": job.regularizer, "reward_scale": job.reward_scale, "seed": job.seed}
                writer.writerow(row | {"step": step, "distance": f"{distance:.6g}"})


def _rounded(values: dict[str, float]) -> dict[str, str]:
    return {key: f"{value:.6g}" for key, value in values.items()}


def _watched(runs: Sequence[Run], name: str) -> dict[str, Run]:
    """The watched runs under a reward, by regularizer."""
    chosen = {run.job.regularizer: run for run in runs if run.job.watched and run.job.reward_name == name}
    return {regularizer: chosen[regularizer] for regularizer in TOY_METHODS if regularizer in chosen}


def run_demo(
    folder: Path, profile: Profile, tell: Tell = silent, causes: Callable[[], Sequence[Cause]] = tuple
) -> Path:
    """Train exact generators and show where they rest; then distil, post-train networks, measure, draw; returns the page.

    Starts processes that import the calling script: there, call it below `if __name__ == "__main__":`. Sets torch to one
    thread.

    Args:
        folder: where everything goes; created if need be, files of an earlier demo are replaced.
        tell: called at the start of each stage ("exact", "distil", "networks", "draw"), after every run, distillation step
            and set of pictures, and when something can be opened: the first picture, of where all starts, and the page with
            the exact generators.
        causes: gives what the page says about why networks rest elsewhere, with recorded pictures; called when they are drawn.

    Raises:
        FileExistsError: if the folder holds files of others.
        PermissionError: if the folder cannot be written.
        RuntimeError: if a process that performs runs dies, or a run becomes NaN or infinite.
    """
    from . import pictures

    claim(folder, "demo")
    torch.set_num_threads(1)
    mixture, known, page = reference(), read_points(), folder / "index.html"
    exact_jobs, jobs = plan_exact(profile, known), plan(profile, known)
    # nothing of an earlier demo may stand above the numbers of this one
    for earlier in (page, folder / f"{EXACT}.csv", folder / "runs.csv", folder / "distances.csv"):
        earlier.unlink(missing_ok=True)
    tell(Progress("exact", 0, len(exact_jobs)))
    starts = sample_maps(maps_of(mixture), 20_000)
    alts = pictures.start(folder, mixture, REWARDS[profile.rewards[0]], starts)
    tell(Progress("exact", 0, len(exact_jobs), made=folder / "01_start.png"))
    exact: list[Run] = []
    with closing(in_parallel(perform_exact, exact_jobs)) as performed:
        for run in performed:
            exact.append(run)
            tell(Progress("exact", len(exact), len(exact_jobs)))
    write_runs(folder / f"{EXACT}.csv", exact, {})
    exact_rows = read_runs(folder / f"{EXACT}.csv")
    alts |= pictures.frontiers(folder, exact_rows, known, "02_exact_frontier")
    write_page(folder, exact_rows, [], known, alts, ())
    tell(Progress("exact", len(exact), len(exact_jobs), made=page))

    tell(Progress("distil", 0, profile.distil_steps))
    for step, distilled in enumerate(distil(mixture, steps=profile.distil_steps), start=1):
        tell(Progress("distil", step, profile.distil_steps))
        generator = distilled
    z = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(1234))
    with torch.no_grad():
        points = generator(z, None)
    start = {name: summarise(points, REWARDS[name](points), mixture) for name in (*profile.rewards, "linear")}
    runs: list[Run] = []
    tell(Progress("networks", 0, len(jobs)))
    with closing(perform_all(jobs, generator)) as performed:
        for run in performed:
            runs.append(run)
            tell(Progress("networks", len(runs), len(jobs)))
    write_runs(folder / "runs.csv", runs, start)
    write_distances(folder / "distances.csv", runs)

    sets = len(profile.rewards) + 1
    tell(Progress("draw", 0, sets))
    for done, name in enumerate(profile.rewards, start=1):
        alts |= pictures.exact(folder, mixture, REWARDS[name], _watched(exact, name))
        alts |= pictures.networks(folder, mixture, REWARDS[name], points, _watched(runs, name))
        tell(Progress("draw", done, sets))
    rows = read_runs(folder / "runs.csv")
    alts |= pictures.frontiers(folder, rows, known, "06_frontier")
    alts |= pictures.from_distances(folder)
    found = causes()
    for cause in found:
        cause.picture.save(folder / cause.file)
        alts[cause.file] = cause.picture.alt
    write_page(folder, exact_rows, rows, known, alts, found)
    tell(Progress("draw", sets, sets))
    return page
