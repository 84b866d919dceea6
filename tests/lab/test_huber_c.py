"""The study of pseudo-Huber's constant."""

from __future__ import annotations

import math
from typing import Any

import pytest

from distar_core.lab import huber_c as study


def run(reward_name: str, c: float, strength: float, seed: float, **found: float) -> dict[str, Any]:
    keys = {"reward_name": reward_name, "c": c, "strength": strength, "reward_scale": 1.0, "seed": seed}
    return keys | {"reward": 0.6, "modes": 5.0, "spread": 0.24, "kl": 0.6, "diverged": 0.0} | found


def made_up(modes_at_small_c: float, away: float) -> list[dict[str, Any]]:
    bounded = [
        run("mode", c, 0.0, seed, reward=0.61 + 0.01 * seed, modes=modes + 0.1 * seed)
        for c, modes in ((0.005, modes_at_small_c), (5.0, 5.0))
        for seed in range(3)
    ]
    return bounded + [run("linear", c, 0.0, seed, diverged=away) for c in (0.005, 5.0) for seed in range(3)]


def test_every_profile_has_seeds_for_an_interval():
    for profile, seeds in (("ci", 2), ("fast", 2), ("full", 5)):
        assert {row["seed"] for row in study.settings(profile)} == set(range(seeds))


def test_the_facts_follow_the_numbers():
    falling, rising = study.facts(made_up(7.0, 1.0)), study.facts(made_up(3.0, 0.0))
    assert falling["modes_0p005_low"] > falling["modes_5_high"]
    assert rising["modes_0p005_high"] < rising["modes_5_low"]
    assert falling["spread_0p005"] == pytest.approx(falling["spread_5"], abs=0.02)
    assert (falling["lost_0p005_0"], falling["lost_5_0"]) == (1.0, 1.0)
    assert (rising["lost_0p005_0"], rising["lost_5_0"]) == (0.0, 0.0)


def test_the_scales_that_are_held_and_lost_follow_the_numbers():
    def ends(*runs: tuple[float, float]) -> tuple[float, float]:
        found = study.facts(
            [run("linear", 0.5, 0.0, 0.0, diverged=lost) | {"reward_scale": scale} for scale, lost in runs]
        )
        return found["largest_held"], found["smallest_lost"]

    assert ends((0.9, 0.0), (1.8, 1.0)) == (0.9, 1.8)
    assert ends((1.9, 0.0), (1.8, 1.0)) == (1.9, 1.8), "no one scale separates the two"
    assert ends((0.9, 0.0)) == (0.9, math.inf)


def test_the_picture_has_four_panels_and_survives_runs_that_are_lost():
    rows = made_up(7.0, 1.0)
    assert len(study.picture(rows).figure.axes) == 4
    lost = [row | {"modes": math.nan} if row["seed"] == 0 else row for row in rows]
    assert "effective modes" in study.picture(lost).alt
    far = [row | {"reward": 0.35} for row in rows]
    assert len(study.picture(far).png()) > 1000
    assert "modes_5" not in study.facts(far), "no c reached the mean reward compared"


def test_measure_returns_what_picture_and_facts_use():
    keys = {"reward_name": "linear", "c": 5.0, "strength": 0.0, "reward_scale": 0.1, "seed": 0.0, "steps": 2.0}
    found = study.measure(keys)
    assert {"reward", "modes", "spread", "kl", "diverged"} <= set(found)
