"""Reward scale against guidance scale, for Diff-Instruct* with guidance inside, in the miniature world: our Table 3."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from importlib.resources import files

from ..figures.charts import lines
from ..figures.picture import BLUE, ORANGE, RED, Picture, Style
from .study import Row, Study, fact, facts_of, interval_line, values_of, where
from .world import PROFILE_SIZES, final, measure

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
                [final(own, "preference").mean for own in by_reward],
                [final(own, metric) for own in by_reward],
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


def facts(rows: Sequence[Row]) -> dict[str, float]:
    """The metrics at the start (`start_…`) and at the end by reward scale and guidance scale, mean, smallest and largest
    seed, as in fact("gold", reward_scale, cfg_scale)."""
    found: dict[str, float] = {fact("start", metric): rows[0][f"{metric}@0"] for metric in METRICS}
    for guidance in values_of(rows, "cfg_scale"):
        for scale in values_of(rows, "reward_scale"):
            own = where(rows, cfg_scale=guidance, reward_scale=scale)
            for metric in METRICS:
                found |= facts_of(final(own, metric), metric, scale, guidance)
    return found


def published() -> list[dict[str, str]]:
    """Table 3 of the DI* release (README of github.com/pkulwj1994/diff_instruct_star): SDXL, Parti prompts, without seeds or intervals."""
    text = (files("distar_core.lab") / "data" / "published_table_3.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


STUDY = Study(
    name="world-cross",
    question="Reward scale against guidance scale: what does each add, for Diff-Instruct* with guidance inside?",
    prediction="The start was distilled with cfg_scale 1. Without guidance pictures become more varied and less faithful, and the "
    "reward makes up for part of it; guidance 3 makes them more saturated and less varied; the reward raises gold at every "
    "guidance scale.",
    settings=settings,
    measure=measure,
    picture=picture,
    facts=facts,
)
