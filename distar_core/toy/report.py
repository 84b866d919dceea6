"""From runs.csv to words: comparisons at matched reward, gaps to the known truth, and the page that shows them.

Every number and every verdict on the page and in the demo's section of EXPERIMENTS.md is computed here from the CSV files of a run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ..evaluation.statistics import at_equal
from ..figures.names import label_of
from .frontier import Point, at_rest, known_at, known_reward
from .records import REGULARIZERS, START, Row, select
from .ring import REWARDS, TOY_METHODS

UNLEASHED = "reward-only"
STAR = "star"
TITLE = f"Diff-Instruct* ({label_of(STAR)})"
RIVALS = ("kl-x0", "kl-one")
KNOWN_SPREAD = 0.244


class Metric(NamedTuple):
    """A column to compare: its name in prose, how to print it, and its cost (lower is better)."""

    words: str
    format: str
    cost: str


METRICS = {
    "modes": Metric("effective number of modes", ".1f", "more is better"),
    "spread": Metric("spread within the fullest mode", ".2f", "closer to the reference's 0.244 is better"),
    "off_support": Metric("share off the data", ".1%", "less is better"),
    "kl": Metric("KL to the reference", ".2f", "less is better"),
}


def cost(metric: str, value: float) -> float:
    """A metric's value as a cost: lower is better."""
    if metric == "modes":
        return -value
    return abs(value - KNOWN_SPREAD) if metric == "spread" else value


def at_reward(rows: Sequence[Row], reward_name: str, regularizer: str, target: float, metric: str) -> list[float]:
    """A metric where a regularizer's runs have mean reward `target`: one value for each seed, see `at_equal`.

    The distilled generator is the first point of every seed's curve. A seed whose runs do not reach the target gives
    nan: nothing is extrapolated.
    """
    chosen = [{"seed": row.seed} | row.summary._asdict() for row in select(rows, reward_name, regularizer)]
    start = [row.summary._asdict() for row in select(rows, reward_name, START)]
    return at_equal(chosen, "reward", target, metric, start=start[0] if start else None)


class Verdict(NamedTuple):
    """One metric of one regularizer against another at matched reward; values are by seed, nan where not known."""

    metric: str
    outcome: str
    first: list[float]
    second: list[float]


def compare(rows: Sequence[Row], reward_name: str, first: str, second: str, target: float) -> list[Verdict]:
    """For each metric whether `first` is "better" than `second` in every pair of seeds, "worse", or "undecided": the
    seeds overlap, a value is not known, or no difference is left when both are printed."""
    verdicts = []
    for metric in METRICS:
        a = at_reward(rows, reward_name, first, target, metric)
        b = at_reward(rows, reward_name, second, target, metric)
        pairs = [(cost(metric, one), cost(metric, other)) for one in a for other in b]
        # a comparison with nan is false, so a value that is not known decides nothing
        if shown(metric, a) == shown(metric, b):
            outcome = "undecided"
        elif pairs and all(one < other for one, other in pairs):
            outcome = "better"
        elif pairs and all(one > other for one, other in pairs):
            outcome = "worse"
        else:
            outcome = "undecided"
        verdicts.append(Verdict(metric, outcome, a, b))
    return verdicts


def shown(metric: str, values: Sequence[float]) -> str:
    """Mean and range over seeds, as text, with the number of seeds whose value is not known (nan)."""
    style = METRICS[metric].format if metric in METRICS else ".3f"
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "not known"
    text = f"{sum(known) / len(known):{style}} [{min(known):{style}}, {max(known):{style}}]"
    missing = len(values) - len(known)
    return f"{text}, not known for {missing} of {len(values)} seeds" if missing else text


def reward_names(rows: Iterable[Row]) -> list[str]:
    """The bounded rewards of a run, in order."""
    return [name for name in dict.fromkeys(row.reward_name for row in rows) if REWARDS[name].bounded]


def targets(rows: Iterable[Row], reward_name: str) -> list[float]:
    """The mean rewards that the runs under a reward aimed for."""
    return sorted({row.aim for row in rows if row.reward_name == reward_name and not math.isnan(row.aim)})


def common_targets(rows: Sequence[Row], reward_name: str, *regularizers: str) -> list[float]:
    """The aims between the lowest and the highest run of every seed of these regularizers, so that each value lies
    between two of its own runs; an aim beyond is replaced by the nearest end, in hundredths. Empty if there is none.
    """
    lows, highs = [], []
    for regularizer in regularizers:
        chosen = select(rows, reward_name, regularizer)
        for seed in {row.seed for row in chosen}:
            rewards = [row.summary.reward for row in chosen if row.seed == seed]
            lows.append(min(rewards))
            highs.append(max(rewards))
        if not chosen:
            return []
    low, high = math.ceil(100 * max(lows) - 1e-9) / 100, math.floor(100 * min(highs) + 1e-9) / 100
    if low > high:
        return []
    return sorted({min(max(aim, low), high) for aim in targets(rows, reward_name)})


def rest_sentence(points: Sequence[Point], reward_name: str, target: float) -> str:
    """How far from the reference the regularizers' fixed points lie at one mean reward, by rising KL."""
    kl = {name: at_rest(points, reward_name, name, target, "kl") for name in REGULARIZERS}
    known = sorted((name for name in kl if not math.isnan(kl[name])), key=lambda name: kl[name])
    if not known:
        return f"Reward “{reward_name}”: no fixed point with mean reward {target:.2f} is known."
    listed = ", ".join(f"{kl[name]:.2f} ({label_of(name)})" for name in known)
    times = f"; the last is {kl[known[-1]] / kl[known[0]]:.1f} times the first" if len(known) > 1 else ""
    unknown = [label_of(name) for name in kl if name not in known]
    missing = f"; not known: {', '.join(unknown)}" if unknown else ""
    return (
        f"At the same mean reward, {target:.2f} under the reward “{reward_name}”, the objectives come to rest this far from the "
        f"reference, by KL, according to theory: {listed}{times}{missing}."
    )


def arrival_sentence(rows: Sequence[Row], reward_name: str) -> str:
    """What networks reach, mean over seeds, that aim for the middle of the mean rewards aimed for."""
    aim = middle_aim(rows, reward_name)
    ends = _reached(rows, reward_name, aim)
    return f"Trained at reward scales whose fixed points have mean reward {aim:.2f} under “{reward_name}”, networks reach {ends}."


def _reached(rows: Iterable[Row], reward_name: str, aim: float) -> str:
    """The mean reward of every regularizer's runs with an aim, as text."""
    rows = [row for row in rows if row.aim == aim]
    found = {name: [row.summary.reward for row in select(rows, reward_name, name)] for name in REGULARIZERS}
    return ", ".join(f"{float(np.mean(ends)):.2f} ({label_of(name)})" for name, ends in found.items() if ends)


class Landing(NamedTuple):
    """How far runs end from their fixed points: the number of runs whose fixed point is known, and the largest distances in
    mean reward and in modes."""

    runs: int
    reward: float
    modes: float


def landing(rows: Sequence[Row], points: Sequence[Point]) -> Landing:
    """The distances of all runs under bounded rewards."""
    found: list[tuple[float, float]] = []
    for row in rows:
        if row.regularizer in REGULARIZERS and REWARDS[row.reward_name].bounded:
            at = (row.reward_name, row.regularizer, row.reward_scale)
            away = [abs(getattr(row.summary, m) - known_at(points, *at, m)) for m in ("reward", "modes")]
            if not any(map(math.isnan, away)):
                found.append((away[0], away[1]))
    worst = [max((pair[k] for pair in found), default=math.nan) for k in range(2)]
    return Landing(len(found), worst[0], worst[1])


def landing_sentence(rows: Sequence[Row], points: Sequence[Point]) -> str:
    """Where exact generators end, in words."""
    found = landing(rows, points)
    return (
        f"{found.runs} generators with an exact score end at most {found.reward:.3f} of mean reward and {found.modes:.2f} modes from "
        "the fixed points of theory."
        if found.runs
        else "No exact generator has a fixed point that is known."
    )


def middle_aim(rows: Sequence[Row], reward_name: str) -> float:
    """The middle of the mean rewards that the runs under a reward aimed for."""
    aims = targets(rows, reward_name)
    return aims[len(aims) // 2]


OUTCOMES = {"better": "wins on", "worse": "loses on", "undecided": "undecided on"}


def outcomes(rows: Sequence[Row], reward_name: str, rival: str, target: float) -> dict[str, str]:
    """What Diff-Instruct* wins on, loses on and leaves undecided against a rival at a mean reward, as text."""
    verdicts = compare(rows, reward_name, STAR, rival, target)
    return {
        verb: ", ".join(
            f"{METRICS[v.metric].words} ({shown(v.metric, v.first)} against {shown(v.metric, v.second)})"
            for v in verdicts
            if v.outcome == outcome
        )
        for outcome, verb in OUTCOMES.items()
    }


def sentences(rows: Sequence[Row]) -> list[str]:
    """Who wins where: pseudo-Huber Diff-Instruct* against both KL weights, at matched rewards."""
    lines = []
    for name in reward_names(rows):
        for rival in RIVALS:
            common = common_targets(rows, name, STAR, rival)
            if not common:
                lines.append(
                    f"Reward “{name}”: the runs of {label_of(STAR)} and of {label_of(rival)} enclose no common mean reward, so they "
                    "are not compared."
                )
            for target in common:
                parts = [f"{verb} {text}" for verb, text in outcomes(rows, name, rival, target).items() if text]
                lines.append(f"Reward “{name}” at {target:.2f}, {TITLE} against {label_of(rival)}: {'; '.join(parts)}.")
    return lines


def verdict_table(rows: Sequence[Row], *, highest_only: bool = False) -> list[list[str]]:
    """The verdicts as a table: reward, mean reward, rival, wins, losses, undecided."""
    table = [["reward", "at mean reward", "against", *OUTCOMES.values()]]
    for name in reward_names(rows):
        for rival in RIVALS:
            common = common_targets(rows, name, STAR, rival)
            for target in common[-1:] if highest_only else common:
                cells = [text or "nothing" for text in outcomes(rows, name, rival, target).values()]
                table.append([name, f"{target:.2f}", label_of(rival), *cells])
    return table


def one_win_one_loss(rows: Sequence[Row], reward_name: str) -> list[str]:
    """The clearest win and the clearest loss of Diff-Instruct* against a KL weight under a reward, at any mean reward
    compared."""
    found: dict[str, tuple[float, str]] = {}
    for rival in RIVALS:
        for target in common_targets(rows, reward_name, STAR, rival):
            for v in compare(rows, reward_name, STAR, rival, target):
                verb = {"better": "wins", "worse": "loses"}.get(v.outcome)
                if verb is None:
                    continue
                first, second = (float(np.mean([cost(v.metric, x) for x in xs])) for xs in (v.first, v.second))
                size = abs(first - second) / (abs(first) + abs(second) + 1e-9)
                if size > found.get(verb, (0.0, ""))[0]:
                    numbers = f"{shown(v.metric, v.first)} against {shown(v.metric, v.second)}"
                    where = f"At mean reward {target:.2f} under “{reward_name}”"
                    found[verb] = (
                        size,
                        f"{where} Diff-Instruct* {verb} on {METRICS[v.metric].words} against {label_of(rival)}: {numbers}.",
                    )
    nothing = "At the rewards compared, Diff-Instruct* {} on no metric for every seed."
    return [found[verb][1] if verb in found else nothing.format(verb) for verb in ("wins", "loses")]


class Gap(NamedTuple):
    """A trained mean reward beside its fixed point's at the same reward scale."""

    reward_name: str
    regularizer: str
    reward_scale: float
    trained: list[float]
    known: float
    outside: bool


def truth_gaps(rows: Sequence[Row], points: Sequence[Point]) -> list[Gap]:
    """Trained networks against fixed points: outside means farther from the range over seeds than 0.01.

    known is nan where the table of fixed points does not say.
    """
    gaps = []
    for name in reward_names(rows):
        for regularizer in REGULARIZERS:
            chosen = select(rows, name, regularizer)
            for scale in sorted({row.reward_scale for row in chosen}):
                known = known_reward(points, name, regularizer, scale)
                trained = [row.summary.reward for row in chosen if row.reward_scale == scale]
                outside = known < min(trained) - 0.01 or known > max(trained) + 0.01
                gaps.append(Gap(name, regularizer, scale, trained, known, outside))
    return gaps


def gap_sentence(rows: Sequence[Row], points: Sequence[Point]) -> str:
    """How well training reaches what each method asks for."""
    every = truth_gaps(rows, points)
    gaps = [gap for gap in every if not math.isnan(gap.known)]
    unknown = len(every) - len(gaps)
    outside = sorted((gap for gap in gaps if gap.outside), key=lambda g: -abs(float(np.mean(g.trained)) - g.known))
    text = (
        f"In {len(outside)} of {len(gaps)} settings the fixed point's mean reward lies outside the range over seeds by "
        "more than 0.01"
    )
    if outside:
        text += ", the largest misses first: " + "; ".join(
            f"{label_of(g.regularizer)} under “{g.reward_name}” at scale {g.reward_scale:g}, {shown('', g.trained)} against {g.known:.3f}"
            for g in outside[:4]
        )
    return text + "." + (f" In {unknown} more the fixed point is not known well enough." if unknown else "")


def facts(rows: Sequence[Row], points: Sequence[Point]) -> dict[str, float]:
    """The demo's findings as numbers, by reward (rewards and ids with _ for -).

    `target_…`: the middle of the mean rewards that all regularizers reach; `kl_…`: KL to the reference there by
    regularizer, mean over seeds, with its smallest and largest as `…_low` and `…_high`; at the highest mean reward that
    Diff-Instruct* and a KL row both reach, `better_…`, `worse_…`, `undecided_…`: the number of metrics. `outside`,
    `compared`, `unknown`: settings whose trained mean reward misses the fixed point's, and how many were compared or not
    known; `runaway`: the smallest mean reward of the runaway under the linear reward, at scale 4.
    """
    found: dict[str, float] = {}
    for name in reward_names(rows):
        reward = name.replace("-", "_")
        common = common_targets(rows, name, *REGULARIZERS)
        found[f"target_{reward}"] = common[len(common) // 2]
        for regularizer in REGULARIZERS:
            values = at_reward(rows, name, regularizer, found[f"target_{reward}"], "kl")
            key = f"kl_{reward}_{regularizer.replace('-', '_')}"
            found |= {key: float(np.mean(values)), f"{key}_low": min(values), f"{key}_high": max(values)}
        for rival in RIVALS:
            verdicts = compare(rows, name, STAR, rival, common_targets(rows, name, STAR, rival)[-1])
            for outcome in OUTCOMES:
                key = f"{outcome}_{reward}_{rival.replace('-', '_')}"
                found[key] = sum(verdict.outcome == outcome for verdict in verdicts)
    gaps = truth_gaps(rows, points)
    known = [gap for gap in gaps if not math.isnan(gap.known)]
    found |= {"outside": sum(gap.outside for gap in known), "compared": len(known), "unknown": len(gaps) - len(known)}
    found["runaway"] = min(row.summary.reward for row in select(rows, "linear", STAR) if row.reward_scale == 4)
    return found


def method_table() -> list[list[str]]:
    """What each regularizer of the demo is: loss, unit, weight, distance, laws."""
    table = [["in the demo", "loss", "unit of the gap", "distance", "weight w", "sampling law", "noise levels"]]
    for name, method in TOY_METHODS.items():
        if method.regularizer is None:
            table.append([label_of(name), "none", "–", "–", "–", "–", "–"])
            continue
        table.append(
            [
                label_of(name),
                method.regularizer.__name__,
                method.unit or "score",
                repr(method.distance) if method.distance else "–",
                {"weight_x0": "σ²/α²", "weight_one": "1"}[method.weight.__name__],
                {None: "differentiated (exact)", "frozen": "frozen"}[method.law],
                f"{len(method.time_law.values)} from {method.time_law.values[0]:g} to {method.time_law.values[-1]:g}",
            ]
        )
    return table


def result_table(
    rows: Sequence[Row], reward_name: str, *, compact: bool = False, ranges: bool = True
) -> list[list[str]]:
    """Mean over seeds of every setting under a reward, with the range unless told otherwise; compact leaves out the ranges, and
    has short heads."""

    def cell(metric: str, values: list[float]) -> str:
        return shown(metric, values) if ranges and not compact else shown(metric, values).split(" [")[0]

    heads = list(METRICS) if compact else [metric.words for metric in METRICS.values()]
    table = [["regularizer", "reward scale", "mean reward", *(head.replace("_", " ") for head in heads)]]
    for row in select(rows, reward_name, START):
        cells = [format(getattr(row.summary, metric), METRICS[metric].format) for metric in METRICS]
        table.append([label_of(START), "–", f"{row.summary.reward:.3f}", *cells])
    for regularizer in TOY_METHODS:
        chosen = select(rows, reward_name, regularizer)
        for scale in sorted({row.reward_scale for row in chosen}):
            seeds = [row.summary for row in chosen if row.reward_scale == scale]
            cells = [cell(metric, [getattr(seed, metric) for seed in seeds]) for metric in ("reward", *METRICS)]
            table.append([label_of(regularizer), "any" if regularizer == UNLEASHED else f"{scale:g}", *cells])
    return table


def unbounded_sentence(rows: Sequence[Row]) -> str:
    """What an unbounded reward does to a bounded and to an unbounded pull."""
    parts = []
    for regularizer, scale in dict.fromkeys((r.regularizer, r.reward_scale) for r in rows if r.reward_name == "linear"):
        if regularizer != START:
            rewards = [row.summary.reward for row in select(rows, "linear", regularizer) if row.reward_scale == scale]
            away = f"runs away (mean reward above {min(rewards):.0f} when the run ends)"
            rest = f"ends at mean reward {shown('', rewards)}"
            parts.append(f"{label_of(regularizer)} at scale {scale:g} {away if min(rewards) > 100 else rest}")
    return "Under the linear reward x₁/2, " + "; ".join(parts) + "."


def arrivals(rows: Sequence[Row], reward_name: str) -> str:
    """Where the runs in the pictures were aimed and where each ended: seed 0 of the middle aim."""
    aim = middle_aim(rows, reward_name)
    ends = _reached([row for row in rows if row.seed == 0], reward_name, aim)
    return f"Each regularizer was aimed at mean reward {aim:.2f}; the runs ended at {ends}."
