"""The command line: distar demo | train | doctor | bench."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

app = typer.Typer(
    help="Diff-Instruct*: post-training of one-step generators, held to closed-form truth.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
console = Console()


def fail(error: Exception) -> typer.Exit:
    """Print one sentence about what went wrong and give the exit to raise."""
    Console(stderr=True).print(f"distar: {error}", highlight=False, markup=False, soft_wrap=True)
    return typer.Exit(1)


def print_table(rows: list[list[str]], title: str) -> None:
    """A table whose first row is its head."""
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column)
    for row in rows[1:]:
        table.add_row(*map(escape, row))
    console.print(table)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where the figures, the table and the page go.")] = Path("demo"),
    profile: Annotated[
        str, typer.Option(help="demo (minutes), full (all rewards, five seeds) or ci (seconds).")
    ] = "demo",
) -> None:
    """Post-train one generator under a reward with each regularizer; leaves a page that explains the result."""
    from .demo import PROFILES, run_demo
    from .demo import Progress as Step
    from .report import gap_sentence, read_points, read_runs, result_table, reward_names, sentences

    if profile not in PROFILES:
        raise fail(ValueError(f"profile {profile!r} is unknown; known are {', '.join(PROFILES)}"))
    started = time.perf_counter()
    columns = (
        TextColumn("{task.description:>13}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:>10}"),
        TimeElapsedColumn(),
    )
    units = {"distil": "steps/s", "post-train": "runs/min"}
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def tell(step: Step) -> None:
            if step.stage == "first picture":
                console.print(
                    f"first picture after {time.perf_counter() - started:.0f} s: {folder / '01_start.png'}",
                    markup=False,
                )
                return
            if step.stage not in tasks:
                tasks[step.stage] = (bars.add_task(step.stage, total=step.total, rate=""), time.perf_counter())
            task, since = tasks[step.stage]
            per_second = step.done / max(time.perf_counter() - since, 1e-9)
            known = time.perf_counter() - since > 2
            rate = f"{per_second * (60 if 'min' in units[step.stage] else 1):.0f} {units[step.stage]}" if known else ""
            bars.update(task, completed=step.done, rate=rate)

        try:
            page = run_demo(folder, PROFILES[profile], tell)
        except (OSError, RuntimeError) as error:
            raise fail(error) from error
    rows = read_runs(folder / "runs.csv")
    for name in reward_names(rows):
        print_table(result_table(rows, name, compact=True), f"reward “{name}”, mean over seeds (ranges: see the page)")
    for line in [*sentences(rows), gap_sentence(rows, read_points())]:
        console.print(f"• {line}", highlight=False, markup=False)
    console.print(f"done in {time.perf_counter() - started:.0f} s; open {page}", markup=False)


@app.command()
def train(
    folder: Annotated[Path, typer.Argument(help="Folder of the run.")],
    method: Annotated[str, typer.Option(help="A method, for example di-star or diff-instruct++.")] = "di-star",
    reward: Annotated[str, typer.Option(help="A toy reward: mode, side, off-data or linear.")] = "mode",
    reward_scale: Annotated[float, typer.Option(help="Strength of the reward.")] = 0.8,
    steps: Annotated[int, typer.Option(min=1, help="Generator steps.")] = 800,
    seed: Annotated[int, typer.Option(help="Seed of everything drawn.")] = 0,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 200,
    resume: Annotated[bool, typer.Option(help="Go on from the folder's checkpoint.")] = False,
) -> None:
    """Post-train the distilled 2D generator with one method; stops and resumes."""
    import torch

    from .methods import find_method
    from .runs import Interrupted, NonFiniteError, run
    from .toy import LOOP, REWARDS, distilled, no_conditions, on_levels, reference, sample, toy_state

    if reward not in REWARDS:
        raise fail(ValueError(f"reward {reward!r} is unknown; known are {', '.join(REWARDS)}"))
    torch.set_num_threads(1)
    try:
        row = on_levels(find_method(method))
        if row.reward_at == "nowhere":
            console.print(f"method {row.name} has no reward; --reward and --reward-scale are not used", markup=False)
        else:
            row = replace(row, reward_scale=reward_scale)
        state = toy_state(distilled(reference()), reference(), REWARDS[reward], seed=seed, steps=steps)
        options = {"steps": steps, "seed": seed, **LOOP}
        settings = {"reward": reward}
        for record in run(
            state, row, no_conditions, folder, resume=resume, save_every=save_every, settings=settings, **options
        ):
            if record.step >= 0 and (record.step + 1) % 100 == 0:
                mean = float(REWARDS[reward](sample(state, 4000)).mean())
                console.print(f"step {record.step + 1:5d}   mean reward {mean:.3f}   {1 / record.seconds:.0f} steps/s")
    except (ValueError, TypeError, OSError, Interrupted, NonFiniteError) as error:
        raise fail(error) from error
    console.print(f"log and checkpoint are in {folder}", markup=False)


@app.command()
def doctor() -> None:
    """Versions, device and memory of this machine, and how to mend what is missing."""
    from .doctor import examine

    findings = examine()
    print_table([["what", "found", "verdict"], *([f.what, f.found, f.verdict] for f in findings)], "distar doctor")
    if any(finding.fatal for finding in findings):
        raise typer.Exit(1)


@app.command()
def bench(
    what: Annotated[str, typer.Argument(help="toy")] = "toy",
    out: Annotated[Path | None, typer.Option(help="Also write the JSON here.")] = None,
) -> None:
    """Speed of the loop against bare hand-written torch, and of the import; prints JSON."""
    from .bench import bench_toy

    if what != "toy":
        raise fail(ValueError(f"benchmark {what!r} is unknown; known is toy"))
    text = json.dumps(bench_toy(), indent=2)
    print(text)
    if out:
        out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    app()
