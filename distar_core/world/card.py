"""What the world's models can do, measured by the oracle: the numbers, the sample sheets and the words of their card."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..evaluation.statistics import Interval, wilson_interval
from ..figures.picture import Picture, image_grid
from ..rewards.base import PictureReward
from ..sdxl.models import TextToImage
from ..templates import fill
from .build import LOW_TIMES, MIDDLE_TIMES, Recipe
from .judges import HELD_OUT, Judges, load_held_out, load_judges, prefers_as_gold, tells_swaps
from .models import GUIDANCE_SCALE, STEPS, load_world
from .oracle import Verdicts, compare, read
from .scenes import (
    DRAWS,
    FIRST_SEED,
    GROUPS,
    PIXELS,
    WORDS,
    Draws,
    both_groups,
    combinations,
    held_out_draws,
    lay_out,
    render,
)

STRONG_GUIDANCE = 3.0
BAR = {"reference": {"one": 0.95, "two": 0.95}, "one step": {"one": 0.85, "two": 0.90}}
SOURCES = {
    "renders": "scenes as rendered (the oracle's own errors)",
    "reconstructions": "the same through the autoencoder",
    "reference": f"reference, {STEPS} steps, guidance scale {GUIDANCE_SCALE:g}",
    "stronger guidance": f"the same, guidance scale {STRONG_GUIDANCE:g}",
    "one step": "one-step generator, before post-training",
}


def pictures_from(world: TextToImage, source: str, draws: Draws) -> Tensor:
    """Pictures [N, 3, 32, 32] of the draws from one of SOURCES."""
    if source in ("reference", "stronger guidance"):
        guidance_scale = GUIDANCE_SCALE if source == "reference" else STRONG_GUIDANCE
        return world.draw_reference(draws.captions, draws.seeds, guidance_scale=guidance_scale)
    if source == "one step":
        return world.draw(draws.captions, draws.seeds)
    pictures = render(lay_out(draws.stated, torch.Generator().manual_seed(0)))
    if source == "renders":
        return pictures
    return world.reconstructed(pictures)


Measured = dict[str, dict[str, dict[str, list[int]]]]


def measure(world: TextToImage, count: int = DRAWS, tell: Callable[[str], None] = lambda _: None) -> Measured:
    """Successes and draws, [k, n], by source, group and attribute: "all" is everything that the caption states."""
    found: Measured = {}
    for source in SOURCES:
        for group in GROUPS:
            draws = held_out_draws(group, count)
            verdicts = compare(read(pictures_from(world, source, draws)), draws.stated)
            shares = {name: [int(getattr(verdicts, name).sum()), count] for name in Verdicts._fields}
            found.setdefault(source, {})[group] = shares
            tell(f"{SOURCES[source]}, {GROUPS[group]}: {percent(wilson_interval(*shares['all']))}")
    return found


def measure_judges(
    world: TextToImage, judges: Judges, held_out: Mapping[str, PictureReward], count: int = DRAWS
) -> dict[str, list[int]]:
    """Successes and draws, [k, n]: CLIP telling captions from swapped ones, and the preference rewards and CLIP agreeing with
    gold."""
    draws = held_out_draws("two", count)
    swaps = tells_swaps(judges.clip, pictures_from(world, "reconstructions", draws), draws.captions)
    found = {"swaps": [int(swaps.sum()), count]}
    for name, judge in {"preference": judges.preference, **held_out, "clip": judges.clip}.items():
        agrees = prefers_as_gold(judge, world, count, seed=1)
        found[name] = [int(agrees.sum()), len(agrees)]
    return found


def below_the_bar(measured: Measured) -> list[str]:
    """Where the lower end of the interval is below the bar; empty if everything holds."""
    lacking = []
    for source, groups in BAR.items():
        for group, bar in groups.items():
            interval = wilson_interval(*measured[source][group]["all"])
            if interval.low < bar:
                lacking.append(f"{source}, {GROUPS[group]}: {percent(interval)}, wanted {bar:.0%}")
    return lacking


def percent(interval: Interval) -> str:
    """A share with its interval in words."""
    return f"{interval.mean:.1%} [{interval.low:.1%}, {interval.high:.1%}]"


def write_card(
    folder: Path,
    recipe: Recipe,
    seconds: dict[str, float],
    *,
    count: int = DRAWS,
    tell: Callable[[str], None] = lambda _: None,
) -> Measured:
    """Measure the weights in a folder and write card.json, README.md and the sample sheets beside them."""
    world = load_world(folder)
    measured = measure(world, count, tell)
    judges = load_judges(folder)
    judged = measure_judges(world, judges, load_held_out(judges.clip, folder), count)
    card = {"recipe": asdict(recipe), "seconds": seconds, "measured": measured, "judges": judged}
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n", "utf-8")
    for source in ("reference", "one step"):
        sheet(world, source).save(folder / f"{source.replace(' ', '_')}.png")
    (folder / "README.md").write_text(words_of(card), "utf-8")
    return measured


def sheet(world: TextToImage, source: str, rows: int = 4, columns: int = 6) -> Picture:
    """Pictures of held-out captions, the first draws of both groups."""
    draws = both_groups(rows * columns // 2)
    pictures = pictures_from(world, source, draws)
    right = compare(read(pictures), draws.stated).all.tolist()
    titles = [caption + ("" if good else " (wrong)") for caption, good in zip(draws.captions, right, strict=True)]
    alt = f"Sample sheet of the {SOURCES[source]}: {len(titles)} pictures of held-out captions, {sum(right)} of them right."
    return image_grid(pictures, titles, columns=columns, alt=alt)


def words_of(card: dict[str, Any]) -> str:
    """The model card, world/card.md.j2 filled with the numbers of card.json."""
    measured, seconds = card["measured"], card["seconds"]
    attributes = [name for name in Verdicts._fields if name != "all"]
    generator = seconds["generator/generator"] + seconds["generator/low_noise"]
    return fill(
        "distar_core.world",
        "card.md.j2",
        recipe=card["recipe"],
        draws=measured["reference"]["one"]["all"][1],
        held_out={group: len(combinations()[f"{group} held out"]) for group in GROUPS},
        by_source={
            words: [
                percent(wilson_interval(*measured[source][group][name]))
                for group, name in (("one", "all"), ("two", "all"), ("two", "relation"))
            ]
            for source, words in SOURCES.items()
        },
        attributes=attributes,
        by_attribute={
            f"{words}, {group_words}": [
                f"{k / n:.1%}" for k, n in (measured[source][group][name] for name in attributes)
            ]
            for source, words in SOURCES.items()
            for group, group_words in GROUPS.items()
        },
        judges={name: percent(wilson_interval(*counts)) for name, counts in card["judges"].items()},
        held_out_judges=HELD_OUT,
        minutes={
            stage: f"{value / 60:.0f}"
            for stage, value in (seconds | {"generator": generator, "all": sum(seconds.values())}).items()
        },
        middle_times=MIDDLE_TIMES.values,
        low_times=LOW_TIMES.values,
        first_seed=FIRST_SEED,
        words=len(WORDS),
        pixels=PIXELS,
    )
