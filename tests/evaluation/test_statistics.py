"""Intervals against simulated data whose truth is known, and the best of n."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from distar_core.evaluation.statistics import (
    at_equal,
    best_of,
    bootstrap_interval,
    entropy,
    interpolate,
    paired_interval,
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [([1.0, 0.0, 0.0], 0.0), ([0.25] * 4, math.log(4)), ([0.5, 0.25, 0.25], 1.5 * math.log(2))],
)
def test_entropy_by_hand(shares: list[float], expected: float) -> None:
    assert entropy(torch.tensor(shares)) == pytest.approx(expected, rel=1e-6)


# Intervals.


def test_an_interval_is_deterministic_in_its_seed() -> None:
    values = torch.randn(20, generator=rng())
    assert bootstrap_interval(values) == bootstrap_interval(values.clone())
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)
    before = torch.random.get_rng_state()
    interval = bootstrap_interval(values)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert interval.low < interval.mean < interval.high
    assert interval.mean == pytest.approx(float(values.double().mean()))


def test_an_interval_follows_the_standard_error_of_many_values() -> None:
    values = torch.randn(2000, generator=rng()) * 3 + 5
    interval = bootstrap_interval(values)
    error = float(values.std()) / 2000**0.5
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.05)
    narrower = bootstrap_interval(values, level=0.5)
    assert narrower.high - narrower.low == pytest.approx(2 * 0.6745 * error, rel=0.05)


def coverage(count: int, repeats: int, level: float = 0.95) -> float:
    """How often the interval from `count` values holds the mean that they were drawn with; n = repeats, seed 7."""
    values = torch.randn(repeats, count, generator=rng(7), dtype=torch.float64) * 2 + 1
    intervals = [bootstrap_interval(one, level=level, resamples=500, seed=k) for k, one in enumerate(values)]
    return sum(low <= 1 <= high for _, low, high in intervals) / repeats


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    # n = 600 repeats: standard error 0.9 %; the percentile bootstrap of 50 values is itself 1 % short.
    assert coverage(50, 600) == pytest.approx(0.95, abs=0.03)
    # Control: an interval that promises less holds it less often.
    assert coverage(50, 600, level=0.8) == pytest.approx(0.8, abs=0.05)


def test_an_interval_from_few_seeds_is_too_narrow() -> None:
    """A known weakness of the percentile bootstrap, to be kept in mind where five seeds are compared."""
    assert 0.75 < coverage(5, 600) < 0.90


@pytest.mark.parametrize("values", [torch.zeros(0), torch.zeros(1), torch.tensor(1.0), torch.zeros(3, 2)])
def test_an_interval_needs_two_values(values: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"needs at least two values in one axis, got .*; add seeds") as error:
        bootstrap_interval(values)
    assert str(tuple(values.shape)) in str(error.value)


def test_a_paired_interval_is_the_interval_of_the_differences() -> None:
    noise = torch.randn(30, generator=rng())
    first, second = noise + 0.2, noise + 0.01 * torch.randn(30, generator=rng(1))
    paired = paired_interval(first, second)
    assert paired == bootstrap_interval(first - second)
    assert paired.low > 0.19
    # Control: values that do not belong together say much less about the same mean difference.
    unpaired = paired_interval(first, second.roll(7))
    assert unpaired.mean == pytest.approx(paired.mean, abs=1e-6)
    assert unpaired.high - unpaired.low > 20 * (paired.high - paired.low)


def test_paired_values_must_match() -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(3,\) and \(4,\)"):
        paired_interval(torch.zeros(3), torch.zeros(4))
    with pytest.raises(ValueError, match="at least two"):
        paired_interval(torch.zeros(1), torch.zeros(1))


# The best of n.


def test_the_best_of_n_is_the_mean_over_all_choices() -> None:
    proxy, values = torch.randn(3, 6, generator=rng()), torch.randn(3, 6, generator=rng(1))
    for n in range(1, 7):
        chosen = torch.tensor(list(combinations(range(6), n)))
        winners = chosen[torch.arange(len(chosen)), proxy[:, chosen].argmax(-1)]
        expected = values[torch.arange(3)[:, None], winners].mean(1)
        torch.testing.assert_close(best_of(proxy, values, n), expected.double(), rtol=1e-6, atol=1e-7)
    # one of one is the mean, whatever the proxy says; the best of all is the proxy's favourite
    torch.testing.assert_close(best_of(proxy, values, 1), values.double().mean(1))
    torch.testing.assert_close(best_of(proxy, proxy, 6), proxy.double().amax(1))


@pytest.mark.parametrize(("n", "columns"), [(0, 4), (5, 4), (2, 3)])
def test_the_best_of_n_needs_enough_samples(n: int, columns: int) -> None:
    with pytest.raises(ValueError, match="draw more samples per prompt"):
        best_of(torch.zeros(2, 4), torch.zeros(2, columns), n)
    with pytest.raises(ValueError, match="one shape"):
        best_of(torch.zeros(4), torch.zeros(4), 1)


def test_values_of_one_group_are_drawn_again_together() -> None:
    """With g groups of k equal values the interval is that of g values, and √k times as wide as for independent ones."""
    rng = torch.Generator().manual_seed(0)
    one = torch.randn(60, generator=rng, dtype=torch.float64)
    values, groups = one.repeat_interleave(9), torch.arange(60).repeat_interleave(9)
    grouped, plain = bootstrap_interval(values, groups=groups), bootstrap_interval(values)
    assert grouped == pytest.approx(bootstrap_interval(one), abs=1e-12)
    assert (grouped.high - grouped.low) / (plain.high - plain.low) == pytest.approx(3, abs=0.15)
    shuffled = torch.randperm(len(values), generator=rng)
    again = bootstrap_interval(values[shuffled], groups=groups[shuffled])
    assert again == pytest.approx(grouped, abs=1e-12)
    assert paired_interval(values, 0 * values, groups=groups) == grouped
    with pytest.raises(ValueError, match="at least two groups"):
        bootstrap_interval(values, groups=torch.zeros(len(values)))


def test_groups_of_unlike_size_weigh_as_many_values_as_they_have() -> None:
    values, groups = torch.tensor([0.0, 1.0, 1.0, 1.0]), torch.tensor([0, 1, 1, 1])
    assert bootstrap_interval(values, groups=groups) == (0.75, 0.0, 1.0)


def test_interpolation_follows_the_broken_line_and_extrapolates_nothing():
    xs, ys = [0.0, 1.0, 3.0, 4.0], [5.0, 7.0, 1.0, 2.0]
    for x in np.linspace(0, 4, 41):
        assert interpolate(float(x), xs, ys) == pytest.approx(float(np.interp(x, xs, ys)), abs=1e-12)
    assert math.isnan(interpolate(-1e-9, xs, ys))
    assert math.isnan(interpolate(4 + 1e-9, xs, ys))
    assert interpolate(2.0, [2.0], [3.0]) == 3.0, "one point is known at itself"
    assert math.isnan(interpolate(2.0, [], []))


def test_a_line_that_turns_back_is_read_off_the_first_time():
    xs, ys = [0.0, 2.0, 1.0, 3.0], [0.0, 2.0, 10.0, 30.0]
    assert interpolate(1.5, xs, ys) == pytest.approx(1.5)
    assert interpolate(2.5, xs, ys) == pytest.approx(25.0)
    assert interpolate(1.5, xs[::-1], ys[::-1]) == pytest.approx(15.0), "the control: from the other end"


def test_beside_an_unknown_point_nothing_is_known_but_at_its_neighbours():
    xs, ys = [0.0, 1.0, 2.0], [5.0, math.nan, 7.0]
    assert (interpolate(0.0, xs, ys), interpolate(2.0, xs, ys)) == (5.0, 7.0)
    assert all(math.isnan(interpolate(x, xs, ys)) for x in (0.01, 1.0, 1.99))


RUNS = [
    {"seed": 0, "reward": 0.4, "modes": 6.0},
    {"seed": 0, "reward": 0.6, "modes": 4.0},
    {"seed": 1, "reward": 0.45, "modes": 5.0},
    {"seed": 2, "reward": math.nan, "modes": math.nan},
]


def test_a_metric_at_equal_reward_has_one_value_for_each_seed():
    first, second, lost = at_equal(RUNS, "reward", 0.5, "modes")
    assert first == pytest.approx(5.0)
    assert math.isnan(second)
    assert math.isnan(lost)


def test_the_start_is_a_point_of_every_seed_that_counts_only_within_reach():
    start = {"reward": 0.0, "modes": 8.0}
    assert at_equal(RUNS[:3], "reward", 0.4, "modes", start=start) == pytest.approx([6.0, 8 - 3 * 0.4 / 0.45])
    far = at_equal(RUNS[:3], "reward", 0.2, "modes", start=start, reach=0.1)
    assert all(map(math.isnan, far))
    near = at_equal(RUNS[:3], "reward", 0.31, "modes", start=start, reach=0.1)
    assert near[0] == pytest.approx(8 - 2 * 0.31 / 0.4)
    assert math.isnan(near[1]), "0.14 from the nearest run of this seed"
