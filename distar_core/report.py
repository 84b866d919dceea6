"""From runs.csv to words: comparisons at matched reward, gaps to the known truth, and the page that shows them.

Every number and every verdict on the page and in the README is computed here from the CSV files of a run.
"""

from __future__ import annotations

import csv
import html
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .frontier import Point, known_reward, read_points
from .metrics import Summary
from .toy import REWARDS, TOY_METHODS

START = "distilled generator"
UNLEASHED = "reward only"
STAR = "score, pseudo-Huber"
TITLE = f"Diff-Instruct* ({STAR})"
RIVALS = ("KL, w = σ²/α²", "KL, w = 1")
KNOWN_SPREAD = 0.244
REGULARIZERS = tuple(name for name in TOY_METHODS if name != UNLEASHED)


@dataclass(frozen=True)
class Row:
    """One line of runs.csv; numbers that do not apply are nan."""

    reward_name: str
    regularizer: str
    aim: float
    reward_scale: float
    seed: float
    steps: float
    seconds: float
    summary: Summary


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


def read_runs(path: Path | None = None) -> list[Row]:
    """The rows of runs.csv; without a path, of the full profile's run that ships with the package."""
    source = path or files("distar_core") / "data" / "runs_full.csv"
    text = source.read_text(encoding="utf-8")
    return [
        Row(
            row["reward_name"],
            row["regularizer"],
            **{key: float(row[key] or "nan") for key in ("aim", "reward_scale", "seed", "steps", "seconds")},
            summary=Summary.read(row),
        )
        for row in csv.DictReader(text.splitlines())
    ]


def of(rows: Iterable[Row], reward_name: str, regularizer: str) -> list[Row]:
    """The rows of one regularizer under one reward."""
    return [row for row in rows if (row.reward_name, row.regularizer) == (reward_name, regularizer)]


def at_reward(rows: Sequence[Row], reward_name: str, regularizer: str, target: float, metric: str) -> list[float]:
    """A metric where a regularizer's runs have mean reward `target`: one value a seed, linear between its runs.

    The distilled generator is the first point of every seed's curve. A seed whose runs do not reach the target gives
    nan: nothing is extrapolated.
    """
    start = of(rows, reward_name, START)
    chosen = of(rows, reward_name, regularizer)
    values = []
    for seed in sorted({row.seed for row in chosen}):
        own = start + [row for row in chosen if row.seed == seed]
        along = sorted((row.summary for row in own), key=lambda summary: summary.reward)
        rewards = [summary.reward for summary in along]
        heights = [getattr(summary, metric) for summary in along]
        values.append(float(np.interp(target, rewards, heights, left=math.nan, right=math.nan)))
    return values


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
        chosen = of(rows, reward_name, regularizer)
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


def ranking(rows: Sequence[Row], reward_name: str) -> str:
    """Which regularizer keeps most of the reference at the same mean reward, by KL; the middle of the rewards compared."""
    common = common_targets(rows, reward_name, *REGULARIZERS)
    if not common:
        return f"Reward “{reward_name}”: there is no mean reward that every seed of every regularizer reaches."
    target = common[len(common) // 2]
    values = {name: at_reward(rows, reward_name, name, target, "kl") for name in REGULARIZERS}
    order = sorted(values, key=lambda name: float(np.mean(values[name])))
    least, most = (float(np.mean(values[name])) for name in (order[0], order[-1]))
    equal = [name for name in order if min(values[name]) <= max(values[order[0]])]
    closest = f"{order[0]} stays closest to the reference"
    if len(equal) > 1:
        closest = f"{', '.join(f'“{name}”' for name in equal)} stay about equally close to the reference"
    farthest = f" and {order[-1]} ends {most / least:.1f} times as far as the first" if order[-1] not in equal else ""
    listed = ", ".join(f"{name} {shown('kl', values[name])}" for name in order)
    return (
        f"At mean reward {target:.2f} under “{reward_name}”, {closest}{farthest}, by KL; mean over seeds "
        f"[smallest, largest]: {listed}."
    )


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
                lines.append(f"Reward “{name}”: no mean reward that every seed of {STAR} and of {rival} reaches.")
            for target in common:
                parts = [f"{verb} {text}" for verb, text in outcomes(rows, name, rival, target).items() if text]
                lines.append(f"Reward “{name}” at {target:.2f}, {TITLE} against {rival}: {'; '.join(parts)}.")
    return lines


def verdict_table(rows: Sequence[Row], *, highest_only: bool = False) -> list[list[str]]:
    """The verdicts as a table: reward, mean reward, rival, wins, losses, undecided."""
    table = [["reward", "at mean reward", "against", *OUTCOMES.values()]]
    for name in reward_names(rows):
        for rival in RIVALS:
            common = common_targets(rows, name, STAR, rival)
            for target in common[-1:] if highest_only else common:
                cells = [text or "nothing" for text in outcomes(rows, name, rival, target).values()]
                table.append([name, f"{target:.2f}", rival, *cells])
    return table


README_MARKS = ("<!-- results -->\n", "<!-- /results -->")


def markdown_table(cells: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first row its head."""
    head, *body = cells
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body))


def readme_results(rows: Sequence[Row], points: Sequence[Point]) -> str:
    """The README's paragraph and table of results, at the highest mean reward that all seeds reach."""
    seeds = len({row.seed for row in rows if not math.isnan(row.seed)})
    lines = [
        *(f"{ranking(rows, name)}\n" for name in reward_names(rows)),
        f"What Diff-Instruct\\* (pseudo-Huber) wins and loses, at the highest mean reward that all seeds of both reach, {seeds} seeds. “Wins” means better "
        "for every seed than every seed of the other; brackets give the smallest and the largest seed. Better is: more modes, "
        "spread closer to the reference's 0.244, less off the data, less KL. Modes count the nearest mode at any distance, so "
        "they say little where much is off the data.",
        "",
    ]
    formulas = "; ".join(f"{name} is r(x) = {REWARDS[name].formula}" for name in reward_names(rows))
    lines += [markdown_table(verdict_table(rows, highest_only=True)), "", f"Rewards: {formulas}."]
    notes = [gap_sentence(rows, points), unbounded_sentence(rows)]
    text = "\n".join([*lines, "", *(f"{note}\n" for note in notes)])
    return text.replace("‖", "\\|\\|")


def with_results(readme: str, results: str) -> str:
    """The README with its results replaced. Raises ValueError if the marks are missing."""
    start, end = README_MARKS
    if start not in readme or end not in readme:
        raise ValueError(f"the README has no place for results; put the marks {start.strip()} and {end} into it")
    before, rest = readme.split(start, 1)
    return before + start + results + rest[rest.index(end) :]


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
                        f"{where} Diff-Instruct* {verb} on {METRICS[v.metric].words} against {rival}: {numbers}.",
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
            chosen = of(rows, name, regularizer)
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
        f"In {len(outside)} of {len(gaps)} settings the trained mean reward differs from the known fixed point by more "
        "than the range over seeds plus 0.01"
    )
    if outside:
        text += "; the largest: " + "; ".join(
            f"{g.regularizer} under “{g.reward_name}” at scale {g.reward_scale:g}, {shown('', g.trained)} against {g.known:.3f}"
            for g in outside[:4]
        )
    return text + "." + (f" In {unknown} more the fixed point is not known well enough." if unknown else "")


def method_table() -> list[list[str]]:
    """What each regularizer of the demo is: loss, unit, weight, distance, laws."""
    table = [["in the demo", "loss", "unit of the gap", "distance", "weight w", "sampling law", "noise levels"]]
    for name, method in TOY_METHODS.items():
        if method.regularizer is None:
            table.append([name, "none", "–", "–", "–", "–", "–"])
            continue
        table.append(
            [
                name,
                method.regularizer.__name__,
                method.unit or "score",
                repr(method.distance) if method.distance else "–",
                {"weight_x0": "σ²/α²", "weight_one": "1"}[method.weight.__name__],
                {None: "differentiated (exact)", "frozen": "frozen"}[method.law],
                f"{len(method.time_law.values)} from {method.time_law.values[0]:g} to {method.time_law.values[-1]:g}",
            ]
        )
    return table


def result_table(rows: Sequence[Row], reward_name: str, *, compact: bool = False) -> list[list[str]]:
    """Mean over seeds of every setting under a reward, with the range; compact leaves out the ranges."""

    def cell(metric: str, values: list[float]) -> str:
        return shown(metric, values).split(" [")[0] if compact else shown(metric, values)

    heads = list(METRICS) if compact else [metric.words for metric in METRICS.values()]
    table = [["regularizer", "reward scale", "mean reward", *(head.replace("_", " ") for head in heads)]]
    for row in of(rows, reward_name, START):
        cells = [format(getattr(row.summary, metric), METRICS[metric].format) for metric in METRICS]
        table.append([START, "–", f"{row.summary.reward:.3f}", *cells])
    for regularizer in TOY_METHODS:
        chosen = of(rows, reward_name, regularizer)
        for scale in sorted({row.reward_scale for row in chosen}):
            seeds = [row.summary for row in chosen if row.reward_scale == scale]
            cells = [cell(metric, [getattr(seed, metric) for seed in seeds]) for metric in ("reward", *METRICS)]
            table.append([regularizer, "any" if regularizer == UNLEASHED else f"{scale:g}", *cells])
    return table


def unbounded_sentence(rows: Sequence[Row]) -> str:
    """What an unbounded reward does to a bounded and to an unbounded pull."""
    parts = []
    for regularizer, scale in dict.fromkeys((r.regularizer, r.reward_scale) for r in rows if r.reward_name == "linear"):
        if regularizer != START:
            rewards = [row.summary.reward for row in of(rows, "linear", regularizer) if row.reward_scale == scale]
            away = f"runs away (mean reward above {min(rewards):.0f} when the run ends)"
            rest = f"ends at mean reward {shown('', rewards)}"
            parts.append(f"{regularizer} at scale {scale:g} {away if min(rewards) > 100 else rest}")
    return "Under the linear reward x₁/2, " + "; ".join(parts) + "."


def arrivals(rows: Sequence[Row], reward_name: str) -> str:
    """Where the runs in the pictures were aimed and where each ended: seed 0 of the middle aim."""
    aims = targets(rows, reward_name)
    aim = aims[len(aims) // 2]
    ends = [
        f"{row.summary.reward:.2f} ({row.regularizer})"
        for regularizer in REGULARIZERS
        for row in of(rows, reward_name, regularizer)
        if (row.seed, row.aim) == (0, aim)
    ]
    return f"Each regularizer was aimed at mean reward {aim:.2f}; the runs ended at {', '.join(ends)}."


def _html_table(table: Sequence[Sequence[str]], kind: str = "numbers") -> str:
    head, *body = [[html.escape(cell) for cell in row] for row in table]
    lines = [
        f'<table class="{kind}"><thead><tr>' + "".join(f"<th>{cell}</th>" for cell in head) + "</tr></thead><tbody>"
    ]
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body]
    return "\n".join([*lines, "</tbody></table>"])


def _html_figure(file: str, alt: str, caption: str) -> str:
    text = f'<img src="{file}" alt="{html.escape(alt, quote=True)}">'
    return f"<figure>{text}<figcaption>{caption}</figcaption></figure>"


STYLE = """
body{font:17px/1.55 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1d1d22;background:#fff}
h1{line-height:1.2}h2{margin-top:2.4rem}img{max-width:100%}figure{margin:1.2rem 0}figcaption{color:#44444c}
table{border-collapse:collapse;font-size:.84rem;display:block;overflow-x:auto}th,td{padding:.3rem .6rem;text-align:left;
border-bottom:1px solid #ddd;vertical-align:top}.numbers td{white-space:nowrap}code{background:#f3f3f6;padding:.1rem .3rem}
"""


SHORT_RUN, LONG_RUN = 200, 2000
"""Runs of fewer steps than the first have not moved yet, and of fewer than the second are not at rest; the page says so."""


def write_page(folder: Path) -> Path:
    """Draw the frontiers from the CSV files of `folder` and write index.html around all its pictures."""
    from . import pictures

    rows, points = read_runs(folder / "runs.csv"), read_points()
    alts: Mapping[str, str] = pictures.from_tables(folder, rows, points)
    names = reward_names(rows)
    seeds = len({row.seed for row in rows if not math.isnan(row.seed)})
    steps = max(int(row.steps) for row in rows if not math.isnan(row.steps))
    short = [
        "<p><strong>This run is too short to learn anything: it checks that the page works. The captions describe runs of "
        "the profiles demo and full.</strong></p>"
    ]
    moving = steps < LONG_RUN
    not_at_rest = [
        f"<p>After {steps} steps the runs with little reward are not all at rest, so verdicts there may change; the README's "
        f"runs have {LONG_RUN}.</p>"
    ]
    sections = [
        *(short if steps < SHORT_RUN else []),
        *(f"<p><strong>{html.escape(ranking(rows, name))}</strong></p>" for name in names),
        f"<p>One distilled one-step generator, a network that draws in one step, post-trained for {steps} steps under a reward, with {seeds} seeds a "
        "setting. Each regularizer's reward scale was chosen by its known fixed point, so that all of them aim for the "
        "same mean rewards; what each reached stands in the tables. Methods are compared at equal mean reward, never at equal reward scale.</p>",
        "<p>KL, w = σ²/α²: a leash of KL that is loud at high noise levels only; w = 1: equally loud at all. Score: a leash that "
        "compares scores, the gradients of log-densities; pseudo-Huber and squared L2 are two ways to measure how far they are "
        "apart, and “score, pseudo-Huber” is Diff-Instruct*. Effective number of modes: 8 when all are equally full, 1 when one "
        "has everything.</p>",
        "<h2>Where we start</h2>",
        _html_figure(
            "01_start.png",
            pictures.START_ALT,
            "The reference has eight equal modes (grey contours). The distilled generator copies it in one step. Darker "
            "shading is more reward.",
        ),
    ]
    for name in names:
        reward = REWARDS[name]
        sections += [
            f"<h2>Reward “{name}”: r(x) = {html.escape(reward.formula)}</h2>",
            _html_figure(
                f"02_clouds_{name}.png",
                pictures.clouds_alt(name),
                "Seed 0 of the middle aim. Without a leash every sample runs to where the reward is highest. "
                f"{html.escape(arrivals(rows, name))} Look at how many modes survive, how wide they are, and what lies "
                "between them. The clouds are not at equal reward; the fair comparison is the third picture below.",
            ),
            _html_figure(
                f"animation_{name}.gif",
                pictures.animation_alt(name),
                f'The same runs as they train. <a href="animation_{name}_still.png">The last frame as a still.</a>',
            ),
            _html_figure(
                f"03_pulls_{name}.png",
                pictures.pulls_alt(name),
                "Every method of the family is one vector per sample. At each dot: where the reward moves it (wide, pink), "
                "where the regularizer moves it (outlined, turquoise), and the sum (thin, black), each averaged over noise at "
                "the end of the run, on one scale in all panels. Where a run has come to rest, pink and turquoise cancel. Pseudo-Huber answers "
                "even a small gap, the error of the assistant (the network that learns the generator's own score) included, with a sizeable pull, so its black arrows stay long and "
                "point every way. Arrows are minus the pulls, the direction of descent; the dots are chosen far apart.",
            ),
            _html_figure(
                f"04_frontier_{name}.png",
                alts[f"04_frontier_{name}.png"],
                "Lines are the truth: the density at which each method rests when it starts from the reference, solved on a grid. "
                "Black dashes: the tilted optimum p_ref · exp(reward_scale · r)/Z, which has the smallest KL to the reference, on clean samples, "
                "at each mean reward; for modes and spread it is a landmark, not a bound. Markers are trained runs, one a seed; open markers lie beyond the axis, or have no spread because no sample is in a mode. "
                "Grey lines mark the reference."
                + (
                    f" After {steps} steps not every run is at rest, so markers may lie off their lines."
                    if moving
                    else ""
                ),
            ),
            _html_table(result_table(rows, name)),
            "<p>Mean over seeds, with the smallest and largest seed in brackets. KL is measured after both densities are "
            "blurred with σ = 0.15; “off the data” is farther than three deviations from every mode (1.1 % for the "
            "reference itself).</p>",
        ]
    sections += [
        f"<h2>Where {TITLE} wins and where it loses</h2>",
        "<p>“Wins” means better for every seed against every seed of the other, at the same mean reward by linear "
        "interpolation between runs of one seed; “loses” the reverse; otherwise undecided. Rewards compared are those aimed "
        "for, or the nearest that the runs of all seeds of both enclose. Better is: more modes, spread closer to 0.244, less off the data, less KL. Modes count the nearest mode at any distance.</p>",
        *(not_at_rest if moving else []),
        _html_table(verdict_table(rows), kind="prose"),
        "<h2>Do the networks arrive where the theory says?</h2>",
        f"<p>{html.escape(gap_sentence(rows, points))}</p>",
        "<h2>An unbounded reward</h2>",
        _html_figure(
            "05_unbounded.png",
            alts["05_unbounded.png"],
            "Mean distance of the samples from the origin. Pseudo-Huber's hold on the cloud is bounded: a reward that pulls "
            "harder everywhere is not held at all. KL's pull grows with the deviation. The runaway curve flattens only because the learning rate decays to zero at the end of the run.",
        ),
        f"<p>{html.escape(unbounded_sentence(rows))}</p>",
        "<h2>What exactly was run</h2>",
        _html_table(method_table()),
        "<p>Reward scales are in the tables of results. The weights, noise levels and huber_c = 0.05 are our defaults; we found no "
        "published values for Diff-Instruct*. Diff-Instruct* is the score divergence with pseudo-Huber, Diff-Instruct++ integral KL; the assistant is trained with weight σ².</p>",
        "<p>Why does the line of squared L2 lie on the tilted optimum? In eps-units, with w = 1 on log-spaced levels, its loss is "
        "a constant times a drop in KL: the KL at the lowest noise level minus the KL at the highest. Little KL is left at "
        "the highest. So the loss is nearly KL itself, and the tilted optimum is what KL asks for. One thing differs: the "
        "sampling law is frozen.</p>",
        "<p>Everything on this page is computed from <code>runs.csv</code> and <code>distances.csv</code> "
        "in this folder and from the fixed points that ship with the package. Larger, in 20 minutes on two cores: "
        "<code>.venv/bin/distar demo --profile full</code>. Next: <code>make lab</code> opens notebook 00.</p>",
    ]
    page = folder / "index.html"
    page.write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Score against KL in the plane</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>'
        f"<h1>Score against KL: what each leash does under a reward</h1>{''.join(sections)}</body></html>\n",
        encoding="utf-8",
    )
    return page


def publish(run: Path, root: Path) -> None:
    """Make a run of the full profile the one that ships: its tables, the README's figure and the README's results."""
    from . import pictures

    data = root / "distar_core" / "data"
    for name in ("runs", "distances"):
        text = (run / f"{name}.csv").read_text(encoding="utf-8")
        (data / f"{name}_full.csv").write_text(text, encoding="utf-8", newline="\n")
    rows, points = read_runs(data / "runs_full.csv"), read_points()
    pictures.frontier(rows, points, "mode").save(root / "notebooks" / "figures" / "frontier_mode.png")
    readme = root / "README.md"
    text = with_results(readme.read_text(encoding="utf-8"), readme_results(rows, points))
    readme.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    publish(Path(sys.argv[1]), Path())
