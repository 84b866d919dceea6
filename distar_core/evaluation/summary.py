"""What a table of scores says: means, paired differences and win rates with their uncertainty. A pure function of the table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .statistics import Interval, bootstrap_interval, holm, paired_interval, sign_flip_p, wilson_interval

Rows = Sequence[Mapping[str, str]]


class Gap(NamedTuple):
    """How a model differs from the first one, under one reward on one set, paired by prompt and seed.

    Attributes:
        difference: mean of model − first, its interval over prompts; nan ends for a single prompt.
        wins: share of prompts where the model's mean over seeds is larger, a tie half, with its Wilson interval.
        p: two-sided, of the mean difference over prompts being 0, by flipping signs; see statistics.sign_flip_p.
        adjusted: p by Holm over the rewards of this model and set.
    """

    difference: Interval
    wins: Interval
    p: float
    adjusted: float


@dataclass(frozen=True)
class SetSummary:
    """One prompt set. Scores are by (model, scorer), and by (category, model, scorer).

    Attributes:
        models: in the table's order; the first is what the others are compared with.
        means: over all pictures, intervals by bootstrap over prompts.
        gaps: of every model but the first.
        categories: their numbers of prompts; empty if there are fewer than two.
        category_means, category_differences: as means and differences, within a category.
    """

    name: str
    prompts: int
    seeds: int
    models: Sequence[str]
    scorers: Sequence[str]
    means: Mapping[tuple[str, str], Interval]
    gaps: Mapping[tuple[str, str], Gap]
    categories: Mapping[str, int]
    category_means: Mapping[tuple[str, str, str], Interval]
    category_differences: Mapping[tuple[str, str, str], Interval]


def scorers_of(rows: Rows) -> list[str]:
    """The scorers of a table, in the order of its columns."""
    return [name for name in rows[0] if f"{name}.scorer" in rows[0]]


def mean_over(values: Tensor, prompts: Tensor) -> Interval:
    """Mean of values [n] with its bootstrap interval over prompts [n]; nan ends where there is one prompt."""
    if len(prompts.unique()) < 2:
        return Interval(float(values.double().mean()), math.nan, math.nan)
    return bootstrap_interval(values, groups=prompts)


def summarise(rows: Rows) -> list[SetSummary]:
    """The sets of a table, as `harness.table` makes it and table.csv holds it.

    Raises:
        ValueError: if a model lacks pictures that another has, so that they are not paired.
    """
    return [_summarise_set(name, [row for row in rows if row["set"] == name]) for name in _unique(rows, "set")]


def _unique(rows: Rows, column: str) -> list[str]:
    return list(dict.fromkeys(row[column] for row in rows))


def _summarise_set(name: str, rows: Rows) -> SetSummary:
    models, scorers = _unique(rows, "model"), scorers_of(rows)
    own = {model: [row for row in rows if row["model"] == model] for model in models}
    places = {model: [(row["place"], row["replicate"]) for row in own[model]] for model in models}
    first = models[0]
    for model in models[1:]:
        if places[model] != places[first]:
            raise ValueError(f"{model} and {first} have not the same pictures of {name}; make the table again")
    prompts = torch.tensor([int(place) for place, _ in places[first]])
    values = {
        (model, scorer): torch.tensor([float(row[scorer]) for row in own[model]], dtype=torch.float64)
        for model in models
        for scorer in scorers
    }
    gaps: dict[tuple[str, str], Gap] = {}
    for model in models[1:]:
        found = [_gap(values[model, scorer], values[first, scorer], prompts) for scorer in scorers]
        for scorer, gap, adjusted in zip(scorers, found, holm([gap.p for gap in found]), strict=True):
            gaps[model, scorer] = gap._replace(adjusted=adjusted)
    categories = _unique(own[first], "category")
    within = {
        category: torch.tensor([row["category"] == category for row in own[first]])
        for category in (categories if len(categories) > 1 else [])
    }
    pairs = [(category, model, scorer) for category in within for model in models for scorer in scorers]
    return SetSummary(
        name=name,
        prompts=len(prompts.unique()),
        seeds=len({replicate for _, replicate in places[first]}),
        models=models,
        scorers=scorers,
        means={key: mean_over(found, prompts) for key, found in values.items()},
        gaps=gaps,
        categories={category: len(prompts[chosen].unique()) for category, chosen in within.items()},
        category_means={
            (category, model, scorer): mean_over(values[model, scorer][within[category]], prompts[within[category]])
            for category, model, scorer in pairs
        },
        category_differences={
            (category, model, scorer): mean_over(
                (values[model, scorer] - values[first, scorer])[within[category]], prompts[within[category]]
            )
            for category, model, scorer in pairs
            if model != first
        },
    )


def _gap(values: Tensor, first: Tensor, prompts: Tensor) -> Gap:
    """Of one model and scorer; p is not adjusted yet."""
    places, counts = prompts.unique(return_inverse=True)[1], torch.bincount(prompts)
    by_prompt = torch.bincount(places, values - first) / counts[counts > 0]
    wins = float((by_prompt > 0).sum() + 0.5 * (by_prompt == 0).sum())
    difference = (
        paired_interval(values, first, groups=prompts)
        if len(by_prompt) > 1
        else Interval(float(by_prompt[0]), math.nan, math.nan)
    )
    p = sign_flip_p(by_prompt)
    return Gap(difference, wilson_interval(wins, len(by_prompt)), p, p)


class Sheet(NamedTuple):
    """Rows of a contact sheet: the pictures of a prompt and seed by every model.

    Attributes:
        title: what these rows are of all.
        places: (place, replicate) as in the table, the first the most so.
    """

    title: str
    places: Sequence[tuple[str, str]]


def sheets(rows: Rows, set_name: str, scorer: str, count: int = 4) -> list[Sheet]:
    """Which pictures of a set to look at under a scorer: those that it likes best and worst, in the mean over models, and with
    several models those that it tells apart most; each prompt once in a sheet.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row["set"] == set_name:
            found.setdefault((row["place"], row["replicate"]), []).append(float(row[scorer]))
    orders = {
        "best": lambda place: -sum(found[place]),
        "worst": lambda place: sum(found[place]),
        "most changed": lambda place: min(found[place]) - max(found[place]),
    }
    if len(next(iter(found.values()))) < 2:
        del orders["most changed"]
    chosen = []
    for title, order in orders.items():
        once: dict[str, tuple[str, str]] = {}
        for place in sorted(found, key=order):
            once.setdefault(place[0], place)
        chosen.append(Sheet(title, list(once.values())[:count]))
    return chosen
