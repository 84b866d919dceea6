"""`python -m tools.front_picture REWARD_ONLY STAR`: the README's strip, from two finished runs of `distar train world`.

Three rows of the same captions and noise: the shipped one-step generator, the run with the reward alone, and Diff-Instruct*.
The captions are the first held-out ones of each kind, whatever they look like. For the shipped figure:

    distar train world runs/reward --method reward-only
    distar train world runs/star --method di-star
    python -m tools.front_picture runs/reward runs/star
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from distar_core.figures.picture import Picture, new_panels
from distar_core.sdxl.post_training import load_run
from distar_core.world.judges import load_judges
from distar_core.world.models import load_world
from distar_core.world.recipe import WorldRecipe
from distar_core.world.scenes import both_groups

PLACE = Path("docs") / "front.png"
COLUMNS = 8


def strip(captions: list[str], rows: Mapping[str, Tensor], alt: str) -> Picture:
    """Pictures [COLUMNS, 3, H, W] in rows by name, captions above the first row."""
    titles = [textwrap.fill(caption, 18) for caption in captions] + [""] * (COLUMNS * (len(rows) - 1))
    figure, panels = new_panels(titles, COLUMNS, width=1.1, height=1.15)
    for place, (name, images) in enumerate(rows.items()):
        line = panels[place * COLUMNS : (place + 1) * COLUMNS]
        for axes, image in zip(line, images, strict=True):
            axes.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            axes.title.set_fontsize(7)
        line[0].set_ylabel(name, fontsize=9)
    return Picture(figure, alt)


def main(reward_only: Path, star: Path) -> None:
    """Draw and save the strip."""
    world, judges = load_world(), load_judges()
    draws = both_groups(COLUMNS // 2)
    rows = {"before": world.draw(draws.captions, draws.seeds)}
    for name, folder in (("reward alone", reward_only), ("Diff-Instruct*", star)):
        recipe = WorldRecipe.of_run(folder)
        trained = load_run(recipe, world, getattr(judges, recipe.reward), folder).roles.generator.averaged
        rows[name] = world.draw(draws.captions, draws.seeds, trained)
    alt = (
        f"{COLUMNS} captions, each drawn three times from the same noise: by the one-step generator before post-training, "
        "after training with the reward alone, and after Diff-Instruct*."
    )
    PLACE.parent.mkdir(exist_ok=True)
    strip(list(draws.captions), rows, alt).save(PLACE)
    print(PLACE)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
