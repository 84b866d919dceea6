"""The commands of the miniature text-to-image world: distar world build | evaluate, distar train world."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..extras import require
from .runs import chosen_recipe, resume_command, run_hints, train_on_pictures
from .terminal import Shown, hint, look_up, print_table, say, stoppable

if TYPE_CHECKING:
    from ..world.recipe import WorldRecipe

world_app = typer.Typer(help="The miniature text-to-image world.", no_args_is_help=True)


@world_app.command("build")
def world_build(
    folder: Annotated[Path, typer.Argument(help="Where the stages, the weights and their card go.")],
    profile: Annotated[
        str, typer.Option(help="full (under 90 minutes on two cores) or ci (seconds, learns nothing).")
    ] = "full",
) -> None:
    """Train the world's models from nothing: autoencoder, diffusion, one-step generator; stopped, the same command continues."""
    require("models")
    from ..runs.signals import Interrupted
    from ..world.build import RECIPES, build, seconds_of
    from ..world.card import below_the_bar, write_card
    from ..world.scenes import DRAWS

    recipe = look_up("profile", profile, RECIPES)
    kept = f"what is done is kept in {folder}; run the same command to continue"
    with stoppable(lambda: f"while building; {kept}"), hint(Interrupted, lambda: f"({kept})"), Shown() as shown:
        weights = build(folder, recipe, shown)
        say("measuring the weights on held-out captions")
        count = DRAWS if profile == "full" else 20
        measured = write_card(weights, recipe, seconds_of(folder), count=count, tell=say)
    for line in below_the_bar(measured):
        say(f"below the bar: {line}")
    say(f"weights, card and sample sheets are in {weights}: open {weights / 'README.md'}")


@world_app.command("evaluate")
def world_evaluate(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Where pictures, scores and the report go.")] = Path(
        "evaluation/world"
    ),
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Runs of distar train world: each against its start, with the panel of hacking."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Weights of distar world build that draw; the shipped ones by default. The shipped judges judge both."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Pictures for each of the 140 held-out captions.")] = 3,
) -> None:
    """distar evaluate in the miniature: without runs the one-step generator beside its reference; with runs, is it a hack?"""
    require("models")
    from ..world.evaluation import scorers
    from ..world.recipe import WorldRecipe
    from .evaluate import WORLD, WORLD_REFERENCE, evaluate

    if runs and weights:
        raise ValueError("runs start from the shipped weights; leave --weights out")
    base = f",base={weights}" if weights else ""
    models = [WORLD_REFERENCE + base, WORLD + base]
    hacking = ""
    if runs:
        models = [WORLD, *_told_apart(runs)]
        recipes = {run: WorldRecipe.of_run(run) for run in runs}
        if free := next((run for run, recipe in recipes.items() if not recipe.method.reward_scale), None):
            raise ValueError(
                f"{free} was trained on no reward, so there is none to hack; compare it by distar evaluate"
            )
        trained = {run: recipe.reward for run, recipe in recipes.items()}
        if len(set(trained.values())) > 1:
            told = ", ".join(f"{run} on {reward}" for run, reward in trained.items())
            raise ValueError(
                f"the runs were trained on different rewards ({told}); evaluate them in folders of their own"
            )
        hacking = f"{WORLD}:{next(iter(trained.values()))}"
    rewards = [scorer.name for scorer in scorers().values()]
    evaluate(folder, models, [WORLD], rewards, seeds=seeds, hacking=hacking)


def _told_apart(runs: Sequence[Path]) -> list[str]:
    """Runs as --model takes them, named by as many folders of their paths as tell them apart."""
    paths = [run.resolve().parts for run in runs]
    for depth in range(1, max(map(len, paths)) + 1):
        names = ["-".join(path[-depth:]) for path in paths]
        if len({*names, "world"}) > len(runs):
            return [f"{name}={run}" for name, run in zip(names, runs, strict=True)]
    raise ValueError("two of the runs are in one folder; name each once")


def train_in_world(
    folder: Annotated[Path, typer.Argument(help="Folder of the run.")] = Path("runs/world"),
    recipe: Annotated[Path | None, typer.Option(help="A YAML file of settings; options below win over it.")] = None,
    method: Annotated[str | None, typer.Option(help="As for the toy; di-star by default.")] = None,
    reward: Annotated[str | None, typer.Option(help="preference or clip.")] = None,
    reward_scale: Annotated[
        float | None,
        typer.Option(help="Strength of the reward; clip has no default, 4 pulls about as long as preference at 0.3."),
    ] = None,
    cfg_scale: Annotated[
        float | None,
        typer.Option(
            help="Strength of guidance, s_c + cfg_scale (s_c − s_null): 0 is off; diffusers' guidance_scale is 1 more."
        ),
    ] = None,
    roles: Annotated[str | None, typer.Option(help="full (copies of the networks) or lora (adapters).")] = None,
    steps: Annotated[int | None, typer.Option(help="Generator steps; the learning rate decays over them.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything drawn.")] = None,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 50,
    count: Annotated[
        int, typer.Option(min=2, help="Held-out draws with one object to evaluate on, and as many with two.")
    ] = 250,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the folder's checkpoint with its own recipe.")
    ] = False,
) -> None:
    """Post-train the world's one-step generator and measure, paired, what it gained and lost; stops and resumes."""
    require("models")
    from ..runs.folders import claim
    from ..world.recipe import WorldRecipe, training_prompts

    options = {
        "method": method,
        "reward": reward,
        "reward_scale": reward_scale,
        "cfg_scale": cfg_scale,
        "roles": roles,
        "steps": steps,
        "seed": seed,
    }
    settings = chosen_recipe(WorldRecipe, folder, recipe, resume, **options)
    prompts = training_prompts(settings)  # a prompt file that is missing is told before anything loads
    if not resume:
        claim(folder, "run")
    with run_hints(
        "choose a lower lr or reward_scale in a new folder",
        lambda: resume_command("world", folder, save_every=save_every, count=count),
    ):
        post_train_and_measure(settings, prompts, folder, resume=resume, save_every=save_every, count=count)


def post_train_and_measure(
    recipe: WorldRecipe, prompts: list[str], folder: Path, *, resume: bool, save_every: int, count: int
) -> None:
    """Train in a folder, then compare with the start on held-out captions. Raises as runs.run.

    On one thread: numbers do not depend on the number of cores then, and a second thread gains little on networks this
    small, but waits for every core that is busy.
    """
    import torch

    from ..world.evaluation import before_and_after, evaluate, table, verdict, write_table
    from ..world.judges import load_judges
    from ..world.models import load_world

    torch.set_num_threads(1)
    world, judges = load_world(), load_judges()
    state = train_on_pictures(
        recipe, world, getattr(judges, recipe.reward), prompts, folder, resume=resume, save_every=save_every
    )
    trained = state.roles.generator.averaged
    again = resume_command("world", folder, save_every=save_every, count=count)
    with stoppable(lambda: f"while measuring; the run is finished, and this measures it: {again}"), Shown() as shown:
        drawers = {"before": world.draw, "after": lambda captions, seeds: world.draw(captions, seeds, trained)}
        found = {
            name: evaluate(draw, judges, count=count)
            for name, draw in shown.each(drawers.items(), "measure", len(drawers))
        }
        rows = table(found)
        write_table(rows, folder / "evaluation.csv")
        before_and_after(world, judges, trained).save(folder / "samples.png")
        print_table(rows, f"{2 * count} draws of held-out captions; means with 95 % bootstrap intervals over captions")
    say(verdict(found))
    say(f"recipe, log, checkpoint, evaluation.csv and samples.png are in {folder}: open {folder / 'samples.png'}")
