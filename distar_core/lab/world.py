"""Post-training in the miniature text-to-image world: what does each method gain, and what does it lose, at equal reward?"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from ..evaluation.statistics import Interval, interpolate
from ..figures.charts import draw_line, label_ends, set_axis
from ..figures.picture import BLUE, GREY, ORANGE, PURPLE, RED, VIOLET, Picture, Style, new_mosaic
from ..losses import weight_sigma, weight_x0
from ..training import Record, State, post_train
from .study import Row, Study, fact, facts_of, interval_line, values_of

if TYPE_CHECKING:
    from ..rewards.base import PictureReward
    from ..sdxl.models import TextToImage

MARKS = (0, 8, 17, 33, 50, 75, 100)
"""Where a run is measured, in per cent of its steps."""
METRICS = ("preference", "gold", "faithful", "clip", "diversity", "open_entropy", "saturation", "high_frequency")
DISTANCES = ("frechet", "frechet_reference", "moved")
"""Fréchet distances to renders and to the guided reference's pictures, and the root mean square change of the pixels since
the start, with captions and seeds in common."""


class Kind(NamedTuple):
    """A method with a weight, as the study compares it: its id, its label and how it is drawn."""

    id: str
    label: str
    style: Style


KINDS = {
    ("sim", ""): Kind("sim", "SIM (no reward)", Style(GREY, "P", "-")),
    ("reward-only", ""): Kind("reward-only", "reward only", Style("#5c5c62", "X", (0, (1, 1)))),
    ("diff-instruct*", ""): Kind("star", "DI*, guidance inside", Style(BLUE, "o", "-")),
    ("diff-instruct*-out", ""): Kind("star-out", "DI*, guidance outside", Style(VIOLET, "D", (0, (4, 2)))),
    ("diff-instruct++", "x0"): Kind("kl-x0", "DI++, w = σ²/α²", Style(RED, "s", (0, (5, 1)))),
    ("diff-instruct++", "sigma"): Kind("kl-sigma", "DI++, w = σ", Style(ORANGE, "^", (0, (3, 1, 1, 1)))),
    ("didr-proxy", "x0"): Kind("didr-proxy", "DIDR by proxy", Style(PURPLE, "v", (0, (6, 1, 1, 1)))),
}
"""By method and weight of the KL methods: σ²/α², the x_0 gap, or σ, the eps gap."""


class Arm(NamedTuple):
    """One method at one reward scale."""

    method: str
    weight: str
    reward_scale: float

    @property
    def kind(self) -> Kind:
        """The method with its weight."""
        return KINDS[self.method, self.weight]

    @property
    def id(self) -> str:
        """Such as star-0.3; the kind's alone where there is one scale only."""
        return self.kind.id if self.alone else f"{self.kind.id}-{self.reward_scale:g}"

    @property
    def label(self) -> str:
        """As id, in words."""
        return self.kind.label if self.alone else f"{self.kind.label}, scale {self.reward_scale:g}"

    @property
    def alone(self) -> bool:
        """Whether the scale says nothing: there is no reward, or nothing else."""
        return self.method in ("sim", "reward-only")


ARMS = (
    ("sim", "", (0.0,)),
    ("reward-only", "", (1.0,)),
    ("diff-instruct*", "", (0.3, 1.0, 3.0)),
    ("diff-instruct*-out", "", (1.0,)),
    ("diff-instruct++", "x0", (3.0, 10.0)),
    ("diff-instruct++", "sigma", (1.5, 5.0)),
    ("didr-proxy", "x0", (0.1,)),
)
"""Method, weight and reward scales."""
MATCHED = (
    {
        Arm("diff-instruct*", "", 0.3),
        Arm("diff-instruct*-out", "", 1.0),
        Arm("diff-instruct++", "x0", 3.0),
        Arm("diff-instruct++", "sigma", 1.5),
    },
    {Arm("diff-instruct*", "", 1.0), Arm("diff-instruct++", "x0", 10.0), Arm("diff-instruct++", "sigma", 5.0)},
)
"""Arms whose scales were chosen, by pilots, to end at about one proxy reward."""
CFG_SCALE = 1.0
WEIGHTS = {"x0": weight_x0, "sigma": weight_sigma}
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


class Run(NamedTuple):
    """One run that has not begun.

    Attributes:
        state: its roles, where the trained generator is found at the end.
        records: yields the run's records, each checked; raises NonFiniteError for one that is not finite.
    """

    state: State
    records: Callable[[], Iterator[Record]]


def prepare(setting: Row, world: TextToImage, reward: PictureReward) -> Run:
    """The run of a setting: its method and weight, reward and guidance scale, seed, steps and batch."""
    from ..runs.run import check_finite
    from ..sdxl.post_training import conditions_of, make_state
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
    state = make_state(recipe, world, reward)
    conditions = conditions_of(recipe, world, training_prompts(recipe))

    def records() -> Iterator[Record]:
        for record in post_train(state, method, conditions, **recipe.loop):
            check_finite(record)
            yield record

    return Run(state, records)


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
    """Every metric at every mark of one run as `METRIC@PERCENT`, and the mean norms of the pulls over its first tenth, the
    reward's at x_0 and the others' at x_t.

    A run with a value that is not finite has nan from there on.
    """
    from ..errors import NonFiniteError
    from ..evaluation.pictures import frechet_distance
    from ..world.evaluation import evaluate

    draws, steps = int(setting["draws"]), int(setting["steps"])
    world, judges, fixed, before, reference, first = _stage(draws)
    run = prepare(setting, world, judges.preference)

    def drawn(captions: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
        return world.draw(captions, seeds, run.state.roles.generator.averaged)

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
        for record in run.records():
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


def by_arm(rows: Sequence[Row]) -> dict[Arm, list[Row]]:
    """The runs by arm, over seeds."""
    found: dict[Arm, list[Row]] = {}
    for row in rows:
        found.setdefault(Arm(row["method"], row["weight"], row["reward_scale"]), []).append(row)
    return found


def trajectory(rows: Sequence[Row], metric: str) -> list[Interval]:
    """A metric at the marks: mean over seeds with the smallest and the largest seed."""
    return [range_over_seeds([row[f"{metric}@{mark}"] for row in rows]) for mark in MARKS]


def final(rows: Sequence[Row], metric: str) -> Interval:
    """A metric at the end of the runs: mean over seeds with the smallest and the largest seed."""
    return trajectory(rows, metric)[-1]


def range_over_seeds(values: Sequence[float]) -> Interval:
    """Mean, smallest and largest."""
    return Interval(float(np.mean(values)), min(values), max(values))


def at_proxy(row: Row, target: float, metric: str) -> float:
    """A metric where a run first has a proxy reward, linear between marks; see `interpolate`."""
    proxies, values = ([row[f"{name}@{mark}"] for mark in MARKS] for name in ("preference", metric))
    return interpolate(target, proxies, values)


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
    runs = by_arm(rows)
    figure, (main, *small) = new_mosaic([["gold"] * len(others), list(others)], [2.2, 1.0], width=10.5, height=7.6)
    for axes, metric in zip((main, *small), ("gold", *others), strict=True):
        for arm, own in runs.items():
            line = interval_line("", [i.mean for i in trajectory(own, "preference")], trajectory(own, metric))
            draw_line(axes, line, arm.kind.style, every=1, markersize=5 if axes is main else 2.5)
        set_axis(axes, "x", "proxy reward")
    set_axis(main, "y", "gold preference")
    for axes, title in zip(small, others.values(), strict=True):
        axes.set_title(textwrap.fill(title, 16), fontsize=9)
    ends = {arm: (final(own, "preference").mean, final(own, "gold").mean) for arm, own in runs.items()}
    label_ends(main, [(arm.label, x, y, arm.kind.style.color) for arm, (x, y) in ends.items()])
    alt = (
        f"Gold preference against the mean proxy reward (a preference reward learnt from comparisons), {len(runs)} arms of "
        f"{len(values_of(rows, 'seed'))} seeds, each named at the end of its curve, with a marker at "
        f"{', '.join(map(str, MARKS))} per cent of the run and bands from the smallest to the largest seed; below it, smaller, "
        f"the same curves for {', '.join(others.values())}."
    )
    return Picture(figure, alt)


def reached(rows: Sequence[Row]) -> float:
    """The highest proxy reward that every run reaches."""
    return min(max(row[f"preference@{mark}"] for mark in MARKS) for row in rows)


def gaining_arms(runs: Mapping[Arm, Sequence[Row]]) -> dict[Arm, Sequence[Row]]:
    """The arms whose every run gains at least a tenth of what the best arm's every run does, so that they can be compared."""
    gains = {arm: min(reached([row]) - row["preference@0"] for row in own) for arm, own in runs.items()}
    return {arm: own for arm, own in runs.items() if gains[arm] >= 0.1 * max(gains.values())}


def peak_before_fall(rows: Sequence[Row]) -> int | None:
    """The place of the mark from which gold falls by at least 0.02 until the end, in every run, while the proxy rises."""
    gold = trajectory(rows, "gold")
    best = max(range(len(MARKS)), key=lambda k: gold[k].mean)
    at = f"@{MARKS[best]}"
    falls = all(
        row[f"gold{at}"] - row["gold@100"] >= 0.02 and row["preference@100"] > row[f"preference{at}"] for row in rows
    )
    return best if falls else None


FINAL = {
    "preference": ("proxy", 2),
    "gold": ("gold", 3),
    "faithful": ("faithful", 3),
    "diversity": ("diversity", 3),
    "open_entropy": ("open entropy", 2),
    "moved": ("moved", 3),
}
"""What the facts hold of the end of the runs: metric -> its head in a table, and digits."""


def facts(rows: Sequence[Row]) -> dict[str, float]:
    """The metrics of FINAL at the start (`start_…`) and, by arm, at the end, mean, smallest and largest seed, with the
    change of gold since the start; gold where each run of an arm that raises the proxy first reaches the highest proxy
    common to all of them (`at_proxy`, `common_proxy`); whether gold `falls` at last in every run of an arm; and whether
    an arm `gains`, see `gaining_arms`."""
    runs = by_arm(rows)
    rewarded = {arm: own for arm, own in runs.items() if arm.reward_scale}
    compared = gaining_arms(rewarded)
    target = reached([row for own in compared.values() for row in own])
    found: dict[str, float] = {fact("start", metric): rows[0][f"{metric}@0"] for metric in FINAL}
    found["common_proxy"] = target
    for arm, own in runs.items():
        for metric in FINAL:
            found |= facts_of(final(own, metric), metric, arm.id)
        change = range_over_seeds([row["gold@100"] - row["gold@0"] for row in own])
        found |= facts_of(change, "gold_change", arm.id)
        found[fact("falls", arm.id)] = peak_before_fall(own) is not None
        found[fact("gains", arm.id)] = arm in compared
        if arm in compared:
            found |= facts_of(range_over_seeds([at_proxy(row, target, "gold") for row in own]), "at_proxy", arm.id)
    return found


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
    facts=facts,
)
