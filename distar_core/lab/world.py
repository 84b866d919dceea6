"""Post-training in the miniature text-to-image world: what does each method gain, and what does it lose, at equal reward?"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from ..evaluation.statistics import Interval
from ..figures.charts import draw_line, label_ends, set_axis
from ..figures.picture import BLUE, GREY, ORANGE, PURPLE, RED, VIOLET, Picture, Style, new_mosaic
from ..losses import weight_sigma, weight_x0
from ..toy.report import markdown_table
from .study import Row, Study, interval_line, interval_text, values_of

MARKS = (0, 8, 17, 33, 50, 75, 100)
"""Where a run is measured, in per cent of its steps."""
METRICS = ("preference", "gold", "faithful", "clip", "diversity", "open_entropy", "saturation", "high_frequency")
DISTANCES = ("frechet", "frechet_reference", "moved")
"""Fréchet distances to renders and to the guided reference's pictures, and the root mean square change of the pixels since
the start, with captions and seeds in common."""
ARMS = (
    ("sim", "", (0.0,)),
    ("reward-only", "", (1.0,)),
    ("diff-instruct*", "", (0.3, 1.0, 3.0)),
    ("diff-instruct*-out", "", (1.0,)),
    ("diff-instruct++", "x0", (3.0, 10.0)),
    ("diff-instruct++", "sigma", (1.5, 5.0)),
    ("didr-proxy", "x0", (0.1,)),
)
"""Method, weight of the KL methods (σ²/α², the x_0 gap, or σ, the eps gap) and reward scales."""
MATCHED = (
    {
        ("diff-instruct*", "", 0.3),
        ("diff-instruct*-out", "", 1.0),
        ("diff-instruct++", "x0", 3.0),
        ("diff-instruct++", "sigma", 1.5),
    },
    {("diff-instruct*", "", 1.0), ("diff-instruct++", "x0", 10.0), ("diff-instruct++", "sigma", 5.0)},
)
"""Arms whose scales were chosen, by pilots, to end at about one proxy reward."""
LABELS = {
    ("sim", ""): "SIM (no reward)",
    ("reward-only", ""): "reward only",
    ("diff-instruct*", ""): "DI*, guidance inside",
    ("diff-instruct*-out", ""): "DI*, guidance outside",
    ("diff-instruct++", "x0"): "DI++, w = σ²/α²",
    ("diff-instruct++", "sigma"): "DI++, w = σ",
    ("didr-proxy", "x0"): "DIDR by proxy",
}
CFG_SCALE = 1.0
WEIGHTS = {"x0": weight_x0, "sigma": weight_sigma}
STYLES_OF = {
    ("sim", ""): Style(GREY, "P", "-"),
    ("reward-only", ""): Style("#5c5c62", "X", (0, (1, 1))),
    ("diff-instruct*", ""): Style(BLUE, "o", "-"),
    ("diff-instruct*-out", ""): Style(VIOLET, "D", (0, (4, 2))),
    ("diff-instruct++", "x0"): Style(RED, "s", (0, (5, 1))),
    ("diff-instruct++", "sigma"): Style(ORANGE, "^", (0, (3, 1, 1, 1))),
    ("didr-proxy", "x0"): Style(PURPLE, "v", (0, (6, 1, 1, 1))),
}
PROFILE_SIZES = {"ci": (12, 4, 2), "fast": (60, 32, 50), "full": (200, 32, 100)}
"""Steps, rows of a batch, and draws to measure on with one object and as many with two."""


def settings(profile: str) -> list[Row]:
    """Method, weight and reward scale x seed."""
    arms = {"ci": ARMS[2:3], "fast": ARMS[1:5], "full": ARMS}[profile]
    steps, batch, draws = PROFILE_SIZES[profile]
    return [
        {
            "method": method,
            "weight": weight,
            "reward_scale": scale,
            "cfg_scale": CFG_SCALE,
            "seed": seed,
            "steps": steps,
            "batch": batch,
            "draws": draws,
        }
        for seed in range(3 if profile == "full" else 1)
        for method, weight, scales in arms
        for scale in scales[: None if profile == "full" else 1]
    ]


@lru_cache
def _stage(draws: int) -> Any:
    """What every run of a process measures with: world, judges, captions and seeds, and what start and reference draw."""
    from ..world.evaluation import evaluate
    from ..world.judges import load_judges
    from ..world.models import load_world
    from ..world.scenes import both_groups

    world, judges, fixed = load_world(), load_judges(), both_groups(draws)
    start = world.draw(fixed.captions, fixed.seeds)
    reference = judges.clip.features(world.draw_reference(fixed.captions, fixed.seeds))
    return world, judges, fixed, start, reference, evaluate(world.draw, judges, count=draws)


def measure(setting: Row) -> dict[str, float]:
    """Every metric at every mark of one run as METRIC@PERCENT, and the mean norms of the pulls over its first tenth, the
    reward's at x_0 and the others' at x_t.

    A run with a value that is not finite has nan from there on.
    """
    from ..errors import NonFiniteError
    from ..evaluation.pictures import frechet_distance
    from ..runs.run import check_finite
    from ..sdxl.post_training import conditions_of, make_state
    from ..training import post_train
    from ..world.evaluation import evaluate
    from ..world.recipe import WorldRecipe, training_prompts

    keys = ("method", "reward_scale", "cfg_scale", "seed", "steps", "batch")
    written = {key: setting[key] for key in keys}
    written |= {key: int(setting[key]) for key in ("seed", "steps", "batch")}
    if setting["method"] == "reward-only":
        del written["cfg_scale"]
    recipe = WorldRecipe.read(written)
    method = recipe.method
    if setting["weight"]:
        method = replace(method, weight=WEIGHTS[setting["weight"]])
    draws, steps = int(setting["draws"]), recipe.steps
    world, judges, fixed, before, reference, first = _stage(draws)
    state = make_state(recipe, world, judges.preference)
    conditions = conditions_of(recipe, world, training_prompts(recipe))

    def drawn(captions: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
        return world.draw(captions, seeds, state.roles.generator.averaged)

    found: dict[str, float] = {}

    def look(mark: int, evaluation: Any, pictures: torch.Tensor) -> None:
        found.update({f"{name}@{mark}": float(getattr(evaluation, name).double().mean()) for name in METRICS})
        found[f"frechet@{mark}"] = evaluation.frechet
        found[f"frechet_reference@{mark}"] = frechet_distance(judges.clip.features(pictures), reference)
        found[f"moved@{mark}"] = float((pictures - before).square().mean().sqrt())

    look(0, first, before)
    names = [name.removesuffix("@0") for name in found]
    due = {max(1, round(steps * mark / 100)): mark for mark in MARKS[1:]}
    pulls: dict[str, list[float]] = {"pull_reward": [], "pull_regularizer": [], "pull_cfg": []}
    try:
        for record in post_train(state, method, conditions, **recipe.loop):
            check_finite(record)
            if 0 <= record.step < max(1, steps // 10):
                for term, norms in record.pull_norms.items():
                    pulls[f"pull_{term}"].append(float(norms.mean()))
            if record.step + 1 in due:
                look(due[record.step + 1], evaluate(drawn, judges, count=draws), drawn(fixed.captions, fixed.seeds))
    except NonFiniteError:
        pass
    unknown = {f"{name}@{mark}": math.nan for mark in MARKS for name in names}
    means = {name: sum(values) / len(values) if values else 0.0 for name, values in pulls.items()}
    return unknown | found | means


def arms(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The runs by label: one method at one reward scale, over seeds."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        scale = "" if row["method"] in ("sim", "reward-only") else f", scale {row['reward_scale']:g}"
        found.setdefault(LABELS[row["method"], row["weight"]] + scale, []).append(row)
    return found


def along(rows: Sequence[Row], metric: str) -> list[Interval]:
    """A metric at the marks: mean over seeds with the smallest and the largest seed."""
    return [spread([row[f"{metric}@{mark}"] for row in rows]) for mark in MARKS]


def spread(values: Sequence[float]) -> Interval:
    """Mean, smallest and largest."""
    return Interval(float(np.mean(values)), min(values), max(values))


def at_proxy(row: Row, target: float, metric: str) -> float:
    """A metric where a run first reaches a proxy reward, linear between marks; nan if it does not reach it."""
    proxies = [row[f"preference@{mark}"] for mark in MARKS]
    values = [row[f"{metric}@{mark}"] for mark in MARKS]
    k = next((k for k, proxy in enumerate(proxies) if proxy >= target), None)
    if k is None:
        return math.nan
    if k == 0:
        return values[0]
    share = (target - proxies[k - 1]) / (proxies[k] - proxies[k - 1])
    return values[k - 1] + share * (values[k] - values[k - 1])


def picture(rows: Sequence[Row]) -> Picture:
    """What every arm gives up while the proxy reward rises: gold, named at the ends, above five other metrics.

    One curve per arm through the marks of its runs, means over seeds.
    """
    others = {
        "faithful": "share with all that is stated",
        "diversity": "diversity within a caption",
        "open_entropy": "open entropy (nats)",
        "frechet_reference": "Fréchet to the reference",
        "moved": "change of the pixels (rms)",
    }
    by_arm = arms(rows)
    styles = {name: STYLES_OF[own[0]["method"], own[0]["weight"]] for name, own in by_arm.items()}
    figure, (main, *small) = new_mosaic([["gold"] * len(others), list(others)], [2.2, 1.0], width=10.5, height=7.6)
    for axes, metric in zip((main, *small), ("gold", *others), strict=True):
        for name, own in by_arm.items():
            line = interval_line("", [i.mean for i in along(own, "preference")], along(own, metric))
            draw_line(axes, line, styles[name], every=1, markersize=5 if axes is main else 2.5)
        set_axis(axes, "x", "proxy reward")
    set_axis(main, "y", "gold preference")
    for axes, title in zip(small, others.values(), strict=True):
        axes.set_title(textwrap.fill(title, 16), fontsize=9)
    ends = {name: (along(own, "preference")[-1].mean, along(own, "gold")[-1].mean) for name, own in by_arm.items()}
    label_ends(main, [(name, x, y, styles[name].color) for name, (x, y) in ends.items()])
    alt = (
        f"Gold preference against the mean proxy reward (a preference reward learnt from comparisons), {len(by_arm)} arms of "
        f"{len(values_of(rows, 'seed'))} seeds, each named at the end of its curve, with a marker at "
        f"{', '.join(map(str, MARKS))} per cent of the run and bands from the smallest to the largest seed; below it, smaller, "
        f"the same curves for {', '.join(others.values())}."
    )
    return Picture(figure, alt)


def reached(rows: Sequence[Row]) -> float:
    """The highest proxy reward that every run reaches."""
    return min(max(row[f"preference@{mark}"] for mark in MARKS) for row in rows)


def ends(rows: Sequence[Row], metric: str, digits: int = 3) -> str:
    """A metric at the end of the runs, mean [smallest, largest]."""
    return range_text([row[f"{metric}@100"] for row in rows], digits)


def range_text(values: Sequence[float], digits: int) -> str:
    """mean [smallest, largest]."""
    return interval_text(spread(values), digits)


def rising(by_arm: Mapping[str, Sequence[Row]]) -> dict[str, Sequence[Row]]:
    """The arms whose every run gains at least a tenth of what the best arm's every run does, so that they can be compared."""
    gains = {name: min(reached([row]) - row["preference@0"] for row in own) for name, own in by_arm.items()}
    return {name: own for name, own in by_arm.items() if gains[name] >= 0.1 * max(gains.values())}


def fallen(rows: Sequence[Row]) -> int | None:
    """The place of the mark from which gold falls by at least 0.02 until the end, in every run, while the proxy rises."""
    gold = along(rows, "gold")
    best = max(range(len(MARKS)), key=lambda k: gold[k].mean)
    at = f"@{MARKS[best]}"
    falls = all(
        row[f"gold{at}"] - row["gold@100"] >= 0.02 and row["preference@100"] > row[f"preference{at}"] for row in rows
    )
    return best if falls else None


def sentence(rows: Sequence[Row]) -> str:
    """Arms that end at about one proxy reward beside each other, gold at equal proxy reward on the way, where gold falls,
    and who does not raise the proxy."""
    by_arm = arms(rows)
    rewarded = {name: own for name, own in by_arm.items() if own[0]["reward_scale"]}
    compared = rising(rewarded)
    start = rows[0]
    parts = [
        f"The start has proxy {start['preference@0']:.2f}, gold {start['gold@0']:.3f}, faithful {start['faithful@0']:.3f}, open "
        f"entropy {start['open_entropy@0']:.2f}."
    ]
    for group in MATCHED:
        inside = {
            name: own
            for name, own in compared.items()
            if (own[0]["method"], own[0]["weight"], own[0]["reward_scale"]) in group
        }
        ranked = sorted(inside.items(), key=lambda one: -along(one[1], "gold")[-1].mean)
        told = [
            f"{name}: proxy {along(own, 'preference')[-1].mean:.2f}, gold {ends(own, 'gold')}, faithful {ends(own, 'faithful')}, "
            f"open entropy {ends(own, 'open_entropy', 2)}"
            for name, own in ranked
        ]
        ended = [along(own, "preference")[-1].mean for own in inside.values()]
        if len(told) > 1 and max(ended) - min(ended) <= 0.2:
            parts.append(f"Arms that end at about one proxy reward: {'; '.join(told)}.")
    target = reached([row for own in compared.values() for row in own])
    found = {name: [at_proxy(row, target, "gold") for row in own] for name, own in compared.items()}
    listed = "; ".join(
        f"{name} {range_text(v, 3)}" for name, v in sorted(found.items(), key=lambda one: -float(np.mean(one[1])))
    )
    parts.append(f"Gold on the way, where each run first reaches proxy {target:.2f}: {listed}.")
    falls = []
    for name, own in compared.items():
        if (best := fallen(own)) is not None:
            gold, proxies = along(own, "gold"), along(own, "preference")
            falls.append(
                f"{name} (from {gold[best].mean:.3f} at proxy {proxies[best].mean:.2f} to {gold[-1].mean:.3f} at "
                f"{proxies[-1].mean:.2f})"
            )
    parts.append(
        f"Gold falls again while the proxy goes on rising, in every run, under {'; '.join(falls)}."
        if falls
        else "No method that raises the proxy lets gold fall again in every run."
    )
    for name, own in by_arm.items():
        change = [row["gold@100"] - row["gold@0"] for row in own]
        if name not in rewarded:
            parts.append(f"{name} moves pixels by {ends(own, 'moved')} and changes gold by {range_text(change, 3)}.")
        elif name not in compared:
            parts.append(
                f"{name} raises the proxy by less than a tenth of the most, and changes gold by {range_text(change, 3)}."
            )
    varied = [
        f"{name} (diversity {ends(own, 'diversity')}, open entropy {ends(own, 'open_entropy', 2)})"
        for name, own in by_arm.items()
        if any(row[f"{metric}@100"] >= row[f"{metric}@0"] for row in own for metric in ("diversity", "open_entropy"))
    ]
    parts.append(
        f"Variety falls, by diversity (start {start['diversity@0']:.3f}) and by open entropy, in every run"
        + (f" but some or all of {'; '.join(varied)}." if varied else ".")
    )
    return " ".join(parts)


def table(rows: Sequence[Row]) -> list[list[str]]:
    """The end of every arm: pulls over the first tenth of the run, and metrics with the range over seeds."""
    columns = {
        "preference": ("proxy", 2),
        "gold": ("gold", 3),
        "faithful": ("faithful", 3),
        "diversity": ("diversity", 3),
        "open_entropy": ("open entropy", 2),
        "frechet_reference": ("Fréchet to reference", 3),
        "moved": ("moved", 3),
    }
    found = [["arm", "pull of reward / regularizer", *(head for head, _ in columns.values())]]
    first = [f"{rows[0][f'{metric}@0']:.{digits}f}" for metric, (_, digits) in columns.items()]
    found.append(["start", "", *first])
    for name, own in arms(rows).items():
        pulls = [np.mean([row[f"pull_{term}"] for row in own]) for term in ("reward", "regularizer")]
        cells = [ends(own, metric, digits) for metric, (_, digits) in columns.items()]
        found.append([name, f"{pulls[0]:.2f} / {pulls[1]:.2f}", *cells])
    return found


def details(rows: Sequence[Row]) -> str:
    """What the numbers are, and the end of every arm."""
    return (
        f"Brackets here hold the smallest and the largest seed. Every look measures the same {2 * int(rows[0]['draws'])} draws "
        "of held-out captions (open entropy: of twelve short captions that leave size and background open); the pulls are mean norms over the first tenth of a run, as they stand at x_0 and x_t. Chance over "
        "draws and captions comes on top of the range over seeds. (The prediction was written before the runs began and committed while the "
        "first were under way.)\n\n" + markdown_table(table(rows))
    )


STUDY = Study(
    name="world",
    question="Post-training on pictures: what does each method lose of gold preference, faithfulness and variety while a learnt "
    "reward rises?",
    prediction="After pilots of 150 steps with one seed: without a leash the proxy rises furthest and gold falls. At equal "
    "proxy reward the weight decides, as in the plane: Diff-Instruct* keeps more of what captions state than Diff-Instruct++ with "
    "w = σ²/α², and Diff-Instruct++ with w = σ is as good. Every method loses variety. DIDR with a one-step proxy does not "
    "raise the reward.",
    settings=settings,
    measure=measure,
    picture=picture,
    sentence=sentence,
    details=details,
)
