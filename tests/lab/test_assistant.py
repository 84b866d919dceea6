"""The study of the assistant: its settings, its facts and picture on made-up rows, and one tiny run."""

import math

import pytest
import torch

from distar_core.lab import STUDIES, values_of
from distar_core.lab.assistant import (
    DEFAULT,
    EXACT,
    GENEROUS,
    KINDS,
    LAVISH,
    STALE,
    Kind,
    error_by_level,
    facts,
    known_state,
    picture,
    probe,
    ring_generator,
)
from distar_core.toy.ring import LEVELS, TOY_METHODS, reference
from distar_core.toy.summary import summarise

STUDY = STUDIES["assistant"]
TINY = {"assistant": DEFAULT, "regularizer": "star", "updates": 2, "rate": 2e-3, "width": 96}


def made_up(cosines=(0.0, 0.9), kl=0.3):
    """Rows of two seeds for three assistants; cosines at the lower and the upper half of the levels."""
    rows = []
    for kind, lower, upper in ((DEFAULT, *cosines), (STALE, 0.0, 0.2), (EXACT, 1.0, 1.0)):
        for name in ("star", "kl-one"):
            for seed in range(2):
                row = {"assistant": kind, "regularizer": name, "seed": float(seed)}
                for k in range(len(LEVELS)):
                    row |= {
                        f"cosine_{k}": (lower if k < 4 else upper) + 0.01 * seed,
                        f"error_{k}": 0.1,
                        f"gap_{k}": 0.2,
                    }
                row |= {"cosine_half": 0.3 + 0.01 * seed, "kl": kl + 0.01 * seed, "modes": 7.0, "reward": 0.5}
                rows.append(row)
    return rows


def test_the_full_profile_has_every_assistant():
    assert values_of(STUDY.settings("full"), "assistant") == list(KINDS)


def test_the_varied_assistants_differ_from_the_default_in_one_thing():
    for name, kind in KINDS.items():
        changed = sum(a != b for a, b in zip(kind[1:], Kind("")[1:], strict=True))
        assert changed == {DEFAULT: 0, GENEROUS: 2, LAVISH: 2}.get(name, 1)


def test_the_facts_follow_the_rows():
    found = facts(made_up())
    assert (found["failing_star"], found["failing_kl_one"]) == (4, 4)
    assert found["error_share_star"] == pytest.approx(0.5)
    assert (found["good_star_default"], found["good_star_stale"], found["good_star_exact"]) == (4, 0, 8)
    assert found["kl_star_default"] == pytest.approx(0.305)
    assert found["cosine_star"] == pytest.approx(0.305)
    assert (found["cosine_lowest_star"], found["cosine_highest_star"]) == pytest.approx((0.005, 0.905))
    other = facts(made_up(cosines=(0.8, 0.9), kl=math.nan))
    assert (other["failing_star"], other["lost_star_default"]) == (0, 2)
    assert "kl_star_default" not in other


def test_runs_that_diverged_are_left_out_and_counted():
    rows = made_up()
    third = [
        row | {"seed": 2.0, "kl": math.inf} | {key: math.nan for key in row if key.startswith("cosine")}
        for row in rows[::2]
    ]
    found = facts(rows + third)
    assert (found["lost_star_default"], found["lost_kl_one_exact"]) == (1, 1)
    assert (found["failing_star"], found["failing_kl_one"]) == (4, 4)
    assert all(math.isfinite(value) for value in found.values())
    assert picture(rows + third)


def test_the_picture_says_what_it_shows():
    drawn = picture(made_up())
    assert [axes.get_title() for axes in drawn.figure.axes] == [
        "score, pseudo-Huber",
        "KL, w = 1",
        "where the score runs end",
    ]
    assert "cosine" in drawn.alt


def test_the_known_generator_starts_close_to_the_reference():
    points = ring_generator().mixture().sample(20_000, torch.Generator().manual_seed(0)).detach()
    found = summarise(points, points[:, 0], reference())
    assert found.kl < 0.02
    assert found.spread == pytest.approx(0.244, abs=0.01)


@pytest.mark.parametrize("name", ["star", "kl-one"])
def test_with_the_exact_score_the_probe_finds_no_difference(name):
    state = known_state(KINDS[EXACT], seed=0, steps=10)
    with torch.no_grad():
        state.roles.generator.module.shifts.add_(0.1)
    one = probe(state, TOY_METHODS[name], 0.7, rows=64)
    assert torch.equal(one.found, one.exact)
    assert one.error == 0.0
    assert one.gap > 0.001
    assert all(parameter.grad is None for parameter in state.roles.generator.module.parameters())


def test_an_assistant_that_still_is_the_reference_sees_nothing_and_errs_by_the_whole_gap():
    state = known_state(KINDS[DEFAULT], seed=0, steps=10)
    with torch.no_grad():
        state.roles.generator.module.shifts.add_(0.1)
    one = probe(state, TOY_METHODS["kl-one"], 0.7, rows=64)
    assert float(one.found.norm()) == 0.0
    assert one.error == pytest.approx(one.gap)


def test_measuring_a_tiny_run_fills_what_picture_and_facts_read():
    rows = [TINY | {"seed": seed, "steps": 4} for seed in (0, 1)]
    rows = [row | STUDY.measure(row) for row in rows]
    assert all(math.isfinite(value) for row in rows for value in row.values() if isinstance(value, float))
    assert facts(rows)
    assert picture(rows)


def test_the_error_on_a_grid_is_that_of_the_probe():
    state = known_state(KINDS[DEFAULT], seed=0, steps=10)
    with torch.no_grad():
        state.roles.generator.module.shifts.mul_(0.9)
        state.roles.assistant.module.network.body.layers[-1].bias.fill_(0.1)
    on_grid = error_by_level(state, draws=100_000)
    assert list(on_grid) == list(LEVELS)
    for sigma in (LEVELS[2], LEVELS[5]):
        sampled = probe(state, TOY_METHODS["kl-one"], sigma, rows=20_000)
        assert on_grid[sigma] == pytest.approx((sampled.error, sampled.gap), rel=0.05)
