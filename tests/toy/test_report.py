"""From tables to words: every number and verdict comes from the CSV."""

import math
from dataclasses import replace

import pytest

from distar_core.figures.names import label_of
from distar_core.toy import report
from distar_core.toy.frontier import Point, read_points
from distar_core.toy.records import REGULARIZERS, START, Row, read_runs, select
from distar_core.toy.report import STAR
from distar_core.toy.summary import Summary

RIVAL = "kl-one"
BLANK = Row(
    "mode", START, *[math.nan] * 5, Summary(reward=0.3, entropy=2.0, modes=8.0, kl=0.0, off_support=0.03, spread=0.25)
)


def run(regularizer, seed, reward, modes, spread=0.25, off_support=0.05, kl=1.0, aim=0.6):
    summary = Summary(reward, math.log(modes), modes, kl, off_support, spread)
    return Row("mode", regularizer, aim, reward_scale=1.0, seed=float(seed), steps=10.0, seconds=1.0, summary=summary)


def changed(row, **numbers):
    return replace(row, summary=row.summary._replace(**numbers))


ROWS = [
    BLANK,
    *[run(STAR, seed, 0.7, modes=6.0 + 0.1 * seed, spread=0.20, kl=1.0) for seed in range(3)],
    *[run(RIVAL, seed, 0.7, modes=5.0 + 0.1 * seed, spread=0.24, kl=1.05 - 0.05 * seed) for seed in range(3)],
    *[run("kl-x0", seed, 0.5, modes=4.0) for seed in range(3)],
]


def test_metrics_are_read_off_at_the_same_reward_by_interpolation():
    values = report.at_reward(ROWS, "mode", STAR, 0.5, "modes")
    assert values == pytest.approx([7.0, 7.05, 7.1])
    assert report.at_reward(ROWS, "mode", STAR, 0.3, "modes") == pytest.approx([8.0] * 3)
    assert all(math.isnan(value) for value in report.at_reward(ROWS, "mode", STAR, 0.71, "modes"))


def test_a_verdict_needs_every_seed():
    verdicts = {v.metric: v.outcome for v in report.compare(ROWS, "mode", STAR, RIVAL, 0.7)}
    assert verdicts == {"modes": "better", "spread": "worse", "off_support": "undecided", "kl": "undecided"}
    swapped = {v.metric: v.outcome for v in report.compare(ROWS, "mode", RIVAL, STAR, 0.7)}
    assert swapped == {"modes": "worse", "spread": "better", "off_support": "undecided", "kl": "undecided"}
    assert {v.outcome for v in report.compare(ROWS, "mode", STAR, RIVAL, 0.9)} == {"undecided"}
    assert {v.outcome for v in report.compare(ROWS, "mode", STAR, "no such leash", 0.7)} == {"undecided"}


def test_a_value_that_is_not_known_is_undecided_and_said_to_be():
    """No sample in any mode leaves no spread: for one seed, then for all."""
    rows = [changed(row, spread=math.nan) if row.regularizer == STAR and row.seed == 0 else row for row in ROWS]
    verdicts = {v.metric: v.outcome for v in report.compare(rows, "mode", STAR, RIVAL, 0.7)}
    assert verdicts == {"modes": "better", "spread": "undecided", "off_support": "undecided", "kl": "undecided"}
    found = report.outcomes(rows, "mode", RIVAL, 0.7)
    assert found["loses on"] == ""
    assert (
        "spread within the fullest mode (0.20 [0.20, 0.20], not known for 1 of 3 seeds against" in found["undecided on"]
    )
    rows = [changed(row, spread=math.nan) if row.regularizer == STAR else row for row in ROWS]
    head, *body = report.verdict_table(rows)
    (against_rival,) = [dict(zip(head, line, strict=True)) for line in body if "KL, w = 1" in line]
    assert "spread within the fullest mode (not known against 0.24" in against_rival["undecided on"]


def test_one_overlapping_seed_undoes_a_win():
    rows = [*ROWS, run(STAR, 3, 0.7, modes=4.0)]
    assert {v.metric: v.outcome for v in report.compare(rows, "mode", STAR, RIVAL, 0.7)}["modes"] == "undecided"


def test_methods_are_compared_between_runs_that_all_seeds_have():
    wide = [
        *ROWS,
        *[run(name, seed, 0.5 + 0.01 * seed, modes=7.0, aim=0.5) for name in (STAR, RIVAL) for seed in range(3)],
    ]
    assert report.common_targets(wide, "mode", STAR, RIVAL) == [0.52, 0.6]
    # one run a seed encloses a single reward, the distilled generator is no run of theirs
    assert report.common_targets(ROWS, "mode", STAR, RIVAL) == [0.7]
    assert report.common_targets(ROWS, "mode", STAR, "kl-x0") == []
    short = [*wide, run(RIVAL, 3, 0.52, modes=6.0), run(RIVAL, 3, 0.58, modes=6.0)]
    assert report.common_targets(short, "mode", STAR, RIVAL) == [0.52, 0.58]
    assert report.common_targets([r for r in ROWS if r.regularizer != RIVAL], "mode", STAR, RIVAL) == []


def test_sentences_say_what_the_table_says_and_change_with_it():
    text = " ".join(report.sentences(ROWS))
    assert "wins on effective number of modes (6.1 [6.0, 6.2] against 5.1 [5.0, 5.2])" in text
    assert "Diff-Instruct* (score, pseudo-Huber) against KL, w = 1" in text
    assert "loses on spread within the fullest mode" in text
    worse = [changed(row, modes=2.0) if row.regularizer == STAR else row for row in ROWS]
    assert "loses on effective number of modes" in " ".join(report.sentences(worse))
    win, loss = report.one_win_one_loss(ROWS, "mode")
    assert "wins on" in win
    assert "loses on spread" in loss
    assert (
        "loses on no metric"
        in report.one_win_one_loss([row for row in ROWS if row.regularizer in (START, STAR)], "mode")[1]
    )


def point(scale, reward, residual=0.0):
    return Point("mode", STAR, scale, BLANK.summary._replace(reward=reward), residual)


def test_gaps_to_the_truth_are_found_and_the_unknown_is_not_guessed():
    def gaps(*points):
        return report.truth_gaps([row for row in ROWS if row.regularizer == STAR], points)

    assert not gaps(point(0.5, 0.6), point(1.0, 0.7), point(2.0, 0.8))[0].outside
    assert gaps(point(0.5, 0.6), point(1.0, 0.75), point(2.0, 0.8))[0].outside
    assert math.isnan(gaps(point(0.5, 0.6), point(2.0, 0.8, residual=0.5))[0].known)


def test_the_facts_are_those_of_the_functions_for_prose():
    found = report.facts(read_runs(), read_points())
    values = report.at_reward(read_runs(), "mode", STAR, found["target_mode"], "kl")
    assert (found["kl_mode_star_low"], found["kl_mode_star_high"]) == (min(values), max(values))
    head, *body = report.verdict_table(read_runs(), highest_only=True)
    (line,) = [row for row in body if row[0] == "mode" and row[2] == "KL, w = 1"]
    wins = line[head.index("wins on")]
    assert found["better_mode_kl_one"] == sum(metric.words in wins for metric in report.METRICS.values())


def shipped():
    return read_runs()


def test_the_shipped_run_is_the_full_profile():
    rows = shipped()
    assert report.reward_names(rows) == ["mode", "side", "off-data"]
    assert {row.seed for row in rows if not math.isnan(row.seed)} == {0, 1, 2, 3, 4}
    for name in report.reward_names(rows):
        for regularizer in REGULARIZERS:
            assert len(select(rows, name, regularizer)) == 15


def test_the_page_says_where_the_runs_in_its_pictures_ended():
    rows = [*ROWS, run(STAR, 0, 0.4, modes=7.0, aim=0.5), run(STAR, 0, 0.9, modes=2.0, aim=0.8)]
    ends = "0.50 (KL, w = σ²/α²), 0.70 (KL, w = 1), 0.70 (score, pseudo-Huber)"
    assert report.arrivals(rows, "mode") == f"Each regularizer was aimed at mean reward 0.60; the runs ended at {ends}."


def test_a_difference_that_is_not_printed_is_no_win():
    def outcome(first, second):
        pairs = ((STAR, first), (RIVAL, second))
        rows = [BLANK, *(run(name, seed, 0.6, modes + 0.001 * seed) for name, modes in pairs for seed in range(2))]
        return {v.metric: v.outcome for v in report.compare(rows, "mode", STAR, RIVAL, 0.6)}["modes"]

    assert outcome(7.99, 7.98) == "undecided"
    assert outcome(7.99, 7.5) == "better"


def test_the_objectives_are_ranked_where_their_lines_have_the_mean_reward():
    points = [
        Point("mode", name, scale, Summary(reward, 0.0, 5.0, kl * scale, 0.0, 0.2), 0.0)
        for name, kl in (("star", 0.2), ("l2", 0.1), ("kl-one", 0.4))
        for scale, reward in ((1.0, 0.5), (3.0, 0.7))
    ]
    text = report.rest_sentence(points, "mode", 0.6)
    numbers = [text.index(value) for value in ("0.20", "0.40", "0.80")]
    assert numbers == sorted(numbers)
    assert "4.0 times" in text
    assert label_of("kl-x0") in text.split("not known")[1], "it has no fixed points here"
    assert "times" not in report.rest_sentence(points, "mode", 0.9)


def test_a_landing_is_the_largest_distance_from_the_fixed_points():
    points = [
        Point("mode", STAR, scale, Summary(0.5, 0.0, 6.0, 0.1, 0.0, 0.2), residual)
        for scale, residual in ((0.5, 0.0), (1.0, 0.0), (2.0, 1.0))
    ]
    rows = [run(STAR, 0, 0.51, modes=6.0), run(STAR, 1, 0.48, modes=6.3)]
    found = report.landing(rows, points)
    assert found == pytest.approx((2, 0.02, 0.3))
    beyond = [replace(rows[0], reward_scale=1.5), replace(rows[0], reward_name="linear")]
    assert report.landing([*rows, *beyond], points) == found, (
        "where the fixed point is not known there is nothing to say"
    )


def test_networks_are_reported_at_the_middle_aim():
    rows = [
        run(STAR, seed, reward, modes=5.0, aim=aim) for aim, reward in ((0.5, 0.4), (0.7, 0.55)) for seed in range(2)
    ]
    text = report.arrival_sentence(rows, "mode")
    assert "0.70" in text
    assert "0.55" in text
    assert "0.40" not in text
