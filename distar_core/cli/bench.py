"""The command that measures: distar bench."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ..extras import installed_version, require
from ..runs.folders import require_writable
from .terminal import Shown, look_up, print_table, say

BENCHES = {
    "toy": "about half a minute; close other programs, since ratios compare runs of one core",
    "world": "about a minute; close other programs, since ratios compare runs of one core",
    "sdxl": "three minutes to count",
    "inference": "half a minute to count",
}
NO_GPU = "seconds are measured on a GPU, and there is none here that torch can use; what is counted needs none"


def bench(
    what: Annotated[str, typer.Argument(help=", ".join(BENCHES))] = "toy",
    out: Annotated[Path | None, typer.Option(help="Also write the JSON here.")] = None,
) -> None:
    """What things cost: the loop's speed against the same arithmetic by hand (toy, world), FLOPs, memory and on a GPU seconds
    of post-training SDXL in true size (sdxl), and of drawing with it (inference). Toy and world print JSON.
    """
    length = look_up("benchmark", what, BENCHES)
    if out:
        require_writable(out.parent)
    if what != "toy":
        require("models")
    aside = Console(stderr=True)
    aside.print(length)
    found = {"toy": _toy, "world": _world, "sdxl": _sdxl, "inference": _inference}[what](aside)
    if out:
        out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _toy(aside: Console) -> Mapping[str, float]:
    from ..lab.bench_toy import bench_toy

    numbers = bench_toy()
    print(json.dumps(numbers, indent=2))
    aside.print(
        f"the loop runs at {numbers['post_train_over_bare']:.0%} of the speed of the same arithmetic by hand, in the median of "
        "pairs of runs that follow each other; importing distar_core, torch included, takes "
        f"{numbers['import_distar_core_over_torch']:.2f} times as long as torch alone, with noise",
        highlight=False,
    )
    return numbers


def _world(aside: Console) -> Mapping[str, float]:
    from ..lab.bench_world import bench_world

    numbers = bench_world()
    print(json.dumps(numbers, indent=2))
    aside.print(
        f"LoRA roles need {numbers['lora_over_full']:.0%} of the memory of full copies, parameters and optimizers "
        f"together; a step takes {numbers['step_over_passes_full']:.2f} times as long as its network passes alone with "
        f"full copies, {numbers['step_over_passes_lora']:.2f} times with LoRA",
        highlight=False,
    )
    return numbers


def _sdxl(aside: Console) -> Mapping[str, Any]:
    from ..lab import bench_sdxl

    return _shown("sdxl", aside, bench_sdxl.bench_sdxl, bench_sdxl.tables)


def _inference(aside: Console) -> Mapping[str, Any]:
    from ..lab import bench_inference

    found = _shown("inference", aside, bench_inference.bench_inference, bench_inference.tables)
    published = bench_inference.PUBLISHED
    say(
        f"published with Diff-Instruct*, without card and types: {published['time']:.2%} of FLUX-dev's time and "
        f"{published['memory']:.2%} of its memory"
    )
    return found


def _shown(
    what: str,
    aside: Console,
    measure: Callable[..., dict[str, Any]],
    tables: Callable[[Mapping[str, Any]], Mapping[str, Sequence[Sequence[str]]]],
) -> dict[str, Any]:
    """What a benchmark in true size finds, shown as tables, with what it was made by."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        aside.print(NO_GPU)
    with Shown() as shown:
        found = measure(device, shown)
    for title, cells in tables(found).items():
        print_table([list(row) for row in cells], title)
    packages = ("torch", "diffusers", "transformers", "peft", "open_clip_torch", "timm")
    return {
        "made": {
            "by": f"distar bench {what}",
            "on": datetime.now(UTC).date().isoformat(),
            "with": {name: installed_version(name) for name in packages},
        },
        **found,
    }
