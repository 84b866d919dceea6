"""How far can the generator's learning rate go, and how much do seeds differ, for each regularizer?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ..figures.charts import Axis, lines
from ..figures.picture import Picture
from ..toy.records import REGULARIZERS
from ..toy.ring import TOY_METHODS
from .study import Row, Study, curve, fact, values_of, where
from .toy_runs import matched_scale, train_and_summarise

RATES = (1e-4, 5e-4, 2e-3, 8e-3, 3.2e-2)
DEFAULT_RATE = 5e-4
"""The toy's own."""
REWARD = "mode"


def settings(profile: str) -> list[Row]:
    """Regularizer x learning rate x seed, at the reward scales with equal known reward."""
    rates, seeds, steps = {"ci": (RATES[1:2], 2, 10), "fast": (RATES[1::2], 2, 200), "full": (RATES, 5, 800)}[profile]
    return [
        {
            "regularizer": name,
            "reward_scale": matched_scale(REWARD, name),
            "lr": rate,
            "seed": seed,
            "steps": steps,
        }
        for rate in rates
        for name in REGULARIZERS
        for seed in range(seeds)
    ]


def measure(setting: Row) -> dict[str, float]:
    """The summary of one run."""
    method = replace(TOY_METHODS[setting["regularizer"]], reward_scale=setting["reward_scale"])
    return train_and_summarise(method, REWARD, seed=int(setting["seed"]), steps=int(setting["steps"]), lr=setting["lr"])


def picture(rows: Sequence[Row]) -> Picture:
    """Mean reward, number of modes and share of diverged runs against the learning rate."""
    metrics = {"reward": "mean reward", "modes": "effective modes", "diverged": "share diverged"}
    panels = {
        title: [curve(name, where(rows, regularizer=name), "lr", metric) for name in values_of(rows, "regularizer")]
        for metric, title in metrics.items()
    }
    alt = (
        f"Three panels against the generator's learning rate, {len(values_of(rows, 'seed'))} seeds: mean reward, effective "
        f"number of modes and share of diverged runs, one line per regularizer."
    )
    return lines(
        panels, alt=alt, xlabel=Axis("learning rate of the generator", log=True), ylabel=list(panels), markers=True
    )


def facts(rows: Sequence[Row]) -> dict[str, float]:
    """By regularizer: how many runs diverged, at the lowest of which rates, and by how much seeds differ in mean reward, at
    the toy's own rate and at most at any rate without a divergence."""
    found: dict[str, float] = {}
    for name in values_of(rows, "regularizer"):
        of_name = where(rows, regularizer=name)
        lost = [row["lr"] for row in of_name if row["diverged"]]
        ranges = {
            rate: max(rewards) - min(rewards)
            for rate in values_of(of_name, "lr")
            if rate not in lost and (rewards := [row["reward"] for row in where(of_name, lr=rate)])
        }
        found |= {
            fact("runs", name): len(of_name),
            fact("lost", name): len(lost),
            fact("first_lost", name): min(lost, default=math.inf),
            fact("range", name): max(ranges.values(), default=math.nan),
            fact("range_at_default", name): ranges.get(DEFAULT_RATE, math.nan),
        }
    return found


STUDY = Study(
    name="stability",
    question="How far can the generator's learning rate go, and how much do seeds differ?",
    prediction="Pseudo-Huber's pull is bounded, so it diverges at a higher learning rate than KL with w = σ²/α², whose pull "
    "grows with the deviation; at the default rate all four differ little over seeds.",
    settings=settings,
    measure=measure,
    picture=picture,
    facts=facts,
)
