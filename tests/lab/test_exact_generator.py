"""The study of exact generators: its settings, its facts and picture on made-up rows, and one tiny run."""

import math

import pytest

from distar_core.lab import exact_generator as study
from distar_core.lab.exact_generator import DOTS, FIXED, LEARNED, SHARES, SLOW
from distar_core.toy.maps import dots_of, sample_maps
from distar_core.toy.ring import reference


def made_up(off_by=0.0, seed_off=0.0, slow=0.3):
    """Two seeds at each fixed point, `off_by` from it in mean reward, the second `seed_off` more; and the slow kinds."""
    rows = []
    for point in study.known_points():
        for seed in range(2):
            reward = point.summary.reward + off_by + seed * seed_off
            key = (LEARNED, point.reward_name, point.regularizer, point.reward_scale, seed, 1200)
            rows.append(_row(key, reward, point.summary.modes))
    for kind in (FIXED, DOTS):
        rows += [_row((kind, "mode", "star", SLOW, seed, 1200), slow + 0.01 * seed, 7.0) for seed in range(2)]
    return rows


def _row(key, reward, modes):
    columns = ("generator", "reward_name", "regularizer", "reward_scale", "seed", "steps")
    way = {f"reward_{k}": reward * share for k, share in enumerate(SHARES)}
    return dict(zip(columns, key, strict=True)) | way | {"reward": reward, "modes": modes, "seconds": 2.0}


def test_the_fixed_points_are_those_that_are_trusted_at_five_scales():
    points = study.known_points()
    assert len(points) == 52
    assert all(point.trusted for point in points)
    full = study.settings("full")
    assert sum(row["generator"] == LEARNED for row in full) == 5 * len(points)


def test_a_point_is_met_when_every_seed_is_close():
    found = study.facts(made_up())
    assert (found["met"], found["points"], found["runs"]) == (52, 52, 104)
    assert found["worst_reward"] == pytest.approx(0)
    assert found["core_seconds"] == 2
    one_off = study.facts(made_up(seed_off=0.02))
    assert one_off["met"] == 0
    assert one_off["worst_reward"] == pytest.approx(0.02)
    assert one_off["median_reward"] == pytest.approx(0.01)
    assert one_off["worst_reward_kl_one"] == pytest.approx(0.02)


def test_the_kinds_are_told_apart():
    found = study.facts(made_up(slow=0.4))
    assert found["slow_star_weights_learn"] == pytest.approx(found["slow_known_star"])
    for kind in ("weights_fixed", "256_dots"):
        assert found[f"slow_star_{kind}"] == pytest.approx(0.405)
        assert found[f"way_star_{kind}"] == pytest.approx((0.405 - 0.3285) / (0.4928 - 0.3285), abs=0.01)
    assert found["slow_known_star"] == pytest.approx(0.4928, abs=1e-4)


def test_the_picture_has_a_panel_for_each_reward_and_each_regularizer_compared():
    titles = [axes.get_title() for axes in study.picture(made_up()).figure.axes]
    assert sum(map(bool, titles)) == 3 + 3


def test_a_tiny_run_measures_what_the_facts_need():
    setting = {
        "generator": DOTS,
        "reward_name": "mode",
        "regularizer": "star",
        "reward_scale": SLOW,
        "seed": 0,
        "steps": 4,
    }
    found = study.measure(setting)
    assert math.isfinite(found["reward"])
    assert found["reward_6"] == pytest.approx(found["reward"], abs=0.02)
    assert math.isnan(found["reward_1"]), "there is no step at a thirty-second of four"


def test_dots_are_points_of_the_reference_that_have_no_width():
    dots = dots_of(reference(), 64, seed=1)
    points = sample_maps(dots, 500)
    nearest = (points[:, None] - dots.shifts.detach()).abs().sum(-1).min(1).values
    assert nearest.max() == 0
    assert [name for name, p in dots.named_parameters() if p.requires_grad] == ["shifts"]
