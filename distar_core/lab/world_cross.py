"""Reward scale against guidance scale, for Diff-Instruct* with guidance inside, in the miniature world: our Table 3."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from importlib.resources import files

from ..figures.charts import lines
from ..figures.picture import BLUE, ORANGE, RED, Picture, Style
from ..toy.report import markdown_table
from .study import Row, Study, interval_line, values_of, where
from .world import PROFILE_SIZES, along, ends, measure

REWARD_SCALES = (0.0, 0.3)
CFG_SCALES = (0.0, 1.0, 3.0)
STYLES_OF = dict(zip(CFG_SCALES, (Style(RED, "s", ":"), Style(BLUE, "o", "-"), Style(ORANGE, "^", "--")), strict=True))
METRICS = {
    "preference": ("proxy", 2),
    "gold": ("gold", 3),
    "faithful": ("faithful", 3),
    "clip": ("CLIP score", 3),
    "diversity": ("diversity", 3),
    "open_entropy": ("open entropy", 2),
    "saturation": ("saturation", 3),
    "moved": ("moved", 3),
}


def settings(profile: str) -> list[Row]:
    """Reward scale x guidance scale x seed."""
    steps, batch, draws = PROFILE_SIZES[profile]
    rewards, guidances, seeds = {
        "ci": (REWARD_SCALES[1:], CFG_SCALES[1:2], 1),
        "fast": (REWARD_SCALES, CFG_SCALES[:2], 1),
        "full": (REWARD_SCALES, CFG_SCALES, 3),
    }[profile]
    return [
        {
            "method": "diff-instruct*",
            "weight": "",
            "reward_scale": reward,
            "cfg_scale": guidance,
            "seed": seed,
            "steps": steps,
            "batch": batch,
            "draws": draws,
        }
        for seed in range(seeds)
        for guidance in guidances
        for reward in rewards
    ]


def picture(rows: Sequence[Row]) -> Picture:
    """Where the runs end: metrics against the proxy reward, a line from no reward to the reward for each guidance scale."""
    panels = {}
    for metric in ("gold", "faithful", "clip", "open_entropy", "saturation", "diversity"):
        panels[METRICS[metric][0]] = [
            interval_line(
                f"cfg_scale {guidance:g}",
                [along(own, "preference")[-1].mean for own in by_reward],
                [along(own, metric)[-1] for own in by_reward],
                STYLES_OF[guidance],
            )
            for guidance in values_of(rows, "cfg_scale")
            for by_reward in [
                [where(rows, cfg_scale=guidance, reward_scale=scale) for scale in values_of(rows, "reward_scale")]
            ]
        ]
    alt = (
        f"Six panels against the mean proxy reward at the end of {len(rows)} runs: {', '.join(panels)}; one line for each "
        f"guidance scale, from reward_scale {min(values_of(rows, 'reward_scale')):g} to {max(values_of(rows, 'reward_scale')):g}."
    )
    return lines(panels, alt=alt, xlabel="proxy reward", ylabel=[""] * len(panels), markers=True, columns=3)


def sentence(rows: Sequence[Row]) -> str:
    """What the reward adds at each guidance scale, and what guidance does without it."""
    scales = values_of(rows, "reward_scale")
    parts = []
    for guidance in values_of(rows, "cfg_scale"):
        pair = [where(rows, cfg_scale=guidance, reward_scale=scale) for scale in (min(scales), max(scales))]
        told = []
        for metric in ("gold", "clip", "open_entropy", "saturation"):
            name, digits = METRICS[metric]
            told.append(f"{name} from {' to '.join(ends(own, metric, digits) for own in pair)}")
        parts.append(
            f"At cfg_scale {guidance:g} the reward ({min(scales):g} to {max(scales):g}) moves {', '.join(told)}."
        )
    told = []
    for metric in ("faithful", "diversity", "open_entropy", "saturation"):
        name, digits = METRICS[metric]
        course = [
            ends(where(rows, cfg_scale=g, reward_scale=min(scales)), metric, digits)
            for g in values_of(rows, "cfg_scale")
        ]
        told.append(f"{name} {', '.join(course)} (start {rows[0][f'{metric}@0']:.{digits}f})")
    guidances = ", ".join(f"{guidance:g}" for guidance in values_of(rows, "cfg_scale"))
    parts.append(f"Without reward, at cfg_scale {guidances}: {'; '.join(told)}.")
    return " ".join(parts)


def table(rows: Sequence[Row]) -> list[list[str]]:
    """The end of the runs of each pair of scales, mean [smallest, largest seed]."""
    found = [["(reward_scale, cfg_scale)", *(head for head, _ in METRICS.values())]]
    found.append(["start", *(f"{rows[0][f'{metric}@0']:.{digits}f}" for metric, (_, digits) in METRICS.items())])
    for guidance in values_of(rows, "cfg_scale"):
        for scale in values_of(rows, "reward_scale"):
            own = where(rows, cfg_scale=guidance, reward_scale=scale)
            cells = [ends(own, metric, digits) for metric, (_, digits) in METRICS.items()]
            found.append([f"({scale:g}, {guidance:g})", *cells])
    return found


def published() -> list[dict[str, str]]:
    """Table 3 of the DI* release (README of github.com/pkulwj1994/diff_instruct_star): SDXL, Parti prompts, without seeds or intervals."""
    text = (files("distar_core.lab") / "data" / "published_table_3.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def details(rows: Sequence[Row]) -> str:
    """Our cross, and beside it Table 3 of the release with a word on its scales."""
    theirs = published()
    return "\n\n".join(
        [
            "Brackets, here and above, hold the smallest and the largest seed.",
            markdown_table(table(rows)),
            "Beside it, **as published** and not ours: Table 3 of the [DI\\* release](https://github.com/pkulwj1994/diff_instruct_star), "
            "SDXL at 1024 px on Parti prompts; it gives no seeds or intervals.",
            markdown_table([list(theirs[0]), *([*row.values()] for row in theirs)]),
            "The scales are not the same numbers. A reward scale has the unit of 1/reward: theirs multiplies a reward that the release does "
            "not name, presumably PickScore, whose values lie near 0.22, or near 22 with CLIP's logit scale; ours a preference reward near 4.4 "
            "with a deviation of 1.7 over pictures. Their 7.5 may be the additive scale of this page or diffusers' spelling, which "
            "would be 6.5 here. What can be compared is the pattern: what the reward adds at a given guidance, and what guidance does "
            "without reward.",
        ]
    )


STUDY = Study(
    name="world-cross",
    question="Reward scale against guidance scale: what does each add, for Diff-Instruct* with guidance inside?",
    prediction="The start was distilled with cfg_scale 1. Without guidance pictures become more varied and less faithful, and the "
    "reward makes up for part of it; guidance 3 makes them more saturated and less varied; the reward raises gold at every "
    "guidance scale.",
    settings=settings,
    measure=measure,
    picture=picture,
    sentence=sentence,
    details=details,
)
