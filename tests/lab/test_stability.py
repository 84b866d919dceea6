"""The study of learning rates: settings, one measured run, and words that follow the numbers."""

from __future__ import annotations

import math
from typing import Any

from distar_core.lab import stability as study
from distar_core.toy.report import REGULARIZERS


def run(name: str, rate: float, seed: float, reward: float = 0.6, diverged: float = 0.0) -> dict[str, Any]:
    return {"regularizer": name, "lr": rate, "seed": seed, "reward": reward, "modes": 5.0, "diverged": diverged}


def test_the_full_profile_has_every_regularizer_at_every_rate():
    full = study.settings("full")
    assert len(full) == len(study.RATES) * len(REGULARIZERS) * 5
    scales = {(row["regularizer"], row["reward_scale"]) for row in full}
    assert len(scales) == len(REGULARIZERS), "one scale a regularizer: their known rewards are equal"


def test_the_sentence_follows_the_numbers():
    calm = [run("a", rate, seed, reward=0.6 + 0.05 * seed) for rate in (1e-4, 1e-3) for seed in range(3)]
    assert (
        study.sentence(calm)
        == "a: 0 of 6 runs diverged; elsewhere seeds differ by up to 0.100 in mean reward, at 0.0001."
    )
    lost = [*calm, run("a", 0.1, 0, diverged=1.0), run("a", 0.1, 1)]
    assert "a: 1 of 8 runs diverged (learning rate 0.1); elsewhere" in study.sentence(lost)
    wild = [row | {"reward": math.nan, "diverged": 1.0} for row in calm]
    assert study.sentence(wild) == "a: 6 of 6 runs diverged (learning rate 0.0001, 0.001)."


def test_the_picture_has_three_panels():
    rows = [run(name, rate, seed) for name in ("a", "b") for rate in (1e-4, 1e-3) for seed in range(2)]
    picture = study.picture(rows)
    assert len(picture.figure.axes) == 3


def test_measure_returns_what_picture_and_sentence_use():
    found = study.measure({"regularizer": "KL, w = 1", "reward_scale": 1.0, "lr": 5e-4, "seed": 0.0, "steps": 3.0})
    assert {"reward", "modes", "diverged"} <= set(found)
    assert found["diverged"] == 0
