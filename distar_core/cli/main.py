"""The command line: distar demo | train | sample | export | evaluate | rewards | world | doctor | lab | bench."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..extras import require
from .evaluate import evaluate
from .rewards import rewards
from .sdxl import export, sample, train_sdxl
from .terminal import STOP_CODE, TRACEBACK, Program, Shown, look_up, print_table, say, stoppable
from .toy import demo, toy
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
app.command()(sample)
app.command()(export)
app.command()(evaluate)
app.command()(rewards)
app.command()(demo)
train_app.command("toy")(toy)
app.add_typer(world_app, name="world")


@app.command()
def doctor() -> None:
    """Versions, device and memory of this machine, and how to mend what is missing."""
    from .doctor import examine

    findings = examine()
    print_table([["what", "found", "verdict"], *([f.what, f.found, f.verdict] for f in findings)], "distar doctor")
    for remedy in dict.fromkeys(finding.remedy for finding in findings if finding.remedy):
        say(remedy)
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


@app.command()
def bench(
    what: Annotated[str, typer.Argument(help="toy or world")] = "toy",
    out: Annotated[Path | None, typer.Option(help="Also write the JSON here.")] = None,
) -> None:
    """Speed of the loop against the same arithmetic without it; of the world also memory. Prints JSON."""
    minutes = look_up("benchmark", what, {"toy": "about half a minute", "world": "about a minute"})
    if out:
        from ..runs.folders import require_writable

        require_writable(out.parent)
    aside = Console(stderr=True)
    aside.print(f"{minutes}; close other programs, since ratios compare runs of one core")
    numbers: Mapping[str, float]
    if what == "toy":
        from ..lab.bench_toy import bench_toy

        numbers = bench_toy()
        words = (
            f"the loop runs at {numbers['post_train_over_bare']:.0%} of the speed of the same arithmetic by hand, in the median of "
            "pairs of runs that follow each other; importing distar_core, torch included, takes "
            f"{numbers['import_distar_core_over_torch']:.2f} times as long as torch alone, with noise"
        )
    else:
        require("models")
        from ..lab.bench_world import bench_world

        numbers = bench_world()
        words = (
            f"LoRA roles need {numbers['lora_over_full']:.0%} of the memory of full copies, parameters and optimizers "
            f"together; a step takes {numbers['step_over_passes_full']:.2f} times as long as its network passes alone with "
            f"full copies, {numbers['step_over_passes_lora']:.2f} times with LoRA"
        )
    text = json.dumps(numbers, indent=2)
    if out:
        out.write_text(text + "\n", encoding="utf-8")
    print(text)
    aside.print(words, highlight=False)


if __name__ == "__main__":
    app()
