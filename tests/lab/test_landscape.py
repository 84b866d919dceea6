"""The study of reward and guidance: its settings, its words and picture on made-up rows, one tiny run."""

import math

import pytest
import torch

from distar_core.lab import STUDIES
from distar_core.lab.landscape import PANELS, at_reward, cell, fair_picture, matched, table

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


def test_the_sentence_counts_where_they_help_and_where_they_fight():
    text = STUDY.sentence(made_up())
    assert "guidance raises the mean reward in 0 and lowers it in 16" in text
    assert "it raises p(own label) in 16 and lowers it in 0" in text
    assert "the reward raises p(own label) in 0 and lowers it in 16" in text
    assert "30.0% off the data" in text
    assert "reward_scale 4: 0.40 [0.40, 0.40] and 0.90" in text
    assert "No run diverged" in text


def test_the_sentence_changes_its_verdict_with_the_numbers():
    text = STUDY.sentence(made_up(label_by_cfg=-0.05, reward_by_cfg=0.1, label_by_reward=0.1))
    assert "guidance raises the mean reward in 16 and lowers it in 0" in text
    assert "it raises p(own label) in 0 and lowers it in 16" in text
    assert "the reward raises p(own label) in 16 and lowers it in 0" in text
    level = STUDY.sentence(made_up(reward_by_cfg=0.0))
    assert "guidance raises the mean reward in 0 and lowers it in 0" in level
    rows = made_up()
    rows[0]["diverged"] = 1.0
    assert f"1 of {len(rows)} runs diverged" in STUDY.sentence(rows)


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
    assert "cfg_scale 7.5" in matched(rows)


def test_one_tiny_run_returns_the_columns_that_picture_and_sentence_use():
    setting = STUDY.settings("ci")[-1] | {"steps": 2}
    found = STUDY.measure(setting)
    assert {*PANELS, "off_support", "diverged", "kl", "modes", "label_left", "reward_left"} <= set(found)
    assert torch.tensor([found[key] for key in PANELS]).isfinite().all()
