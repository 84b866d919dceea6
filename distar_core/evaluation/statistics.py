"""Intervals, entropy, the best of n, and values at an equal quantity: statistics that know no kind of sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

NUMBERS_AT_ONCE = 2**24
"""Of what is drawn at random in one block: 128 MB."""


def entropy(shares: Tensor) -> float:
    """−Σ p log p in nats, [K] -> float."""
    return float(torch.special.entr(shares).sum())


def interpolate(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """The y where the broken line through the points, in their order, first has this x.

    nan where the line never has it, since nothing is extrapolated, and beside a point whose y is nan. For rising xs that
    is linear interpolation; a line that turns back is read off the first time.
    """
    if xs and xs[0] == x:
        return float(ys[0])
    for (x0, y0), (x1, y1) in pairwise(zip(xs, ys, strict=True)):
        if x == x1:
            return float(y1)
        if min(x0, x1) < x < max(x0, x1):
            return float(y0 + (y1 - y0) * (x - x0) / (x1 - x0))
    return math.nan


def at_equal(
    rows: Sequence[Mapping[str, float]],
    by: str,
    target: float,
    metric: str,
    *,
    start: Mapping[str, float] | None = None,
    reach: float = math.inf,
) -> list[float]:
    """A metric where `by` has the value `target`, one for each seed of the rows: linear between the seed's own rows.

    Methods are compared so, at equal mean reward, since reward scales of two methods mean two different things.

    Args:
        rows: runs, each with its "seed"; those whose `by` is not finite are left out.
        start: what every run started from, a point of every seed's line.
        reach: how far the target may lie from the nearer of the two points that it lies between; farther off, and beyond
            the outermost point, the value is nan.
    """
    found = []
    for seed in sorted({row["seed"] for row in rows}):
        own = [row for row in rows if row["seed"] == seed and math.isfinite(row[by])]
        line = sorted([start, *own] if start else own, key=lambda row: row[by])
        xs = [row[by] for row in line]
        known = any(abs(x - target) <= reach for x in xs)
        found.append(interpolate(target, xs, [row[metric] for row in line]) if known else math.nan)
    return found


class Interval(NamedTuple):
    """A mean with the ends of its interval."""

    mean: float
    low: float
    high: float


def bootstrap_interval(
    values: Tensor, *, groups: Tensor | None = None, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of the mean of values [n]; deterministic in seed.

    Args:
        groups: which group each value belongs to, [n]. Values of one group, such as pictures of one caption, are alike, so
            whole groups are drawn again, and the interval says what to expect of other groups.

    Raises:
        ValueError: for fewer than two values or groups, from which no interval follows.
    """
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"an interval needs at least two values in one axis, got {tuple(values.shape)}; add seeds")
    values = values.double()
    members = torch.arange(len(values)) if groups is None else groups.unique(return_inverse=True)[1]
    counts = torch.bincount(members).double()
    if len(counts) < 2:
        raise ValueError("an interval needs at least two groups, got one; add others")
    sums = torch.bincount(members, values)
    rng = torch.Generator().manual_seed(seed)
    means = torch.cat(
        [
            sums[index].sum(1) / counts[index].sum(1)
            for size in _blocks(resamples, len(counts))
            for index in [torch.randint(len(counts), (size, len(counts)), generator=rng)]
        ]
    )
    tail = (1 - level) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(float(values.mean()), low, high)


def _blocks(rows: int, columns: int) -> list[int]:
    """How many of so many rows to draw at once, so that a block of them stays small."""
    block = max(1, NUMBERS_AT_ONCE // columns)
    return [min(block, rows - start) for start in range(0, rows, block)]


def wilson_interval(successes: float, count: int) -> Interval:
    """Share of successes with its 95 % interval (Wilson 1927), which stays in [0, 1] and has width where the share is 1.

    A tie of two counts as half a success.

    Raises:
        ValueError: unless 0 <= successes <= count and count >= 1.
    """
    if not 0 <= successes <= count or count < 1:
        raise ValueError(f"{successes} successes of {count} draws are no share; count the draws again")
    z, share = 1.959964, successes / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return Interval(share, max(middle - reach, 0.0), min(middle + reach, 1.0))


def paired_interval(
    first: Tensor, second: Tensor, *, groups: Tensor | None = None, level: float = 0.95, seed: int = 0
) -> Interval:
    """Bootstrap interval of mean(first − second) for values that belong together by position, [n] each; groups as in
    bootstrap_interval.
    """
    if first.shape != second.shape:
        raise ValueError(f"paired values must have one shape, got {tuple(first.shape)} and {tuple(second.shape)}")
    return bootstrap_interval(first - second, groups=groups, level=level, seed=seed)


def sign_flip_p(differences: Tensor, *, resamples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of the mean of paired differences [n] being 0, by flipping their signs at random.

    If the two of a pair could be exchanged, each sign is as likely as the other (Fisher 1935, section 21). Of `resamples`
    random flips and the data themselves, it is the share whose |mean| is at least the data's, so never 0, and 1 if all
    differences are 0. Deterministic in seed.

    Raises:
        ValueError: for no difference, or more than one axis.
    """
    if differences.ndim != 1 or not len(differences):
        raise ValueError(f"a test needs differences in one axis, got {tuple(differences.shape)}; give one per prompt")
    values = differences.double()
    rng = torch.Generator().manual_seed(seed)
    # sums of the same numbers in another order differ in their last bits, and are ties nevertheless
    bar = float(values.sum().abs()) - 1e-9 * float(values.abs().sum())
    reached = 0
    for size in _blocks(resamples, len(values)):
        signs = torch.randint(2, (size, len(values)), generator=rng, dtype=torch.float64).mul_(2).sub_(1)
        reached += int(((signs @ values).abs() >= bar).sum())
    return (1 + reached) / (1 + resamples)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979), in the order given: rejecting those of at most 5 % keeps the chance of
    any false rejection among them at most 5 %.

    Of m, the k-th smallest is multiplied by m − k + 1; none is less than one before it, or more than 1.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def best_of(proxy: Tensor, values: Tensor, n: int) -> Tensor:
    """Mean value of the one that a proxy likes best among n, over all ways to choose n of N samples; [P, N] each -> [P].

    A row is a prompt. The sample of rank i from below is the best of C(i − 1, n − 1) of the C(N, n) choices.

    Raises:
        ValueError: unless 1 <= n <= N and both have one shape.
    """
    count = proxy.shape[-1] if proxy.ndim else 0
    if proxy.ndim != 2 or proxy.shape != values.shape or not 1 <= n <= count:
        raise ValueError(
            f"the best of {n} needs proxy and values of one shape [P, N] with N >= {n}, got {tuple(proxy.shape)} and "
            f"{tuple(values.shape)}; draw more samples per prompt"
        )
    shares = [math.comb(rank, n - 1) / math.comb(count, n) for rank in range(count)]
    ranked = values.double().gather(1, proxy.argsort(dim=1))
    return ranked @ torch.tensor(shares, dtype=torch.float64)
