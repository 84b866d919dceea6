"""What the world's models can do, measured by the oracle: the numbers, the sample sheets and the words of their card."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..evaluation.statistics import Interval, wilson_interval
from ..figures.picture import Picture, image_grid
from ..sdxl.models import TextToImage
from .build import LOW_TIMES, MIDDLE_TIMES, Recipe
from .judges import Judges, load_judges, prefers_as_gold, tells_swaps
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


def measure_judges(world: TextToImage, judges: Judges, count: int = DRAWS) -> dict[str, list[int]]:
    """Successes and draws, [k, n]: CLIP telling captions from swapped ones, and the preference reward agreeing with gold."""
    draws = held_out_draws("two", count)
    swaps = tells_swaps(judges.clip, pictures_from(world, "reconstructions", draws), draws.captions)
    found = {"swaps": [int(swaps.sum()), count]}
    for name, judge in (("preference", judges.preference), ("clip", judges.clip)):
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
    judged = measure_judges(world, load_judges(folder), count)
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
    """The model card."""
    measured, recipe = card["measured"], card["recipe"]

    def judged(name: str) -> str:
        return percent(wilson_interval(*card["judges"][name]))

    held_out = {group: len(combinations()[f"{group} held out"]) for group in GROUPS}
    minutes = {stage: value / 60 for stage, value in card["seconds"].items()}
    lines = [
        "# The miniature text-to-image world",
        "",
        "Genuine diffusers and transformers classes with few weights, trained from nothing on rendered scenes of one or two",
        "objects, 32 × 32 pixels. `reference/` is a `StableDiffusionXLPipeline`; `generator/` is a `UNet2DConditionModel` that",
        "draws in one step from unit noise at t = 399, distilled from the reference without pictures. No data of others are in",
        "it; weights are under the MIT licence of the package.",
        "",
        "## What it can do",
        "",
        f"Share of {measured['reference']['one']['all'][1]} draws with held-out captions that have everything the caption states, read by an oracle without",
        "any network, with 95 % Wilson intervals; beside it the relation on its own, whatever colours and shapes are. The",
        f"intervals are for other draws of these {held_out['one']} captions with one object and {held_out['two']} with two; over other captions shares",
        "vary more.",
        "",
        "| | one object | two objects | the relation alone |",
        "|---|---|---|---|",
    ]
    for source, words in SOURCES.items():
        one, two = (measured[source][group] for group in GROUPS)
        cells = [percent(wilson_interval(*shares)) for shares in (one["all"], two["all"], two["relation"])]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    lines += [
        "",
        "The shipped recipe and guidance scale were chosen on draws of the same held-out captions with other seeds (from 0; these",
        f"begin at {FIRST_SEED}).",
        "",
        "| by attribute | " + " | ".join(name for name in Verdicts._fields if name != "all") + " |",
        "|---|" + "---|" * (len(Verdicts._fields) - 1),
    ]
    for source, words in SOURCES.items():
        for group, group_words in GROUPS.items():
            shares = [measured[source][group][name] for name in Verdicts._fields if name != "all"]
            lines.append(f"| {words}, {group_words} | " + " | ".join(f"{k / n:.1%}" for k, n in shares) + " |")
    lines += [
        "",
        "![Sample sheet of the reference: held-out captions with their pictures.](reference.png)",
        "",
        "![Sample sheet of the one-step generator: the same captions, before post-training.](one_step.png)",
        "",
        "## Its judges",
        "",
        "`clip/` is a CLIP trained on the world, for open_clip. On held-out captions with two objects it scores the right",
        f"caption above the one with the objects swapped for {judged('swaps')} of pictures. The gold preference is known: bright",
        "objects, large within their size class, near the middle, and one point less where the picture is not what the caption",
        f"states. `preference.safetensors` is a reward learnt from {recipe['pairs']} noisy comparisons by it (Bradley–Terry); on",
        f"fresh pairs of one-step pictures it prefers what gold prefers in {judged('preference')}, CLIP in {judged('clip')}.",
        "",
        "## How it was made",
        "",
        f"`distar world build`: autoencoder {minutes['vae']:.0f} min "
        f"({recipe['vae_steps']} updates), text encoders and UNet {minutes['reference']:.0f} min "
        f"({recipe['reference_steps']} updates of {recipe['reference_batch']} pictures), one-step generator "
        f"{minutes['generator/generator'] + minutes['generator/low_noise']:.0f} min ({recipe['generator_steps']} updates "
        f"on t from {MIDDLE_TIMES.values[0]} to {MIDDLE_TIMES.values[-1]}, {recipe['low_noise_steps']} on t below "
        f"{LOW_TIMES.values[-1] + 1}), CLIP {minutes['clip']:.0f} min "
        f"({recipe['clip_steps']} updates), preference reward {minutes['preference']:.0f} min; "
        f"{sum(minutes.values()):.0f} minutes of training in all. Storing latents, drawing the comparisons and measuring come on top.",
        "",
        "## What it is not for",
        "",
        f"It knows {len(WORDS)} words and {PIXELS} × {PIXELS} pixels. Captions beyond its grammar give pictures without meaning. What is seen here about",
        "rewards and leashes is a finding about this world, not about SDXL.",
        "",
    ]
    return "\n".join(lines)
