"""The shipped table of fixed points: made by the code beside it, and inverted correctly."""

import math
from dataclasses import replace
from importlib.resources import files
from itertools import pairwise

import pytest
import torch

from distar_core.toy import ring as toy
from distar_core.toy.frontier import (
    DIVERGENCES,
    GRID,
    SCALES,
    TILT,
    aims,
    compute_point,
    curve,
    known_reward,
    read_points,
    scale_for,
    write_points,
)
from distar_core.toy.records import REGULARIZERS

POINTS = read_points()
REWARDS = ("mode", "side", "off-data")


@pytest.mark.parametrize(
    ("reward_name", "regularizer", "scale"),
    [
        ("mode", TILT, 1.0),
        ("side", TILT, 3.981),
        ("mode", "kl-one", 1.0),
        ("off-data", "kl-x0", 1.0),
        ("mode", "l2", 0.631),
    ],
)
def test_the_table_comes_from_the_code(reward_name, regularizer, scale):
    (shipped,) = [p for p in curve(POINTS, reward_name, regularizer) if p.reward_scale == scale]
    computed = compute_point(reward_name, regularizer, scale)
    for name in ("reward", "modes", "kl", "spread"):
        assert getattr(computed.summary, name) == pytest.approx(getattr(shipped.summary, name), abs=2e-3), name
    # another strength is another point
    other = min(
        (p for p in curve(POINTS, reward_name, regularizer) if p.reward_scale > scale), key=lambda p: p.reward_scale
    )
    assert abs(other.summary.reward - computed.summary.reward) > 5e-3


@pytest.mark.parametrize("reward_name", REWARDS)
def test_tilts_are_the_reference_weighted_with_the_exponential_of_the_reward(reward_name):
    """Every row, by importance weights on the grid; the table prints six digits."""
    density = toy.reference().to(torch.float64).log_density(GRID.points).exp()
    values = toy.REWARDS[reward_name](GRID.points)
    for row in curve(POINTS, reward_name, TILT):
        weights = density * (row.reward_scale * values).exp()
        weights = weights / weights.sum()
        assert row.summary.reward == pytest.approx(float((weights * values).sum()), rel=1e-5)
        nearest = torch.cdist(GRID.points, toy.reference().means.double()).argmin(1)
        shares = torch.zeros(8, dtype=torch.float64).index_add(0, nearest, weights)
        # ties between modes lie on grid lines, so entropy depends on who gets them
        assert row.summary.entropy == pytest.approx(float(-(shares * shares.log()).sum()), abs=2e-3)
        assert row.residual == 0
        # a tilt one percent stronger is told apart
        stronger = density * (1.01 * row.reward_scale * values).exp()
        assert abs(float((stronger * values).sum() / stronger.sum()) / row.summary.reward - 1) > 2e-5


@pytest.mark.parametrize("reward_name", REWARDS)
@pytest.mark.parametrize("regularizer", [TILT, *REGULARIZERS])
def test_every_curve_is_whole_and_its_drawn_points_are_at_rest(reward_name, regularizer):
    along = curve(POINTS, reward_name, regularizer)
    assert {p.reward_scale for p in along} >= set(SCALES)
    trusted = [p for p in along if p.trusted]
    assert len(trusted) >= 10
    # far beyond the aims, where everything sits in a few cells of the grid, the last digits are the solver's
    rewards = [p.summary.reward for p in trusted if p.summary.reward < max(aims(reward_name)) + 0.05]
    assert all(later > earlier - 1e-3 for earlier, later in pairwise(rewards))


def test_there_is_a_solver_for_every_regularizer_of_the_demo():
    assert set(REGULARIZERS) <= set(DIVERGENCES)


@pytest.mark.parametrize("reward_name", REWARDS)
def test_the_scale_for_an_aim_has_a_fixed_point_there(reward_name):
    for regularizer in ("kl-one", "l2"):
        for aim in aims(reward_name):
            scale = scale_for(POINTS, reward_name, regularizer, aim)
            nearest = min(curve(POINTS, reward_name, regularizer), key=lambda p: abs(p.reward_scale - scale))
            assert nearest.summary.reward == pytest.approx(aim, abs=0.01)
            assert known_reward(POINTS, reward_name, regularizer, scale) == pytest.approx(aim, abs=1e-6)


def test_an_aim_off_the_curve_is_refused():
    with pytest.raises(ValueError, match=r"reward 1\.5 is off the curve of 'kl-one' under 'mode'"):
        scale_for(POINTS, "mode", "kl-one", 1.5)
    with pytest.raises(ValueError, match="spans nothing"):
        scale_for(POINTS, "mode", "no such regularizer", 0.5)


def test_what_lies_beside_a_point_that_is_not_at_rest_is_not_known_but_can_be_aimed_at():
    first, second, third = curve(POINTS, "mode", "kl-one")[:3]
    shaken = [first, replace(second, residual=0.06), third]
    assert [point.trusted for point in shaken] == [True, False, True]
    ends = {first.reward_scale: first.summary.reward, third.reward_scale: third.summary.reward}
    for scale, reward in ends.items():
        assert known_reward(shaken, "mode", "kl-one", scale) == reward
    for unknown in (second.reward_scale, 1.01 * first.reward_scale, 0.9 * first.reward_scale, 2 * third.reward_scale):
        assert math.isnan(known_reward(shaken, "mode", "kl-one", unknown))
    assert known_reward([first, second, third], "mode", "kl-one", second.reward_scale) == second.summary.reward
    middle = sum(ends.values()) / 2
    assert scale_for(shaken, "mode", "kl-one", middle) == pytest.approx(
        (first.reward_scale * third.reward_scale) ** 0.5
    )


def test_the_shipped_table_is_written_as_it_is_read(tmp_path):
    shipped = files("distar_core.toy") / "data" / "fixed_points.csv"
    write_points(tmp_path / "points.csv", POINTS)
    assert (tmp_path / "points.csv").read_text("utf-8").splitlines() == shipped.read_text("utf-8").splitlines()


def test_points_survive_writing_and_reading(tmp_path):
    path = tmp_path / "points.csv"
    write_points(path, POINTS[:2])
    write_points(path, POINTS[2:3])
    assert read_points(path) == POINTS[:3]
    assert read_points(path) != [replace(POINTS[0], reward_scale=2.0), *POINTS[1:3]]
