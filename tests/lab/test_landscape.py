"""The study of reward and guidance: its settings, its facts and picture on made-up rows, one tiny run."""

import math

import pytest
import torch

from distar_core.lab import STUDIES
from distar_core.lab.landscape import PANELS, at_reward, cell, common_reward, fair_picture, table

STUDY = STUDIES["landscape"]


def made_up(label_by_cfg=0.05, reward_by_cfg=-0.1, label_by_reward=-0.1):
    rows = []
    for setting in STUDY.settings("full"):
        r, c, noise = setting["reward_scale"], setting["cfg_scale"], 0.001 * setting["seed"]
        both = bool(r and c)
        rows.append(
            setting
            | {
                "label": 0.8 + label_by_cfg * bool(c) + label_by_reward * bool(r) + noise,
                "reward": 0.2 * r + reward_by_cfg * both + noise,
                "label_left": 0.9 if c else 0.8 - 0.1 * r,
                "spread": 0.7 - 0.02 * r - 0.01 * c + noise,
                "off_support": 0.3 if setting["placement"] == "outside" else 0.01,
                "diverged": 0.0,
            }
        )
    return rows


def counts(rows):
    found = STUDY.facts(rows)
    names = ("reward_by_guidance", "label_by_guidance", "label_by_reward")
    return [(found[f"{name}_raised"], found[f"{name}_lowered"]) for name in names]


def test_the_facts_count_where_they_help_and_where_they_fight():
    assert counts(made_up()) == [(0, 16), (16, 0), (0, 16)]
    assert counts(made_up(label_by_cfg=-0.05, reward_by_cfg=0.1, label_by_reward=0.1)) == [(16, 0), (0, 16), (16, 0)]
    assert counts(made_up(reward_by_cfg=0.0))[0] == (0, 0)


def test_the_facts_have_every_pair_of_scales_and_the_runs_lost():
    rows = made_up()
    found = STUDY.facts(rows)
    assert (found["label_left_4_0"], found["label_left_4_7p5"]) == pytest.approx((0.4, 0.9))
    assert (found["outside_off_support_2_7p5"], found["off_support_2_7p5"]) == pytest.approx((0.3, 0.01))
    assert (found["lost"], found["runs"], found["first_lost"]) == (0, len(rows), math.inf)
    rows[-1]["diverged"] = 1.0
    assert (STUDY.facts(rows)["lost"], STUDY.facts(rows)["first_lost"]) == (1, rows[-1]["reward_scale"])
    assert found["target_0p9"] == pytest.approx(0.9 * common_reward(rows))


def test_pictures_and_tables_are_of_the_runs_with_guidance_inside():
    rows = made_up()
    assert STUDY.picture(rows).png()
    assert fair_picture(rows).png()
    assert table(rows, "reward").shape == (5, 5)
    assert len(cell(rows, 2.0, 2.0, "outside")) == 5
    assert cell(rows, 2.0, 0.0, "outside") == cell(rows, 2.0, 0.0)


def test_values_at_equal_reward_are_interpolated():
    rows = made_up()
    halfway = at_reward(rows, 0.0, 0.302, "spread")
    assert halfway == pytest.approx(0.672, abs=1e-6)
    assert math.isnan(at_reward(rows, 0.0, 5.0, "spread"))


def test_one_tiny_run_returns_the_columns_that_picture_and_facts_use():
    setting = STUDY.settings("ci")[-1] | {"steps": 2}
    found = STUDY.measure(setting)
    assert {*PANELS, "off_support", "diverged", "kl", "modes", "label_left", "reward_left"} <= set(found)
    assert torch.tensor([found[key] for key in PANELS]).isfinite().all()
