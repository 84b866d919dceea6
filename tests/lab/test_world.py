"""The studies in the world of pictures: settings, facts and figures that follow the numbers, one measured run."""

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
    assert study.at_proxy(back, 3.5, "gold") == pytest.approx(0.535), "where it falls to it, if it started above"
    assert study.at_proxy(back, 4.5, "gold") == pytest.approx(0.51), "the first time, not the second"
    assert study.reached(rows()[:2]) == 6.0


def test_the_facts_name_who_is_hacked_and_follow_the_numbers() -> None:
    found = study.facts(rows())
    assert (found["falls_reward_only"], found["falls_star_0p3"]) == (True, False)
    assert found["common_proxy"] == 6.0
    assert found["at_proxy_star_0p3"] == pytest.approx(0.7)
    assert (found["at_proxy_reward_only_low"], found["at_proxy_reward_only_high"]) == pytest.approx((0.3, 0.32))
    assert (found["moved_sim"], found["gold_change_sim"]) == pytest.approx((0.06, 0.2))
    assert found["start_gold"] == 0.5


def test_an_arm_that_the_reward_does_not_move_is_named_and_sets_no_target() -> None:
    stuck = [course("didr-proxy", "x0", 0.1, seed, IDLE, SOUND) for seed in range(3)]
    found = study.facts([*rows(), *stuck])
    assert found["common_proxy"] == 6.0
    assert (found["gains_didr_proxy_0p1"], found["gains_star_0p3"]) == (False, True)
    assert "at_proxy_didr_proxy_0p1" not in found


def test_an_arm_has_an_id_and_a_label() -> None:
    arms = [study.Arm(method, weight, scale) for method, weight, scales in study.ARMS for scale in scales]
    assert len({arm.id for arm in arms}) == len({arm.label for arm in arms}) == len(arms)
    assert study.Arm("diff-instruct*", "", 0.3).id == "star-0.3"
    assert set().union(*study.MATCHED) <= set(arms)


def test_the_picture_holds_every_arm() -> None:
    picture = study.picture(rows())
    assert len([axes for axes in picture.figure.axes if axes.get_visible()]) == 6
    ended = sorted(study.by_arm(rows()).items(), key=lambda one: study.final(one[1], "gold").mean)
    assert [text.get_text() for text in picture.figure.axes[0].texts] == [arm.label for arm, _ in ended]
    assert [arm.id for arm in study.by_arm(rows())] == ["reward-only", "star-0.3", "sim"]


def test_the_cross_has_its_facts_and_the_published_table() -> None:
    crossed = [
        course("diff-instruct*", "", scale, seed, [4.0 + scale] * 7, [0.5 + scale] * 7) | {"cfg_scale": guidance}
        for seed in range(3)
        for guidance in (0.0, 1.0)
        for scale in (0.0, 0.3)
    ]
    found = cross.facts(crossed)
    assert (found["gold_0_1"], found["gold_0p3_1"]) == pytest.approx((0.5, 0.8))
    assert len(cross.picture(crossed).figure.axes) == 6
    best = cross.published()[-2]
    assert (best["model"], best["image_reward"]) == ("DI*, guidance inside", "1.067")


def test_measure_returns_what_picture_and_facts_use() -> None:
    (setting,) = study.settings("ci")
    row = as_read(setting) | {"steps": 12.0}
    found = row | study.measure(row)
    assert found["moved@0"] == 0
    assert found["moved@100"] > 0
    assert found["pull_reward"] > 0
    assert all(
        math.isfinite(found[f"{name}@{mark}"]) for name in (*study.METRICS, *study.DISTANCES) for mark in study.MARKS
    )
    assert study.facts([found])
