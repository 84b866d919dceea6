"""The command line: distar demo | train | watch | sample | export | evaluate | rewards | world | doctor | lab | bench."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from ..extras import require
from .bench import bench
from .evaluate import evaluate
from .rewards import rewards
from .sdxl import export, sample, train_sdxl
from .terminal import STOP_CODE, TRACEBACK, Program, Shown, look_up, print_table, say, stoppable
from .toy import demo, toy
from .watch import watch
from .world import train_in_world, world_app

app = typer.Typer(
    cls=Program,
    help="Diff-Instruct*: post-training of one-step generators, held to closed-form truth.",
    epilog=f"In the environment, {TRACEBACK}=1 shows where an error arose, and {STOP_CODE}=0 is the exit code of a run that "
    "SIGTERM stopped and that was saved.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
train_app = typer.Typer(
    help="Post-train a one-step generator: a 2D toy, the miniature text-to-image world, or SDXL.", no_args_is_help=True
)
app.add_typer(train_app, name="train")
train_app.command("world")(train_in_world)
train_app.command("sdxl")(train_sdxl)
app.command()(watch)
app.command()(sample)
app.command()(export)
app.command()(evaluate)
app.command()(rewards)
app.command()(demo)
app.command()(bench)
train_app.command("toy")(toy)
app.add_typer(world_app, name="world")


@app.command()
def doctor(
    sdxl: Annotated[
        bool,
        typer.Option("--sdxl", help="What post-training SDXL needs: models, memory, disk, and hours on common cards."),
    ] = False,
    price: Annotated[
        float | None, typer.Option(min=0, help="Of an hour of one card, in any currency, for an estimate of the cost.")
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(min=0.01, max=1, help="Which part of a card's peak the estimates suppose; half of it by default."),
    ] = None,
) -> None:
    """Versions, device and memory of this machine, and how to mend what is missing; with --sdxl what post-training SDXL takes."""
    from .doctor import estimates, examine, examine_sdxl

    for name, given in (("price", price), ("share", share)):
        if given is not None and not sdxl:
            raise ValueError(f"--{name} {given:g} is for the estimates of --sdxl; add that, or leave it out")
    findings = examine_sdxl() if sdxl else examine()
    print_table([["what", "found", "verdict"], *([f.what, f.found, f.verdict] for f in findings)], "distar doctor")
    for remedy in dict.fromkeys(finding.remedy for finding in findings if finding.remedy):
        say(remedy)
    if sdxl:
        from ..sdxl.plan import LAUNCHING, OF_PEAK

        share = OF_PEAK if share is None else share
        print_table(estimates(share, price), "Estimates, from counted FLOPs and the makers' rates")
        say(
            f"They suppose {share:.0%} of the peak, and that launching takes no time. It does: {LAUNCHING}. "
            "distar train sdxl RUN --recipe 24gb --dry-run counts a run of your own."
        )
    if any(finding.fatal for finding in findings):
        raise typer.Exit(1)


@app.command()
def lab(
    name: Annotated[
        str, typer.Argument(help="An experiment, for example stability; without a name they are listed.")
    ] = "",
    profile: Annotated[
        str, typer.Option(help="ci (seconds), fast (minutes) or full (the notebooks' figures).")
    ] = "fast",
    folder: Annotated[Path, typer.Option(help="Where CSV and figure go; runs that are there are kept.")] = Path("lab"),
) -> None:
    """Run one of the experiments behind the notebooks; stopped, the same command continues."""
    from ..lab import STUDIES, perform

    if not name:
        print_table(
            [["name", "asks"], *([study.name, study.question] for study in STUDIES.values())], "distar lab NAME"
        )
        return
    study = look_up("experiment", name, STUDIES)
    if name.startswith("world"):
        require("models")
    say(f"{study.question}\nWe predicted: {study.prediction}")
    started = time.perf_counter()

    def kept() -> str:
        done = shown.latest.done if shown.latest else 0
        return f"after {done} runs, which are kept; run the same command to continue"

    with Shown() as shown, stoppable(kept):
        rows = perform(study, profile, folder, tell=shown)
    print_table([["found", ""], *([key, f"{value:.4g}"] for key, value in study.facts(rows).items())], name)
    say(f"{folder / name}.csv and .png, after {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    app()
