"""Does a method whose target is the tilted optimum at every level reach it? DIDR beside Diff-Instruct++ and DI*."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ..errors import NonFiniteError
from ..evaluation.statistics import Interval
from ..figures import charts
from ..figures import picture as figures_picture
from ..figures.charts import Line
from ..figures.picture import Picture, Style
from ..methods import METHODS, Method
from ..mixture import LinearReward
from ..toy.records import START, read_runs, select
from ..toy.ring import REWARDS, SCHEDULE, TOY_METHODS, on_levels, reference, sample
from ..truth.grid import Grid, GridScore
from .matched import found_in
from .study import Row, Study, fact, facts_of, interval_line, over_seeds, values_of, where
from .toy_runs import SAMPLES, UNKNOWN, train

EXACT, PROXY = "didr", "didr-proxy"
ROWS: dict[str, Method] = {name: TOY_METHODS[name] for name in ("kl-x0", "kl-one", "star")} | {
    EXACT: on_levels(METHODS["didr"]),
    PROXY: on_levels(METHODS["didr-proxy"]),
}
SCALES = {"linear": (0.5, 1.0, 2.0), "mode": (0.7, 1.5, 3.0)}
DIDR_GRID = Grid(half_width=4.4, count=101)
STYLES = {EXACT: Style("#5c5c62", "v", ""), PROXY: Style("#964a8b", "P", "")}


def settings(profile: str) -> list[Row]:
    """Reward x method x reward scale x seed."""
    seeds, steps, count = {"ci": (2, 10, 1), "fast": (2, 300, 2), "full": (5, 800, 3)}[profile]
    return [
        {"reward_name": reward, "method": name, "reward_scale": scale, "seed": seed, "steps": steps}
        for reward, scales in SCALES.items()
        for scale in scales[:count]
        for name in ROWS
        for seed in range(seeds)
    ]


def roles_reward(reward_name: str) -> Any:
    """The reward in the form that has a closed-form tilt, where there is one."""
    return LinearReward(torch.tensor([0.5, 0.0])) if reward_name == "linear" else REWARDS[reward_name]


def measure(setting: Row) -> dict[str, float]:
    """The summary of one run, and its excess KL."""
    mixture, reward = reference(), roles_reward(setting["reward_name"])
    method = replace(ROWS[setting["method"]], reward_scale=setting["reward_scale"])
    seed, steps = int(setting["seed"]), int(setting["steps"])
    target = None
    if setting["method"] == EXACT and setting["reward_name"] != "linear":
        target = GridScore(DIDR_GRID.mass(mixture.to(torch.float64).log_density), DIDR_GRID, SCHEDULE)
    try:
        state = train(method, reward, seed=seed, steps=steps, target=target)
    except NonFiniteError:
        return UNKNOWN | {"excess_kl": math.nan}
    return found_in(sample(state, SAMPLES), setting["reward_name"], mixture)


def _line(rows: Sequence[Row], name: str) -> Line:
    scales = values_of(rows, "reward_scale")
    rewards = [over_seeds(where(rows, reward_scale=scale), "reward").mean for scale in scales]
    heights = [over_seeds(where(rows, reward_scale=scale), "excess_kl") for scale in scales]
    style = STYLES[name] if name in STYLES else figures_picture.STYLES[name]._replace(line="")
    return interval_line(name, rewards, heights, style)


def picture(rows: Sequence[Row]) -> Picture:
    """Excess KL against mean reward, one panel per reward, one marker per method and scale."""
    panels = {
        f"reward “{reward}”": [_line(where(rows, reward_name=reward, method=name), name) for name in ROWS]
        for reward in values_of(rows, "reward_name")
    }
    alt = (
        f"KL to the tilted optimum of equal mean reward against mean reward, logarithmic height, one panel per reward, one "
        f"marker per method and strength, with intervals over {len(values_of(rows, 'seed'))} seeds; a thin line at the "
        f"distance of the generator that all runs start from."
    )
    return charts.lines(
        panels,
        alt=alt,
        xlabel="mean reward",
        ylabel=charts.Axis("excess KL (nats)", log=True, guides=(start_kl(),)),
        width=3.6,
    )


def start_kl() -> float:
    """KL to the reference of the distilled generator, blurred, in nats: what the network already gets wrong."""
    return select(read_runs(), "mode", START)[0].summary.kl


def facts(rows: Sequence[Row]) -> dict[str, float]:
    """Excess KL in nats by reward, method and strength (0, 1, …, by rising scale); infinite once a run left the window.
    With `reward_` before, the mean reward at which that is. And `start`, the KL that the generator had before."""
    found = {"start": start_kl()}
    for reward in values_of(rows, "reward_name"):
        for name in values_of(rows, "method"):
            own = where(rows, reward_name=reward, method=name)
            for strength, scale in enumerate(sorted(values_of(own, "reward_scale"))):
                excess = over_seeds(where(own, reward_scale=scale), "excess_kl")
                lost = math.isnan(excess.mean)
                found |= facts_of(Interval(*[math.inf] * 3) if lost else excess, reward, name, strength)
                found[fact("reward", reward, name, strength)] = over_seeds(
                    where(own, reward_scale=scale), "reward"
                ).mean
    return found


STUDY = Study(
    name="didr",
    question="Does a method whose target is the tilted optimum at every level reach it?",
    prediction="DIDR with its exact target ends closest to the tilted optimum at every strength, within 0.1 nats; by proxy it is "
    "in between, because the proxy is exact for one Gaussian only; KL with w = σ²/α² and a reward on clean samples is farthest.",
    settings=settings,
    measure=measure,
    picture=picture,
    facts=facts,
)
