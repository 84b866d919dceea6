"""`python -m tools.count_recipes`: what the recipes for SDXL that come with the package take, for distar doctor --sdxl.

A minute or two of CPU for each; tests/sdxl/test_recipe.py holds what is written to a fresh count.
"""

from __future__ import annotations

import json
from typing import Any

from distar_core.sdxl.ledger import count_step
from distar_core.sdxl.plan import COUNTED, counted_prompts, downloads, model_on_meta, rewards_on_meta
from distar_core.sdxl.recipe import RECIPES, SdxlRecipe

PROMPTS = 2**31
"""As many as need no memory, since they are embedded as they are drawn."""
PROCESSES = {"n-gpus": 8}
"""How many processes a recipe is counted for; one by default."""


def count(name: str) -> dict[str, Any]:
    """What is written of one recipe."""
    recipe = SdxlRecipe.read(RECIPES / f"{name}.yaml")
    model = model_on_meta(recipe, offline=True)
    recipe = recipe.for_model(model)
    processes = PROCESSES.get(name, 1)
    ledger = count_step(
        recipe.replace(batch=recipe.batch // processes),
        model,
        rewards_on_meta(recipe),
        counted_prompts(PROMPTS),
        micro_batch=recipe.micro_batch,
        processes=processes,
    )
    sizes = {one.what: one.gigabytes for one in downloads(recipe, model) if one.what in ("reference", "generator")}
    kept = {key: value for key, value in ledger._asdict().items() if key != "at_peak"}
    return {"processes": processes, "ledger": kept, "gigabytes": sizes}


def main() -> None:
    """Count every recipe and write the file."""
    found = {path.stem: count(path.stem) for path in sorted(RECIPES.glob("*.yaml"))}
    COUNTED.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
