"""`python -m tools.painters FOLDER`: train the adapters that the page "One sentence, four painters" walks along.

Trains each method of METHODS with the seeds of the study `world`, keeps the averaged adapters at the steps of STOPS, and measures
them on the study's held-out draws; a run that is in FOLDER already is not trained again. Then the runs whose final gold preference is
the median of their method's go to docs/web/painters, METHOD.safetensors, in half precision, with every number that was measured, of all
seeds, in measured.json. About 40 minutes on one core.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from distar_core.sdxl.models import TextToImage
from distar_core.sdxl.post_training import conditions_of, make_state
from distar_core.sdxl.prompts import Prompt
from distar_core.training import post_train
from distar_core.world.evaluation import Draw, evaluate
from distar_core.world.judges import Judges, load_judges
from distar_core.world.models import load_world
from distar_core.world.recipe import WorldRecipe, training_prompts

SHIPPED = Path(__file__).resolve().parent.parent / "docs" / "web" / "painters"
METHODS = {"star": ("diff-instruct*", 0.3), "greedy": ("reward-only", 1.0)}
"""Method and reward scale: notebook 08's own, and the reward without a leash, as in the study `world`."""
SEEDS = (0, 1, 2)
STOPS = (10, 20, 30, 40, 60, 80, 100, 120, 150, 200)
STRENGTHS = (0.5, 1.5, 2.0, 2.5, 3.0)
"""Factors of the last adapters that are measured, too; no run ends there."""
DRAWS = 100
METRICS = ("preference", "gold", "faithful", "diversity", "open_entropy")


def recipe_of(name: str, seed: int, **changes: Any) -> WorldRecipe:
    """A run's recipe: the study's, with adapters in place of full copies, which want ten times the learning rate."""
    method, scale = METHODS[name]
    written = {"method": method, "reward_scale": scale, "seed": seed, "steps": STOPS[-1], "batch": 32}
    adapters = {"roles": "lora", "rank": 8, "lr": 1e-3}
    return WorldRecipe.read(written | adapters | changes)


def halved(name: str, adapters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adapters by the names of the layers, LAYER.lora_A and LAYER.lora_B, in half precision."""
    found = {}
    for key, value in adapters.items():
        layer = key.removeprefix("network.unet.").removesuffix(".default.weight")
        found[f"{name}.{layer}"] = value.detach().to(torch.float16).contiguous()
    return found


def restored(adapters: Mapping[str, Tensor], stop: int, strength: float = 1.0) -> dict[str, Tensor]:
    """Adapters of one stop of a run by the names of a generator's parameters, with B times a strength."""
    prefix = f"{stop}."
    return {
        f"network.unet.{key.removeprefix(prefix)}.default.weight": value.float()
        * (strength if key.endswith("lora_B") else 1)
        for key, value in adapters.items()
        if key.startswith(prefix)
    }


def drawer(
    world: TextToImage, generator: torch.nn.Module, adapters: Mapping[str, Tensor], stop: int, strength: float = 1.0
) -> Draw:
    """Who draws with a generator's adapters replaced by those of a stop."""
    parameters = restored(adapters, stop, strength)

    def generate(z: Tensor, prompt: Prompt) -> Tensor:
        return torch.func.functional_call(generator, parameters, (z, prompt))

    return lambda captions, seeds: world.draw(captions, seeds, generate)


def measured(draw: Draw, judges: Judges) -> dict[str, float]:
    """The means of METRICS, four digits each."""
    found = evaluate(draw, judges, count=DRAWS)
    return {metric: float(f"{getattr(found, metric).double().mean():.4g}") for metric in METRICS}


def train(world: TextToImage, judges: Judges, name: str, seed: int, folder: Path) -> None:
    """One run: folder/NAME-SEED.safetensors with its adapters at every stop, and what was measured beside it."""
    recipe = recipe_of(name, seed)
    state = make_state(recipe, world, judges.preference)
    generator = state.roles.generator
    adapters: dict[str, Tensor] = {}
    found: dict[str, dict[str, float]] = {}
    conditions = conditions_of(recipe, world, training_prompts(recipe))
    for record in post_train(state, recipe.method, conditions, **recipe.loop):
        stop = record.step + 1
        if stop in STOPS:
            adapters |= halved(str(stop), generator.ema)
            found[str(stop)] = measured(drawer(world, generator.module, adapters, stop), judges)
            print(name, seed, stop, found[str(stop)], flush=True)
    last = STOPS[-1]
    strengths = {
        f"{strength:g}": measured(drawer(world, generator.module, adapters, last, strength), judges)
        for strength in STRENGTHS
    }
    print(name, seed, "strengths", strengths, flush=True)
    told = {"recipe": recipe.written, "stops": found, "strengths": strengths}
    save_file(adapters, folder / f"{name}-{seed}.safetensors")
    (folder / f"{name}-{seed}.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8", newline="\n")


def median_seed(runs: Mapping[int, Mapping[str, Any]]) -> int:
    """The seed whose gold preference at the last stop is the median: which run ships, decided before any was made."""
    return sorted(runs, key=lambda seed: runs[seed]["stops"][str(STOPS[-1])]["gold"])[len(runs) // 2]


def ship(folder: Path, shipped: Path, start: Mapping[str, float]) -> None:
    """The median runs, and the numbers of all of them."""
    shipped.mkdir(parents=True, exist_ok=True)
    methods: dict[str, Any] = {}
    for name in METHODS:
        runs = {seed: json.loads((folder / f"{name}-{seed}.json").read_text("utf-8")) for seed in SEEDS}
        seed = median_seed(runs)
        content = (folder / f"{name}-{seed}.safetensors").read_bytes()
        (shipped / f"{name}.safetensors").write_bytes(content)
        methods[name] = {
            "seed": seed,
            "sha256": hashlib.sha256(content).hexdigest(),
            "recipe": runs[seed]["recipe"],
            "strengths": runs[seed]["strengths"],
            "runs": {str(number): run["stops"] for number, run in runs.items()},
        }
    told = {"made_by": "python -m tools.painters FOLDER", "draws": 2 * DRAWS, "start": dict(start), **methods}
    text = json.dumps(told, indent=1) + "\n"
    (shipped / "measured.json").write_text(text, encoding="utf-8", newline="\n")


def main(folder: Path) -> None:
    """Train what is missing, then ship."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    world, judges = load_world(), load_judges()
    for seed in SEEDS:
        for name in METHODS:
            if not (folder / f"{name}-{seed}.json").exists():
                train(world, judges, name, seed, folder)
    ship(folder, SHIPPED, measured(world.draw, judges))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
