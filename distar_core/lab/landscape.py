"""Reward and guidance together: where do they help each other, and where do they fight?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..errors import NonFiniteError
from ..evaluation.statistics import interpolate
from ..figures.charts import Line, lines
from ..figures.picture import Picture
from ..figures.plane import maps
from ..toy.labels import (
    DIRECTIONS,
    REWARD,
    LabelSummary,
    guided_method,
    labelled_reference,
    labels_for,
    over_labels,
    summarise_labels,
)
from ..toy.ring import LOOP, sample
from .study import Row, Study, curve, fact, facts_of, over_seeds, values_of, where
from .toy_runs import SAMPLES, start_generator, train

REWARD_SCALES = (0.0, 0.5, 1.0, 2.0, 4.0)
CFG_SCALES = (0.0, 1.0, 2.0, 4.0, 7.5)
OUTSIDE = [(reward_scale, cfg_scale) for reward_scale in (0.0, 2.0) for cfg_scale in (2.0, 7.5)]


def settings(profile: str) -> list[Row]:
    """Both scales and seeds with guidance inside, and a few pairs of scales with guidance outside."""
    few = ((0.0, 2.0), (0.0, 2.0), [(2.0, 2.0)])
    reward_scales, cfg_scales, outside, seeds, steps = {
        "ci": (*few, 2, 5),
        "fast": (*few, 2, 300),
        "full": (REWARD_SCALES, CFG_SCALES, OUTSIDE, 5, 800),
    }[profile]
    pairs = [("inside", reward_scale, cfg_scale) for reward_scale in reward_scales for cfg_scale in cfg_scales]
    return [
        {"placement": placement, "reward_scale": reward_scale, "cfg_scale": cfg_scale, "seed": seed, "steps": steps}
        for placement, reward_scale, cfg_scale in pairs + [("outside", *pair) for pair in outside]
        for seed in range(seeds)
    ]


def measure(setting: Row) -> dict[str, float]:
    """The summary of one run, its mean over the labels and p(label | x_0) and reward for each label."""
    mixture = labelled_reference()
    steps = int(setting["steps"])
    condition = labels_for(SAMPLES, mixture)
    try:
        state = train(
            guided_method(setting["placement"], setting["reward_scale"], setting["cfg_scale"]),
            REWARD,
            seed=int(setting["seed"]),
            steps=steps,
            mixture=mixture,
            generator=start_generator(steps, labelled_reference),
            loop=LOOP if steps > 100 else LOOP | {"warmup": 5},
        )
    except NonFiniteError:
        columns = [*LabelSummary._fields, *(f"{key}_{name}" for name in DIRECTIONS for key in ("label", "reward"))]
        return dict.fromkeys(columns, math.nan) | {"diverged": 1.0}
    points = sample(state, SAMPLES, condition=condition)
    by_label = dict(zip(DIRECTIONS, summarise_labels(points, condition, mixture, REWARD), strict=True))
    found = over_labels(list(by_label.values()))._asdict()
    for name, summary in by_label.items():
        found |= {f"label_{name}": summary.label, f"reward_{name}": summary.reward}
    return found | {"diverged": float(not math.isfinite(found["kl"]))}


def cell(rows: Sequence[Row], reward_scale: float, cfg_scale: float, placement: str = "inside") -> list[Row]:
    """The seeds of one pair of scales; at cfg_scale 0 inside and outside are the same."""
    place = placement if cfg_scale else "inside"
    return where(rows, placement=place, reward_scale=reward_scale, cfg_scale=cfg_scale)


def table(rows: Sequence[Row], key: str) -> torch.Tensor:
    """Means over seeds with guidance inside, [reward scales, cfg scales]."""
    inside = where(rows, placement="inside")
    return torch.tensor(
        [
            [over_seeds(cell(rows, reward_scale, cfg_scale), key).mean for cfg_scale in values_of(inside, "cfg_scale")]
            for reward_scale in values_of(inside, "reward_scale")
        ]
    )


PANELS = {"label": "p(own label)", "reward": "mean reward", "spread": "spread within a label"}


def picture(rows: Sequence[Row]) -> Picture:
    """Label accuracy, mean reward and spread over the two scales, guidance inside."""
    inside = where(rows, placement="inside")
    return maps(
        {title: table(rows, key) for key, title in PANELS.items()},
        values_of(inside, "cfg_scale"),
        values_of(inside, "reward_scale"),
        alt="Three maps over cfg_scale (across) and reward_scale (up), Diff-Instruct* with guidance inside, means over "
        f"{len(values_of(inside, 'seed'))} seeds: the probability of the own label, the mean reward, and the spread "
        f"within a label; the values are written into the cells.",
        xlabel="cfg_scale",
        ylabel="reward_scale",
        digits=2,
    )


def fair_picture(rows: Sequence[Row]) -> Picture:
    """Label accuracy and spread against the mean reward that was reached, one line per cfg_scale, guidance inside."""
    inside = where(rows, placement="inside")
    panels: dict[str, list[Line]] = {}
    for key in ("label", "spread"):
        panels[PANELS[key]] = []
        for cfg_scale in values_of(inside, "cfg_scale"):
            of_scale = where(inside, cfg_scale=cfg_scale)
            line = curve(f"cfg_scale {cfg_scale:g}", of_scale, "reward_scale", key)
            reached = curve("", of_scale, "reward_scale", "reward").y
            panels[PANELS[key]].append(line._replace(x=reached))
    alt = (
        "Two panels against the mean reward that was reached, one line for each cfg_scale with a marker for each "
        f"reward_scale, {len(values_of(inside, 'seed'))} seeds: the probability of the own label, and the spread within "
        "a label."
    )
    return lines(panels, alt=alt, xlabel="mean reward", ylabel=list(panels), markers=True)


def _apart(a: list[Row], b: list[Row], key: str) -> int:
    """1 if a column is larger over a's seeds than over b's, −1 if smaller, 0 while their intervals overlap."""
    first, second = over_seeds(a, key), over_seeds(b, key)
    return (first.low > second.high) - (first.high < second.low)


def at_reward(rows: Sequence[Row], cfg_scale: float, reward: float, key: str) -> float:
    """A column's mean at a given mean reward, between two neighbouring reward scales; see `interpolate`."""
    of_scale = where(rows, placement="inside", cfg_scale=cfg_scale)
    scales = sorted(values_of(of_scale, "reward_scale"))
    reached = [over_seeds(where(of_scale, reward_scale=scale), "reward").mean for scale in scales]
    values = [over_seeds(where(of_scale, reward_scale=scale), key).mean for scale in scales]
    return interpolate(reward, reached, values)


def facts(rows: Sequence[Row]) -> dict[str, float]:
    """In how many pairs of scales, guidance inside, each raises or lowers what the other is for (0 while intervals over
    seeds overlap); what came of every pair, inside and outside, as in fact("label", reward_scale, cfg_scale); label and
    spread at equal mean rewards, shares of the largest that all reach; and the runs lost."""
    inside = where(rows, placement="inside")
    rewards = [scale for scale in values_of(inside, "reward_scale") if scale]
    cfgs = [scale for scale in values_of(inside, "cfg_scale") if scale]
    both = [(reward_scale, cfg_scale) for reward_scale in rewards for cfg_scale in cfgs]
    counts = {
        "reward_by_guidance": [_apart(cell(rows, r, c), cell(rows, r, 0.0), "reward") for r, c in both],
        "label_by_guidance": [_apart(cell(rows, r, c), cell(rows, r, 0.0), "label") for r, c in both],
        "label_by_reward": [_apart(cell(rows, r, c), cell(rows, 0.0, c), "label") for r, c in both],
    }
    found: dict[str, float] = {"pairs": len(both), "runs": len(rows)}
    for name, signs in counts.items():
        found |= {f"{name}_raised": signs.count(1), f"{name}_lowered": signs.count(-1)}
    for reward_scale in values_of(inside, "reward_scale"):
        for cfg_scale in values_of(inside, "cfg_scale"):
            own = cell(rows, reward_scale, cfg_scale)
            for key in ("label", "label_left", "reward", "spread", "off_support"):
                found |= facts_of(over_seeds(own, key), key, reward_scale, cfg_scale)
    for reward_scale, cfg_scale in {(row["reward_scale"], row["cfg_scale"]) for row in rows if row not in inside}:
        own = cell(rows, reward_scale, cfg_scale, "outside")
        for key in ("label", "label_left", "reward", "spread", "off_support"):
            found |= facts_of(over_seeds(own, key), "outside", key, reward_scale, cfg_scale)
    lost = [row for row in rows if row["diverged"]]
    found |= {"lost": len(lost), "first_lost": min((row["reward_scale"] for row in lost), default=math.inf)}
    for share in (0.2, 0.9):
        target = share * common_reward(rows)
        found[fact("target", share)] = target
        for cfg_scale in values_of(inside, "cfg_scale"):
            for key in ("label", "spread"):
                found[fact("at", share, key, cfg_scale)] = at_reward(rows, cfg_scale, target, key)
    return found


def common_reward(rows: Sequence[Row]) -> float:
    """The largest mean reward that some reward scale reaches at every cfg_scale, guidance inside."""
    inside = where(rows, placement="inside")
    cfgs, rewards = values_of(inside, "cfg_scale"), values_of(inside, "reward_scale")
    return min(max(over_seeds(cell(rows, r, c), "reward").mean for r in rewards) for c in cfgs)


STUDY = Study(
    name="landscape",
    question="How do reward and guidance act together: where do they help each other, and where do they fight?",
    prediction="Guidance alone raises the probability of the own label and narrows each label; reward alone raises the "
    "reward and, once strong, drives the samples whose label disagrees with it out of their label. Together they fight "
    "there: guidance holds those samples and costs reward. Where the reward picks one of a label's two modes they help "
    "each other a little, since a sharper reference is tilted just as well. Each narrows a label, both together most. "
    "Outside, at the same scale, the guidance acts with full strength beside a leash of bounded strength, so it narrows "
    "more and pushes more samples off the data than inside. (Written after a dozen pilot runs of one seed with guidance "
    "inside, which chose the scales and the width of the modes; none outside.)",
    settings=settings,
    measure=measure,
    picture=picture,
    facts=facts,
)
