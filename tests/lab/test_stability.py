"""The study of learning rates: settings, one measured run, and facts that follow the numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest

from distar_core.lab import stability as study
from distar_core.toy.records import REGULARIZERS


def run(name: str, rate: float, seed: float, reward: float = 0.6, diverged: float = 0.0) -> dict[str, Any]:
    return {"regularizer": name, "lr": rate, "seed": seed, "reward": reward, "modes": 5.0, "diverged": diverged}


def test_the_full_profile_has_every_regularizer_at_every_rate():
    full = study.settings("full")
    assert len(full) == len(study.RATES) * len(REGULARIZERS) * 5
    scales = {(row["regularizer"], row["reward_scale"]) for row in full}
    assert len(scales) == len(REGULARIZERS), "one scale a regularizer: their known rewards are equal"


def test_the_facts_follow_the_numbers():
    calm = [run("a", rate, seed, reward=0.6 + 0.05 * seed) for rate in (1e-4, study.DEFAULT_RATE) for seed in range(3)]
    found = study.facts(calm)
    assert (found["runs_a"], found["lost_a"], found["first_lost_a"]) == (6, 0, math.inf)
    assert found["range_a"] == pytest.approx(0.1)
    assert found["range_at_default_a"] == pytest.approx(0.1)
    lost = study.facts([*calm, run("a", 0.1, 0, reward=9.0, diverged=1.0), run("a", 0.1, 1)])
    assert (lost["runs_a"], lost["lost_a"], lost["first_lost_a"]) == (8, 1, 0.1)
    assert lost["range_a"] == pytest.approx(0.1), "a rate with a divergence has no range"
    wild = study.facts([row | {"reward": math.nan, "diverged": 1.0} for row in calm])
    assert (wild["lost_a"], wild["first_lost_a"]) == (6, 1e-4)
    assert math.isnan(wild["range_a"])


def test_the_picture_has_three_panels():
    rows = [run(name, rate, seed) for name in ("a", "b") for rate in (1e-4, 1e-3) for seed in range(2)]
    picture = study.picture(rows)
    assert len(picture.figure.axes) == 3


def test_measure_returns_what_picture_and_facts_use():
    found = study.measure({"regularizer": "kl-one", "reward_scale": 1.0, "lr": 5e-4, "seed": 0.0, "steps": 3.0})
    assert {"reward", "modes", "diverged"} <= set(found)
    assert found["diverged"] == 0
