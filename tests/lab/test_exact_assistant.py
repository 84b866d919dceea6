"""The study of exact assistants: its settings, what a blind assistant sees, its facts and picture, and tiny runs."""

import math

import pytest
import torch

from distar_core.lab import exact_assistant as study
from distar_core.lab import read_rows
from distar_core.lab.exact_assistant import BLIND, EXACT, FINER, LEARNED, MOMENTS, SCALES, TIMES, WATCHED, BlindBelow
from distar_core.roles import MixtureScore
from distar_core.toy.frontier import at_rest, read_points
from distar_core.toy.ring import SCHEDULE, distilled, reference


def made_up(reward_by_scale=0.3, extra=0.0):
    """Two seeds of every setting; the mean reward grows with the scale from 0.05 below TARGET, and modes fall with it; the
    longer runs differ by `extra`."""
    rows = []
    for setting in study.settings("full"):
        if setting["seed"] > 1:
            continue
        long = setting["steps"] > 2000
        beyond = setting["reward_scale"] - SCALES[setting["regularizer"]][0]
        reward = study.TARGET - 0.05 + reward_by_scale * beyond + 0.01 * setting["seed"] + extra * long
        values = {"reward": reward, "modes": 10 - 5 * reward, "off_support": 0.05, "spread": 0.24, "excess_kl": 0.1}
        way = {f"{what}_{k}": values[what] * k / MOMENTS for k in range(1, MOMENTS) for what in WATCHED}
        rows.append({**setting, "seed": float(setting["seed"]), **way, **values})
    return rows


def test_the_full_profile_has_five_seeds_of_every_arm():
    rows = study.settings("full")
    arms = {tuple(value for key, value in row.items() if key != "seed") for row in rows}
    assert len(rows) == 5 * len(arms)
    assert len(arms) == sum(map(len, SCALES.values())) + len(study.OTHERS) + len(study.LONGER)
    assert {row["steps"] for row in rows} == {2000, 2000 * TIMES}


def test_a_blind_assistant_sees_no_gap_at_low_noise_and_its_own_score_above():
    own, other = (MixtureScore(reference(), SCHEDULE) for _ in range(2))
    shifted = torch.nn.Module()
    shifted.forward = lambda x_t, t, condition: own(x_t, t, condition) + 1
    blind = BlindBelow(shifted, other, SCHEDULE, 0.6)
    x_t, t = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 0.59, 0.61, 2.0])
    gap = blind(x_t, t) - other(x_t, t, None)
    assert torch.allclose(gap, torch.tensor([0.0, 0.0, 1.0, 1.0])[:, None].expand(4, 2), atol=1e-5)


def test_the_facts_are_read_at_equal_reward():
    found = study.facts(made_up())
    for name in SCALES:
        assert found[f"at_target_modes_{name.replace('-', '_')}"] == pytest.approx(10 - 5 * study.TARGET)
        assert found[f"seeds_at_target_modes_{name.replace('-', '_')}"] == 2
    assert found["reward_exact_star_0p83"] == pytest.approx(study.TARGET - 0.05 + 0.005)
    assert found["known_star_0p83"] == pytest.approx(0.662, abs=0.002)
    weak = study.facts(made_up(reward_by_scale=0.01))
    assert not [name for name in weak if name.startswith("at_target")], "no run came near the reward compared"


def test_the_longer_runs_have_facts_of_their_own():
    found = study.facts(made_up(extra=0.1))
    assert found["reward_long_exact_star_0p83"] - found["reward_exact_star_0p83"] == pytest.approx(0.1)


def test_runs_that_were_lost_are_counted_and_left_out():
    rows = made_up()
    first = rows[0]
    lost = {
        key: math.nan if key in ("reward", "modes", "spread", "off_support", "excess_kl") else v
        for key, v in first.items()
    }
    found = study.facts([lost | {"seed": 2.0}, *rows])
    assert found["lost_exact_star_0p83"] == 1
    assert math.isfinite(found["reward_exact_star_0p83"])


def test_the_picture_has_six_panels():
    assert len(study.picture(made_up()).figure.axes) == 6


@pytest.mark.parametrize("assistant", [EXACT, FINER, BLIND, LEARNED])
def test_a_tiny_run_measures_what_the_facts_need(assistant):
    setting = {"assistant": assistant, "regularizer": "star", "reward_scale": 0.83, "seed": 0, "steps": 8}
    found = study.measure(setting)
    assert math.isfinite(found["excess_kl"])
    assert math.isfinite(found[f"reward_{MOMENTS - 1}"])


def test_the_causes_hold_in_the_runs_that_ship():
    """What the titles and texts of the demo's page claim, by the recorded numbers."""
    rows = read_rows("exact-assistant")
    found = study.facts(rows)
    aimed = min(found["known_star_0p83"], found["known_l2_0p66"], found["known_kl_one_1p82"])
    assert max(found["reward_exact_star_0p83_high"], found["reward_exact_l2_0p66_high"]) < aimed - 0.2
    assert found["reward_exact_kl_one_1p82_low"] > aimed - 0.05
    assert found["reward_exact_star_0p83"] < found["reward_learned_star_0p83"] < found["reward_blind_star_0p83"]
    assert found["known_star_0p83"] < found["reward_blind_star_0p83_low"]
    assert abs(found["reward_learned_star_0p83"] - found["known_star_0p83"]) < 0.05
    assert found["off_support_blind_star_0p83_low"] > found["off_support_exact_star_0p83_high"]
    assert found["reward_long_exact_star_0p83_low"] > found["reward_exact_star_0p83_high"]
    assert abs(found["reward_long_exact_kl_one_1p82"] - found["known_kl_one_1p82"]) < 0.005
    lines = [at_rest(read_points(), "mode", name, study.TARGET, "off_support") for name in ("star", "l2", "kl-one")]
    own = [found[f"at_target_off_support_{name}_low"] for name in ("star", "l2", "kl_one")]
    assert min(own) > 2 * max(lines)
    shown = study.causes(rows)
    assert len({cause.file for cause in shown}) == len(shown) == 4


def test_the_kernel_mean_is_wrong_in_rare_places_and_at_low_noise_only():
    error = study.kernel_error(distilled(reference(), steps=300), count=1024, rows=128)
    low, high = min(error), max(error)
    assert error[low][0] > 1.5 * error[low][1], "the root mean square above the median"
    assert error[high][0] < 0.05 * error[low][0]
