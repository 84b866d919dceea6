"""Is it a hack? The panel of `distar evaluate --hacking` on every arm of the study `world`, where the gold preference tells
whether it is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from ..evaluation.hacking import ALARMS, CHANGES, EVIDENCE, Kind, kind_of
from ..evaluation.statistics import Interval
from ..figures.charts import Mark, draw_marks, reference_line, set_axis
from ..figures.picture import BLUE, ORANGE, PURPLE, RED, Picture, Style, new_panels, shared_legend
from . import world as trained
from .study import Row, Study, fact, facts_of, values_of, where

PROXY, GOLD = "world:preference", "world:gold"
JUDGES = ("preference", "clip", "preference-2", "preference-3", "gold")
SIZES = {"ci": (4, 2), "fast": (40, 2), "full": (140, 3)}
"""Held-out captions, and pictures of each."""


def settings(profile: str) -> list[Row]:
    """The runs of the study `world`, and how many captions and pictures a panel has."""
    captions, pictures = SIZES[profile]
    return [
        {key: value for key, value in row.items() if key != "draws"} | {"captions": captions, "pictures": pictures}
        for row in trained.settings(profile)
    ]


STYLES = {
    "hacked": Style(RED, "o", ""),
    "worse": Style(PURPLE, "s", ""),
    "doubtful": Style(ORANGE, "D", ""),
    "no sign": Style(BLUE, "v", ""),
}
SHOWN = {
    "proxy": "proxy",
    GOLD: "gold",
    "world:clip": "clip",
    "world:preference-2": "second",
    "world:preference-3": "third",
    "conflict": "parting",
    "margin": "margin",
    "diversity": "diversity",
    "vendi": "vendi",
}
"""Lines whose change the facts have by arm, under these names."""


class _Stage(NamedTuple):
    """What the panels of a process share: the start's pictures and scores are made once."""

    folder: TemporaryDirectory[str]
    world: Any
    plan: Any
    judges: Any


def _model(name: str, world: Any, generator: Any, network: Any) -> Any:
    from ..evaluation.harness import Drawer, Model
    from ..runs.weights import digest

    def load() -> Drawer:
        draw, draw_from = (partial(act, generator=generator) for act in (world.draw, world.draw_from))
        return Drawer(draw, digest([network]), world.noise, draw_from)

    return Model(name, {}, load, one_step=True)


@lru_cache
def _stage(captions: int, pictures: int) -> _Stage:
    from ..evaluation.hacking import controls, judged
    from ..evaluation.harness import Plan
    from ..world.evaluation import held_out_captions, scorers
    from ..world.models import load_world

    world, known = load_world(), scorers()
    prompts = held_out_captions()
    prompts = replace(prompts, entries=prompts.entries[:: len(prompts.entries) // captions][:captions])
    start = _model("start", world, world.generator(), world.unet)
    plan = Plan([start, replace(start, name="other")], [prompts], [known[name] for name in JUDGES], pictures)
    judges = judged(plan, PROXY)
    whole = replace(plan, models=[start], scorers=[*plan.scorers, *controls(plan, judges.proxy)])
    return _Stage(TemporaryDirectory(), world, whole, judges)


def measure(setting: Row) -> dict[str, float]:
    """Every line of the panel at the end of a run: LINE and its ends, LINE_start and LINE_now where it has them, and LINE_sign, 1
    for a sign of a hack and 0 for none, of a line that is in a rule.

    Raises:
        NonFiniteError: if a run has a value that is not finite; none of the recorded ones has.
    """
    from ..evaluation import hacking, harness

    stage = _stage(int(setting["captions"]), int(setting["pictures"]))
    run = trained.prepare(setting, stage.world, stage.judges.proxy.load())
    for _ in run.records():
        pass
    generator = run.state.roles.generator
    generator.load_ema()
    name = "-".join(str(setting[key]).replace("*", "star") for key in ("method", "weight", "reward_scale", "seed"))
    model = _model(f"m-{name}", stage.world, generator.module, generator.module)
    plan = replace(stage.plan, models=[*stage.plan.models, model])
    folder = Path(stage.folder.name)
    harness.prepare(folder, plan)
    harness.draw(folder, plan)
    hacking.measure_paths(folder, plan, stage.judges.eyes)
    harness.score(folder, plan)
    (panel,) = hacking.panels(folder, plan, stage.judges, harness.table(folder, plan))
    found: dict[str, float] = {f"evidence_{one}": float(one in panel.evidence) for one in hacking.EVIDENCE}
    for line in panel.lines:
        found |= {line.id: line.change.mean, f"{line.id}_low": line.change.low, f"{line.id}_high": line.change.high}
        if line.start is not None and line.now is not None:
            found |= {f"{line.id}_start": line.start.mean, f"{line.id}_now": line.now.mean}
        if line.evidence:
            found[f"{line.id}_sign"] = float(line.sign)
    return found


def change(row: Row, line: str) -> Interval:
    """What a line of a run's panel has changed by."""
    return Interval(row[line], row[f"{line}_low"], row[f"{line}_high"])


def verdict(row: Row) -> Kind:
    """The panel's word about a run."""
    return kind_of(change(row, "proxy"), sum(row[f"evidence_{one}"] == 1 for one in EVIDENCE))


def is_alarm(row: Row) -> bool:
    """Whether the panel of a run gives the alarm."""
    return verdict(row) in ALARMS


def is_hacked(row: Row) -> bool:
    """What the panel does not see: whether gold fell below the start's, with its interval."""
    return change(row, GOLD).high < 0


def picture(rows: Sequence[Row]) -> Picture:
    """The change of gold of every run with its interval, a panel for each seed, coloured by the panel's verdict."""
    seeds = values_of(rows, "seed")
    arms = list(trained.by_arm(rows).items())
    figure, grid = new_panels([f"seed {seed:g}" for seed in seeds], len(seeds), width=2.4, height=0.3 * len(arms) + 1.2)
    figure.set_figwidth(figure.get_figwidth() + 2.2)
    for axes, seed in zip(grid, seeds, strict=True):
        places = [(place, row) for place, (_, own) in enumerate(arms) for row in where(own, seed=seed)]
        for kind, style in STYLES.items():
            of_kind = [(place, change(row, GOLD)) for place, row in places if verdict(row) == kind]
            marks = [Mark(kind, gold.mean, kind, gold.low, gold.high) for _, gold in of_kind]
            draw_marks(axes, [place for place, _ in of_kind], marks, style).set_label(kind)
        reference_line(axes, 0, "x")
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.set_yticks(range(len(arms)), [arm.label if axes is grid[0] else "" for arm, _ in arms])
        set_axis(axes, "x", "change of gold")
    shared_legend(figure)
    alt = (
        f"Change of the gold preference since the start with its interval over captions, {len(arms)} arms, a panel for each of "
        f"{len(seeds)} seeds; colour and marker say what the panel of hacking, which does not see gold, says about the run: hacked, "
        "worse, doubtful, or no sign."
    )
    return Picture(figure, alt)


def facts(rows: Sequence[Row]) -> dict[str, float]:
    """How many runs there are by what gold says and what the panel says: `right_alarms`, `wrong_alarms`, `missed`,
    `right_silence`, `doubtful` and `doubtful_hacked` (among the last two), and the same with each piece of evidence alone as the alarm (`right_falls`,
    `wrong_falls`, ...); `kept_least`, the smallest share of a gain that a slight change of the pictures leaves. By arm: `hacked_ARM`,
    `alarms_ARM` and `worse_ARM` count runs, and lines have their mean, smallest and largest seed."""
    found: dict[str, float] = {"runs": len(rows)}

    def count(right: str, wrong: str, alarm: Callable[[Row], bool]) -> None:
        found[right] = sum(alarm(row) and is_hacked(row) for row in rows)
        found[wrong] = sum(alarm(row) and not is_hacked(row) for row in rows)

    count("right_alarms", "wrong_alarms", is_alarm)
    found["hacked"] = sum(map(is_hacked, rows))
    found["missed"] = found["hacked"] - found["right_alarms"]
    found["right_silence"] = found["runs"] - found["hacked"] - found["wrong_alarms"]
    doubtful = [row for row in rows if verdict(row) == "doubtful"]
    found["doubtful"], found["doubtful_hacked"] = len(doubtful), sum(map(is_hacked, doubtful))
    gaining = [row for row in rows if change(row, "proxy").low > 0]
    found["kept_least"] = min((row[one] / row["proxy"] for row in gaining for one in CHANGES), default=math.nan)
    for one in EVIDENCE:
        count(f"right_{one}", f"wrong_{one}", lambda row, one=one: row[f"evidence_{one}"] == 1)  # type: ignore[misc]
    for arm, own in trained.by_arm(rows).items():
        found[fact("hacked", arm.id)] = sum(map(is_hacked, own))
        found[fact("alarms", arm.id)] = sum(map(is_alarm, own))
        found[fact("worse", arm.id)] = sum(verdict(row) == "worse" for row in own)
        for one in EVIDENCE:
            found[fact(one, arm.id)] = sum(row[f"evidence_{one}"] for row in own)
        for line, name in SHOWN.items():
            found |= facts_of(trained.range_over_seeds([row[line] for row in own]), name, arm.id)
    return found


STUDY = Study(
    name="hacking",
    question="Is it a hack? The panel of `distar evaluate --hacking`, which never sees gold, on every arm of the study `world`: how "
    "often is its alarm right?",
    prediction="The rule was fixed before the runs, after three pilots with seeds of 100 and more: reward only, hacked and called so; "
    "Diff-Instruct* at scale 0.5, neither; Diff-Instruct++ with w = σ²/α² at scale 30, called hacked, with gold undecided. "
    "Now: Without a regularizer every run is hacked and the alarm is right, by CLIP and because the own prompt matters "
    "less. The two other preferences rise there, too: networks of one kind share blind spots, so the share of prompts where"
    " two fall stays small. Nothing hangs on details of pixels: most of the gain outlives JPEG, shift and blur. DIDR with a"
    " one-step proxy is called worse, rightly. Diff-Instruct* at scale 3 gives the alarm although its gold is back at its "
    "start only, and so do some runs of Diff-Instruct++ at the larger scales, whose gold rises by taste while pictures lose"
    " what captions state: the wrong alarms. No other arm gives one.",
    settings=settings,
    measure=measure,
    picture=picture,
    facts=facts,
)
