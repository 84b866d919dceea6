"""The page that the demo leaves: index.html around its pictures and tables."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from .frontier import read_points
from .records import read_runs
from .report import (
    TITLE,
    arrivals,
    gap_sentence,
    method_table,
    ranking,
    result_table,
    reward_names,
    unbounded_sentence,
    verdict_table,
)
from .ring import REWARDS


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
