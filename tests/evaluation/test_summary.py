"""What is said about a table, against computations by other routes."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from distar_core.evaluation.harness import table
from distar_core.evaluation.report import p_words, shown, verdict, write_report
from distar_core.evaluation.statistics import Interval, holm, sign_flip_p, wilson_interval
from distar_core.evaluation.summary import sheets, summarise
from tests.evaluation import fakes
from tests.evaluation.test_harness import perform

RNG = np.random.default_rng(0)


def rows_of(scores, *, categories=None):
    """A table from model -> [prompts, seeds] of one scorer called s."""
    return [
        {
            "model": model,
            "set": "mine",
            "place": str(place),
            "replicate": str(replicate),
            "category": "" if categories is None else categories[place],
            "prompt": f"prompt {place}",
            "s": repr(float(value)),
            "s.scorer": "v1",
        }
        for model, values in scores.items()
        for place, row in enumerate(values)
        for replicate, value in enumerate(row)
    ]


def test_means_differences_and_wins_against_numpy():
    first = RNG.normal(size=(60, 3)) + RNG.normal(size=(60, 1))
    second = first + 0.3 + RNG.normal(size=(60, 3))
    second[:10] = first[:10]
    (found,) = summarise(rows_of({"a": first, "b": second}))
    assert (found.models, found.prompts, found.seeds, found.scorers) == (["a", "b"], 60, 3, ["s"])
    assert found.means["a", "s"].mean == pytest.approx(first.mean(), abs=1e-12)
    gap = found.gaps["b", "s"]
    by_prompt = (second - first).mean(1)
    assert gap.difference.mean == pytest.approx(by_prompt.mean(), abs=1e-12)
    # the percentile bootstrap over prompts, by scipy
    ends = stats.bootstrap((by_prompt,), np.mean, method="percentile", n_resamples=9999, rng=1).confidence_interval
    assert gap.difference[1:] == pytest.approx(ends, abs=0.01)
    wins = (by_prompt > 0).sum() + 0.5 * 10
    exact = stats.binomtest(int(wins * 2), 120).proportion_estimate
    assert gap.wins.mean == pytest.approx(exact)
    half = stats.binomtest(int(wins), 60).proportion_ci(method="wilson")
    assert wilson_interval(int(wins), 60)[1:] == pytest.approx((half.low, half.high), abs=1e-6)
    test = stats.permutation_test((by_prompt,), np.mean, permutation_type="samples", n_resamples=9999, rng=1)
    assert gap.p == pytest.approx(test.pvalue, abs=0.01)
    # control: pictures as if they were prompts of their own make the interval of the mean too narrow
    alone = stats.bootstrap((first.ravel(),), np.mean, method="percentile", n_resamples=999, rng=1).confidence_interval
    low, high = found.means["a", "s"][1:]
    assert high - low > 1.2 * (alone.high - alone.low)


def test_p_by_flipping_signs_against_all_flips():
    values = torch.tensor([0.4, -0.1, 0.7, 0.2, 0.0, 0.3, -0.2, 0.5], dtype=torch.float64)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 8)
    exact = float(((signs @ values).abs() >= values.sum().abs() - 1e-6).double().mean())
    assert sign_flip_p(values) == pytest.approx(exact, abs=0.01)
    assert sign_flip_p(torch.zeros(5)) == 1
    assert sign_flip_p(torch.ones(100)) == 1 / 10_001
    with pytest.raises(ValueError, match=r"\(0,\)"):
        sign_flip_p(torch.zeros(0))


def test_a_true_null_is_rejected_as_often_as_the_level_says():
    draws = torch.randn(400, 30, generator=torch.Generator().manual_seed(0))
    rejected = sum(sign_flip_p(row, resamples=400) <= 0.05 for row in draws)
    assert stats.binomtest(rejected, 400, 0.05).pvalue > 0.001
    shifted = sum(sign_flip_p(row + 0.8, resamples=400) <= 0.05 for row in draws[:50])
    assert shifted > 45, "control: a difference is found"


def test_holm_by_hand_and_its_order():
    # Holm 1979: 4 × 0.005, 3 × 0.01, 2 × 0.03, and 0.04 raised to the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_rewards_of_a_model_are_adjusted_together_and_models_apart():
    first = RNG.normal(size=(40, 1))
    rows = rows_of({"a": first, "b": first + 0.1 * RNG.normal(size=(40, 1)), "c": first})
    for row in rows:
        row |= {"t": row["s"], "t.scorer": "v1"}
    (found,) = summarise(rows)
    one = found.gaps["b", "s"]
    assert one.adjusted == min(1, 2 * one.p)
    assert found.gaps["b", "t"].adjusted == one.adjusted
    assert (found.gaps["c", "s"].p, found.gaps["c", "s"].wins.mean) == (1, 0.5)


def test_categories_have_their_own_prompts():
    first, second = RNG.normal(size=(2, 9, 2))
    categories = ["even" if k % 2 == 0 else "odd" for k in range(8)] + ["alone"]
    (found,) = summarise(rows_of({"a": first, "b": second}, categories=categories))
    assert found.categories == {"even": 4, "odd": 4, "alone": 1}
    assert found.category_means["odd", "b", "s"].mean == pytest.approx(second[1:8:2].mean())
    assert found.category_differences["even", "b", "s"].mean == pytest.approx((second - first)[:8:2].mean())
    assert math.isnan(found.category_differences["alone", "b", "s"].low), "one prompt has no interval"
    (plain,) = summarise(rows_of({"a": first}))
    assert (plain.categories, plain.gaps) == ({}, {})


def test_models_without_the_same_pictures_are_not_paired():
    values = RNG.normal(size=(5, 2))
    with pytest.raises(ValueError, match="b and a have not the same pictures of mine"):
        summarise(rows_of({"a": values, "b": values[:4]}))


def test_sheets_have_the_extremes_each_prompt_once():
    first = np.array([[0.0, 9.0], [1.0, 8.5], [5.0, 5.0], [-9.0, 2.0]])
    second = np.array([[0.0, 9.5], [7.0, 8.5], [5.0, 5.5], [-8.0, 2.0]])
    best, worst, changed = sheets(rows_of({"a": first, "b": second}), "mine", "s", 2)
    assert (best.title, best.places) == ("best", [("0", "1"), ("1", "1")])
    assert worst.places == [("3", "0"), ("0", "0")]
    assert (changed.title, changed.places) == ("most changed", [("1", "0"), ("3", "0")])
    assert [sheet.title for sheet in sheets(rows_of({"a": first}), "mine", "s")] == ["best", "worst"]


@pytest.mark.parametrize(
    ("interval", "factor", "sign", "words"),
    [
        (Interval(0.93812, 0.8881, 0.9881), 1, "", "0.938 [0.888, 0.988]"),
        (Interval(0.28123, 0.28012, 0.28234), 100, "", "28.12 [28.01, 28.23]"),
        (Interval(-1.5e-6, -2e-5, 2e-5), 1, "+", "-0.000002 [-0.000020, +0.000020]"),
        (Interval(12.3, 2.0, 22.6), 1, "", "12 [2, 23]"),
        (Interval(0.5, math.nan, math.nan), 1, "+", "+0.5000"),
        (Interval(0.0, 0.0, 0.0), 1, "+", "+0.0000 [+0.0000, +0.0000]"),
    ],
)
def test_numbers_are_shown_with_the_digits_that_their_interval_has(interval, factor, sign, words):
    assert shown(interval, factor, sign) == words


def test_p_values_in_words():
    assert [p_words(p) for p in (1 / 10_001, 0.0023, 0.05, 1.0)] == ["≤ 0.0001", "0.0023", "0.05", "1.00"]


def test_the_report_says_what_the_table_says(tmp_path):
    plan = fakes.plan(prompts=12)
    perform(tmp_path, plan)
    rows = table(tmp_path, plan)
    said = write_report(tmp_path, plan, rows)
    (found,) = summarise(rows)
    assert said == "\n".join(verdict(found))
    page, paper = ((tmp_path / name).read_text("utf-8") for name in ("report.html", "report.md"))
    for document in (page, paper):
        for key, mean in found.means.items():
            assert shown(mean) in document, key
        for gap in found.gaps.values():
            assert shown(gap.difference, 1, "+") in document
        assert "even" in document
        assert plan.sets[0].sha256[:16] in document
        assert "Published" not in document, "nobody has published on this set"
    assert "a &#34;red&#34; cat" in page
    for picture in {row["picture"] for row in rows}:
        assert (tmp_path / picture).is_file()
    assert page.count('class="small" loading') == page.count("<img ") == 2 * 3 * 4 * 2


def test_a_verdict_names_what_is_sure_and_what_is_not():
    first = RNG.normal(size=(80, 1))
    rows = rows_of({"a": first, "b": first + 1})
    for row, value in zip(rows, RNG.normal(size=160), strict=True):
        row |= {"t": repr(-float(row["s"])), "t.scorer": "v", "u": repr(float(value)), "u.scorer": "v"}
    (found,) = summarise(rows)
    assert verdict(found) == ["b against a on mine: higher by s; lower by t; not told apart by u."]
