"""The studies in the world of pictures: settings, words and figures that follow the numbers, one measured run."""

from __future__ import annotations

import math
from typing import Any

import pytest

from distar_core.lab import world as study
from distar_core.lab import world_cross as cross
from distar_core.lab.study import as_read
from distar_core.methods import METHODS


def course(method: str, weight: str, scale: float, seed: int, proxy: list[float], gold: list[float]) -> dict[str, Any]:
    """A run with given proxy and gold rewards at the seven marks."""
    row: dict[str, Any] = {"method": method, "weight": weight, "reward_scale": scale, "cfg_scale": 1.0, "seed": seed}
    for k, mark in enumerate(study.MARKS):
        values = dict.fromkeys([*study.METRICS, *study.DISTANCES], 0.01 * k)
        values |= {"preference": proxy[k], "gold": gold[k], "faithful": 0.9 - 0.01 * k, "diversity": 0.2 - 0.02 * k}
        row |= {f"{name}@{mark}": value for name, value in values.items()}
    return row | {"pull_reward": 0.5, "pull_regularizer": 1.0, "pull_cfg": 0.0}


RISING = [4.0, 4.2, 4.4, 4.8, 5.2, 5.6, 6.0]
HACKED = [0.5, 0.6, 0.7, 0.6, 0.5, 0.4, 0.3]
SOUND = [0.5, 0.52, 0.54, 0.58, 0.62, 0.66, 0.7]
IDLE = [4.0] * 7


def rows() -> list[dict[str, Any]]:
    found = []
    for seed in range(3):
        found += [
            course("reward-only", "", 1.0, seed, RISING, [g + 0.01 * seed for g in HACKED]),
            course("diff-instruct*", "", 0.3, seed, RISING, SOUND),
            course("sim", "", 0.0, seed, IDLE, SOUND),
        ]
    return found


@pytest.mark.parametrize("module", [study, cross])
def test_settings_are_runs_of_known_methods_and_no_two_are_equal(module: Any) -> None:
    full = module.settings("full")
    assert {row["method"] for row in full} <= METHODS.keys()
    assert {row["seed"] for row in full} == {0, 1, 2}
    assert len({tuple(row.values()) for row in full}) == len(full)
    for profile in ("ci", "fast"):
        assert {tuple(row) for row in module.settings(profile)} == {tuple(full[0])}


def test_the_study_has_every_method_that_the_world_can_train() -> None:
    trained = {row["method"] for row in study.settings("full")}
    assert trained == {"sim", "reward-only", "diff-instruct++", "diff-instruct*", "diff-instruct*-out", "didr-proxy"}


def test_a_metric_at_equal_proxy_is_read_off_between_marks() -> None:
    row = rows()[0]
    assert study.at_proxy(row, 4.3, "gold") == pytest.approx(0.65)
    assert study.at_proxy(row, 4.0, "gold") == pytest.approx(0.5)
    assert math.isnan(study.at_proxy(row, 6.1, "gold"))
    back = course("reward-only", "", 1.0, 0, [4.0, 5.0, 3.0, 5.0, 5.5, 6.0, 6.5], SOUND)
    assert study.at_proxy(back, 3.5, "gold") == 0.5, "the start is beyond it already"
    assert study.at_proxy(back, 4.5, "gold") == pytest.approx(0.51), "the first time, not the second"
    assert study.reached(rows()[:2]) == 6.0


def test_the_sentence_names_who_is_hacked_and_follows_the_numbers() -> None:
    said = study.sentence(rows())
    hacked = "Gold falls again while the proxy goes on rising, in every run, under reward only (from 0.710 at proxy 4.40 to 0.310"
    assert hacked in said
    assert "DI*, guidance inside, scale 0.3 (from" not in said
    assert (
        "first reaches proxy 6.00: DI*, guidance inside, scale 0.3 0.700 [0.700, 0.700]; reward only 0.310 [0.300, 0.320]"
        in said
    )
    assert "SIM (no reward) moves pixels by 0.060 [0.060, 0.060] and changes gold by 0.200" in said
    calm = [row for row in rows() if row["method"] != "reward-only"]
    assert "No method that raises the proxy lets gold fall again" in study.sentence(calm)


def test_matched_arms_stand_beside_each_other_with_the_most_gold_first() -> None:
    rival = [course("diff-instruct++", "x0", 3.0, seed, RISING, HACKED) for seed in range(3)]
    said = study.sentence([*rival, *rows()])
    first = "Arms that end at about one proxy reward: DI*, guidance inside, scale 0.3: proxy 6.00, gold 0.700 [0.700, 0.700]"
    assert first in said
    assert said.index(first) < said.index("DI++, w = σ²/α², scale 3: proxy 6.00, gold 0.300")
    assert "Arms that end" not in study.sentence(rows()), "one arm alone is no comparison"
    slow = [
        course("diff-instruct++", "x0", 3.0, seed, [p - 0.1 * k for k, p in enumerate(RISING)], HACKED)
        for seed in range(3)
    ]
    assert "Arms that end" not in study.sentence([*slow, *rows()]), "they do not end at one proxy reward"


def test_an_arm_that_the_reward_does_not_move_is_named_and_sets_no_target() -> None:
    stuck = [course("didr-proxy", "x0", 0.1, seed, IDLE, SOUND) for seed in range(3)]
    said = study.sentence([*rows(), *stuck])
    assert "first reaches proxy 6.00" in said
    assert "DIDR by proxy, scale 0.1 raises the proxy by less than a tenth of the most" in said


def sorted_by_end(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows by their gold at the end, the least first."""
    return sorted(found, key=lambda row: row["gold@100"])


def test_picture_and_table_hold_every_arm() -> None:
    picture = study.picture(rows())
    assert len([axes for axes in picture.figure.axes if axes.get_visible()]) == 6
    assert [text.get_text() for text in picture.figure.axes[0].texts] == list(study.arms(sorted_by_end(rows())))
    head, start, *arms = study.table(rows())
    assert len({len(line) for line in (head, start, *arms)}) == 1
    assert [line[0] for line in arms] == list(study.arms(rows()))


def test_the_cross_has_its_words_and_the_published_table() -> None:
    crossed = [
        course("diff-instruct*", "", scale, seed, [4.0 + scale] * 7, [0.5 + scale] * 7) | {"cfg_scale": guidance}
        for seed in range(3)
        for guidance in (0.0, 1.0)
        for scale in (0.0, 0.3)
    ]
    assert "At cfg_scale 1 the reward (0 to 0.3) moves gold from 0.500 [0.500, 0.500] to 0.800" in cross.sentence(
        crossed
    )
    assert len(cross.picture(crossed).figure.axes) == 6
    said = cross.details(crossed)
    assert "as published" in said
    assert "| DI*, guidance inside | 100 | 7.5 | 1.067 | 5.74 | 0.2304 | 32.82 |" in said


def test_measure_returns_what_picture_and_words_use() -> None:
    (setting,) = study.settings("ci")
    row = as_read(setting) | {"steps": 12.0}
    found = row | study.measure(row)
    assert found["moved@0"] == 0
    assert found["moved@100"] > 0
    assert found["pull_reward"] > 0
    assert all(
        math.isfinite(found[f"{name}@{mark}"]) for name in (*study.METRICS, *study.DISTANCES) for mark in study.MARKS
    )
    assert study.sentence([found])
    assert study.table([found])
