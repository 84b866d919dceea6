"""The commands of the plane: distar demo, distar train toy."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .runs import chosen_recipe, resume_command, run_hints
from .terminal import Shown, look_up, print_table, say, stoppable

if TYPE_CHECKING:
    from torch import Tensor

    from ..methods import Method
    from ..runs.progress import Progress
    from ..toy.recipe import ToyRecipe
    from ..toy.ring import ToyGenerator, ToyReward


SHORT_HEADS = {"reward scale": "scale", "mean reward": "reward", "off support": "off data", "kl": "KL"}


def demo(
    folder: Annotated[
        Path | None, typer.Option(help="Where the figures, the table and the page go; demo, or demo-PROFILE.")
    ] = None,
    profile: Annotated[
        str, typer.Option(help="demo (minutes), full (all rewards, five seeds) or ci (under a minute).")
    ] = "demo",
) -> None:
    """Show what each regularizer asks for under a reward and what a network makes of it; leaves a page with both."""
    from ..lab.exact_assistant import causes
    from ..runs.parallel import cores
    from ..toy.demo import PROFILES, plan, plan_exact, run_demo
    from ..toy.frontier import read_points
    from ..toy.records import EXACT, read_runs
    from ..toy.report import (
        gap_sentence,
        landing_sentence,
        middle_aim,
        rest_sentence,
        result_table,
        reward_names,
        sentences,
    )

    work = look_up("profile", profile, PROFILES)
    folder = folder or Path("demo" if profile == "demo" else f"demo-{profile}")
    started = time.perf_counter()
    known = read_points()
    exact, networks = len(plan_exact(work, known)), len(plan(work, known))
    minutes = {"ci": "under a minute", "demo": "about 2 minutes", "full": "about 30 minutes"}[profile]
    replaced = f"; the demo in {folder} is replaced" if (folder / "index.html").exists() else ""
    say(
        f"{exact} exact generators and {networks} networks on {cores()} processes, {minutes} on two free cores{replaced}"
    )
    with Shown() as shown, stoppable(lambda: kept_of_demo(folder, shown.latest)):
        page = run_demo(folder, work, shown, causes)
    exact_rows, rows = read_runs(folder / f"{EXACT}.csv"), read_runs(folder / "runs.csv")
    for name in reward_names(rows):
        for what, found in (("exact generators", exact_rows), ("networks, mean over seeds", rows)):
            head, *body = result_table(found, name, compact=True)
            short = [SHORT_HEADS.get(word, word) for word in head]
            print_table([short, *body], f"Reward “{name}”, {what}; the page explains the columns")
    for name in reward_names(exact_rows):
        say(f"• {rest_sentence(known, name, middle_aim(exact_rows, name))}")
    for line in [landing_sentence(exact_rows, known), gap_sentence(rows, known), *sentences(rows)]:
        say(f"• {line}")
    if profile == "ci":
        say("these runs are too short to learn anything: they check that everything works")
    say(f"done in {time.perf_counter() - started:.0f} s; open {page}; next: make lab, which opens notebook 00")


def kept_of_demo(folder: Path, latest: Progress | None) -> str:
    """What is left of a demo that stops after this event, and how to get the rest."""
    stage = latest.stage if latest else "exact"
    during = {
        "exact": "while training the exact generators; no page is kept",
        "distil": f"while distilling; {folder / 'index.html'} shows the exact generators",
        "networks": f"while training networks, of which none is kept; {folder / 'index.html'} shows the exact generators",
        "draw": f"while drawing; {folder / 'runs.csv'} is kept, and {folder / 'index.html'} shows the exact generators",
    }
    return f"{during[stage]}; the same command starts over"


def toy(
    folder: Annotated[Path, typer.Argument(help="Folder of the run.")],
    method: Annotated[
        str | None,
        typer.Option(
            help="reward-only, diff-instruct, diff-instruct++ (di++), sim, diff-instruct* (di-star, the default), "
            "diff-instruct*-out (di-star-out), dmd or didr-proxy (didr needs a reward whose tilt has a closed form). In a "
            "shell a name with a star needs quotes, its alias in brackets does not."
        ),
    ] = None,
    reward: Annotated[
        str | None, typer.Option(help="A toy reward: mode (the default), side, off-data or linear.")
    ] = None,
    reward_scale: Annotated[float | None, typer.Option(help="Strength of the reward, 0.8 by default.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Generator steps, 800 by default; the learning rate decays over them.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything drawn, 0 by default.")] = None,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 200,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the folder's checkpoint with its own recipe.")
    ] = False,
) -> None:
    """Post-train the distilled 2D generator with one method; stops with Ctrl-C and resumes."""
    from ..runs.folders import claim
    from ..toy.recipe import ToyRecipe

    options = {"method": method, "reward": reward, "reward_scale": reward_scale, "steps": steps, "seed": seed}
    recipe = chosen_recipe(ToyRecipe, folder, None, resume, **options)
    if not resume:
        claim(folder, "run")
    with run_hints(
        "choose a lower --reward-scale in a new folder", lambda: resume_command("toy", folder, save_every=save_every)
    ):
        train_toy(recipe, folder, save_every=save_every, resume=resume)
    say(f"log, checkpoint and a picture of the samples before and after are in {folder}: open {folder / 'samples.png'}")


def train_toy(recipe: ToyRecipe, folder: Path, *, save_every: int, resume: bool) -> None:
    """Distil, post-train with checkpoints and draw; or continue from the folder's checkpoint. Raises as runs.run."""
    import torch

    from ..toy.recipe import make_state, run_recipe
    from ..toy.records import START
    from ..toy.ring import REWARDS, new_generator, reference, sample

    torch.set_num_threads(1)
    method, reward = recipe.method, REWARDS[recipe.reward]
    with stoppable(lambda: "while distilling; nothing is kept, the same command starts over"):
        # a resumed run has its weights in the checkpoint
        generator = new_generator(reference()) if resume else distil_with_progress()
    state = make_state(recipe, generator)
    finished_before = True
    for record in run_recipe(recipe, state, folder, resume=resume, save_every=save_every):
        finished_before = False
        if record.step >= 0 and (record.step + 1) % 100 == 0:
            mean = float(reward(sample(state, 4000)).mean())
            say(f"step {record.step + 1:5d}   mean reward {mean:.3f}   {1 / record.seconds:.0f} steps/s")
    if finished_before:
        say(
            f"the run in {folder} is finished: all {recipe.steps} steps are done; the learning rate decays over --steps, so "
            "a longer run is a new run in another folder"
        )
    with stoppable(lambda: "while drawing; the run is finished, and the same command with --resume draws its picture"):
        if resume:
            say("distilling once more, for the picture of before")
            generator = distil_with_progress()
        start = make_state(recipe, generator)
        clouds = {START: sample(start, 20_000), method.name: sample(state, 20_000)}
        drawn = reference().sample(20_000, torch.Generator().manual_seed(recipe.seed))
        draw_samples(folder / "samples.png", clouds, method, reward, recipe.steps)
        print_summaries({"reference": drawn, **clouds}, reward)


def distil_with_progress() -> ToyGenerator:
    """The toy's one-step generator, distilled under a progress bar."""
    from ..toy.ring import DISTIL_STEPS, distil, reference

    with Shown() as shown:
        *_, generator = shown.each(distil(reference()), "distil", DISTIL_STEPS)
    return generator


def print_summaries(clouds: Mapping[str, Tensor], reward: ToyReward) -> None:
    """What the demo measures, as a table: one row for each cloud of samples [N, 2], by name."""
    from ..figures.names import label_of
    from ..toy.report import METRICS
    from ..toy.ring import reference
    from ..toy.summary import summarise

    rows = [["samples of", f"reward “{reward.name}”", *(SHORT_HEADS.get(m.replace("_", " "), m) for m in METRICS)]]
    for name, points in clouds.items():
        summary = summarise(points, reward(points), reference())
        cells = [format(getattr(summary, name), metric.format) for name, metric in METRICS.items()]
        rows.append([label_of(name), f"{summary.reward:.3f}", *cells])
    print_table(rows, "Before and after; docs/glossary.md explains the columns")


def draw_samples(path: Path, clouds: Mapping[str, Tensor], method: Method, reward: ToyReward, steps: int) -> None:
    """The samples [N, 2] of the distilled generator and of the trained one over the reference's modes."""
    from ..figures import plane
    from ..toy.ring import reference

    rewarded = method.reward_at != "nowhere"
    notes = dict(zip(clouds, ("before", f"{steps} steps"), strict=True))
    alt = f"Samples of the distilled generator before and after {steps} steps of {method.name}, over the reference's modes"
    if rewarded:
        notes = {name: f"{note}, reward {float(reward(clouds[name]).mean()):.2f}" for name, note in notes.items()}
        alt += f"; darker shading is more reward “{reward.name}”; mean rewards: {'; '.join(notes.values())}"
    plane.clouds(clouds, reference(), reward=reward if rewarded else None, notes=notes, alt=f"{alt}.").save(path)
