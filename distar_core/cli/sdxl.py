"""The command that writes models for others to load: distar export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..extras import require
from .runs import resume_command
from .terminal import hint, say


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run of distar train world.")],
    folder: Annotated[Path, typer.Argument(help="Where the pipeline or the LoRA goes.")],
    lora: Annotated[bool, typer.Option("--lora", help="Only the adapters, of a run with roles: lora.")] = False,
) -> None:
    """Write a run's averaged generator as a diffusers pipeline folder, or as LoRA safetensors."""
    require("models")
    from ..runs.folders import claim
    from ..sdxl.export import export_lora, export_pipeline, merged
    from ..sdxl.post_training import load_run
    from ..world.judges import load_judges
    from ..world.models import load_world
    from ..world.recipe import WorldRecipe

    replaced = folder.is_dir() and any(folder.iterdir())
    with hint(FileNotFoundError, lambda: "(distar train world starts one)"):
        recipe = WorldRecipe.of_run(run)
    world = load_world()
    state = load_run(recipe, world, getattr(load_judges(), recipe.reward), run)
    claim(folder, "export")
    state.roles.generator.load_ema()
    unet: Any = state.roles.generator.module.network.unet  # type: ignore[union-attr]
    if lora:
        export_lora(unet, folder)
    else:
        export_pipeline(world.pipeline, merged(unet), folder)
    loading = (
        [
            "from distar_core.world.models import load_world",
            "from distar_core.sdxl.export import load_lora",
            f"pipeline = load_lora(load_world().one_step_pipeline(), {str(folder)!r})",
        ]
        if lora
        else [
            "from diffusers import StableDiffusionXLPipeline",
            f"pipeline = StableDiffusionXLPipeline.from_pretrained({str(folder)!r})",
        ]
    )
    if (state.step or 0) < recipe.steps:
        done = f"{max(state.step or 0, 0)} of {recipe.steps} steps are done"
        say(f"the run is not finished, {done}; continue with: {resume_command('world', run)}")
    say(f"written to {folder}{' in place of the earlier export' if replaced else ''}; load and draw with:")
    for line in [
        *loading,
        'picture = pipeline("a red circle", num_inference_steps=1, timesteps=[399], guidance_scale=0.0).images[0]',
        'picture.resize((256, 256)).save("picture.png")',
    ]:
        say(f"    {line}")
    say("diffusers warns that 399 is not where its schedule begins; it is where this generator draws")
