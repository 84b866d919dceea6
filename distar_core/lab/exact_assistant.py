"""Is the diversity that score regularization keeps a property of where it rests, or of the road? Networks with an exact score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import NonFiniteError
from ..evaluation.statistics import at_equal
from ..figures.charts import PLAIN, Axis, Line, lines
from ..figures.names import label_of
from ..figures.picture import GUIDE, STYLES, Picture, Style
from ..roles import Score, Trainable
from ..runs.run import check_finite
from ..schedule import NoiseSchedule
from ..toy.frontier import at_rest, known_reward, read_points
from ..toy.page import Cause
from ..toy.records import REGULARIZERS
from ..toy.ring import LEVELS, LOOP, REWARDS, SCHEDULE, TOY_METHODS, no_conditions, reference, sample, toy_state
from ..training import State, post_train
from ..truth.kernel import KernelScore
from . import exact_generator
from .matched import REACH, beside_the_line, fixed_point_line, found_in, interval
from .study import Row, Study, fact, facts_of, interval_line, over_seeds, read_rows, values_of, where
from .toy_runs import SAMPLES, UNKNOWN, start_generator

REWARD = "mode"
TARGET = 0.66
"""The mean reward at which regularizers are compared, half-way to the best."""
KERNEL = 4096
"""Fresh samples of the kernel mean at each step; FINER has four times as many."""
BLIND_BELOW = 0.6
"""Half of the toy's noise levels are below."""
EXACT, FINER, BLIND, LEARNED = "exact", "finer", "blind", "learned"
LABELS = {EXACT: "exact assistant", BLIND: f"blind below σ = {BLIND_BELOW:g}", LEARNED: "learned assistant"}
MOMENTS = 8
"""Into how many equal parts a run is divided; at the end of each but the last it is looked at, as at its own end."""
WATCHED = ("reward", "modes", "off_support")
BESIDE = ("modes", "off_support", "spread")
METRICS = {
    "modes": "effective modes",
    "off_support": "share off the data",
    "spread": "spread, fullest mode",
    "excess_kl": "excess KL (nats)",
}
SCALES = {
    "star": (0.83, 1.6, 1.8),
    "l2": (0.66, 1.4, 2.0),
    "kl-one": (1.4, 1.82, 2.5),
    "kl-x0": (0.7, 0.9),
}
AIMED = {"star": 0.83, "l2": 0.66, "kl-one": 1.82}
"""The scales at which the fixed points have a mean reward of about TARGET; that of KL with w = σ²/α² lies between its two."""
OTHERS = (
    (FINER, "star", 0.83),
    (FINER, "kl-one", 1.82),
    (BLIND, "star", 0.83),
    (LEARNED, "star", 0.83),
    (LEARNED, "l2", 0.66),
    (LEARNED, "kl-one", 1.82),
)
TIMES = 10
LONGER = ("star", "kl-one")
"""The regularizers that also run TIMES as long, at the scale of AIMED."""


def settings(profile: str) -> list[Row]:
    """Regularizer x reward scale x seed with the exact assistant; three other assistants; and two ten times longer."""
    seeds, steps = {"ci": (2, 8), "fast": (2, 300), "full": (5, 2000)}[profile]
    asked = [(EXACT, name, scale, 1) for name in SCALES for scale in SCALES[name]]
    asked += [(*other, 1) for other in OTHERS] + [(EXACT, name, AIMED[name], TIMES) for name in LONGER]
    if profile == "ci":
        asked = [(EXACT, "star", 0.83, 1), (BLIND, "star", 0.83, 1), (EXACT, "star", 0.83, TIMES)]
    return [
        {
            "assistant": assistant,
            "regularizer": name,
            "reward_scale": scale,
            "seed": seed,
            "steps": times * steps,
        }
        for assistant, name, scale, times in asked
        for seed in range(seeds)
    ]


class BlindBelow(nn.Module):
    """An assistant that sees no gap at noise levels below `sigma`: there its score is the reference's, elsewhere its own."""

    def __init__(self, score: nn.Module, reference: Score, schedule: NoiseSchedule, sigma: float) -> None:
        super().__init__()
        self.score, self.schedule, self.sigma = score, schedule, sigma
        # in a tuple, as the reference is no part of the assistant
        self._reference = (reference,)

    def forward(self, x_t: Tensor, t: Tensor, condition: Any = None) -> Tensor:
        """The score, [B, n]."""
        seen = self.schedule.coefficients(t, x_t)[1] >= self.sigma
        return torch.where(seen, self.score(x_t, t, condition), self._reference[0](x_t, t, condition))


def state_with(assistant: str, *, seed: int, steps: int) -> State:
    """A run of the toy from its distilled generator, with one of the four assistants."""
    mixture = reference()
    state = toy_state(start_generator(steps), mixture, REWARDS[REWARD], seed=seed, steps=steps)
    if assistant == LEARNED:
        return state
    count = 4 * KERNEL if assistant == FINER else KERNEL
    score: nn.Module = KernelScore(state.roles.generator.module, SCHEDULE, count, seed=seed)
    if assistant == BLIND:
        score = BlindBelow(score, state.roles.reference, SCHEDULE, BLIND_BELOW)
    state.roles = state.roles._replace(assistant=Trainable(score))
    return state


def kernel_error(generator: nn.Module, *, count: int = KERNEL, rows: int = 512) -> dict[float, tuple[float, float]]:
    """How wrong the kernel mean is at each noise level, in eps-units: the root mean square and the median over noised samples
    of the generator; the truth is a kernel mean of 2¹⁷ samples."""
    own, truth = (KernelScore(generator, SCHEDULE, many, seed=many) for many in (count, 2**17))
    rng = torch.Generator().manual_seed(0)
    found = {}
    with torch.no_grad():
        x0 = generator(torch.randn(rows, 2, generator=rng), None)
        for sigma in LEVELS:
            x_t, t = x0 + sigma * torch.randn(rows, 2, generator=rng), torch.full((rows,), sigma)
            error = sigma * (own(x_t, t) - truth(x_t, t)).norm(dim=1)
            found[sigma] = float(error.square().mean().sqrt()), float(error.median())
    return found


def measure(setting: Row) -> dict[str, float]:
    """The summary of a run at its end, and mean reward, modes and share off the data on the way (`reward_1` …)."""
    steps, seed, name = int(setting["steps"]), int(setting["seed"]), setting["regularizer"]
    method = replace(TOY_METHODS[name], reward_scale=setting["reward_scale"])
    state = state_with(setting["assistant"], seed=seed, steps=steps)
    loop = LOOP if setting["assistant"] == LEARNED else LOOP | {"warmup": 0}
    found = {f"{what}_{k}": math.nan for k in range(1, MOMENTS) for what in WATCHED}
    moments = {max(1, steps * k // MOMENTS): k for k in range(1, MOMENTS)}
    try:
        for record in post_train(state, method, no_conditions, steps=steps, seed=seed, **loop):
            check_finite(record)
            k = moments.get(record.step + 1)
            if k is not None:
                now = found_in(sample(state, SAMPLES), REWARD, reference())
                found |= {f"{what}_{k}": now[what] for what in WATCHED}
        return found | found_in(sample(state, SAMPLES), REWARD, reference())
    except NonFiniteError:
        return found | UNKNOWN | {"excess_kl": math.nan}


def _runs(rows: Sequence[Row], assistant: str, name: str) -> list[Row]:
    """The runs of an assistant and a regularizer that were not ten times longer."""
    return where(rows, assistant=assistant, regularizer=name, steps=rows[0]["steps"])


def _on_the_way(label: str, runs: Sequence[Row], what: str, style: Style) -> Line:
    """A column against the step, over the runs' seeds."""
    steps = runs[0]["steps"]
    columns = [f"{what}_{k}" for k in range(1, MOMENTS)] + [what]
    at = [steps * k / MOMENTS for k in range(1, MOMENTS + 1)]
    return interval_line(label, at, [over_seeds(runs, column) for column in columns], style)


def _beside_the_lines(rows: Sequence[Row], metric: str) -> list[Line]:
    """A metric of the networks with an exact assistant against mean reward; the fixed points as lines; and the exact generators
    of the recorded study `exact-generator`, means over their seeds, as crosses."""
    points = read_points()
    own = {name: _runs(rows, EXACT, name) for name in REGULARIZERS}
    found = [line for name in own if own[name] for line in beside_the_line(points, REWARD, name, own[name], metric)]
    maps = where(read_rows("exact-generator"), generator=exact_generator.LEARNED, reward_name=REWARD)
    for name in own:
        at_scales = [where(maps, regularizer=name, reward_scale=scale) for scale in exact_generator.SCALES]
        reward, height = ([over_seeds(runs, key).mean for runs in at_scales if runs] for key in ("reward", metric))
        found.append(Line("", reward, height, style=Style(STYLES[name].color, "x", "")))
    return [*found, Line("exact generator", [], [], style=Style(GUIDE, "x", ""))]


def _fixed_point(name: str, scale: float, steps: float) -> Line:
    return fixed_point_line(known_reward(read_points(), REWARD, name, scale), 0, steps)


def _by_assistant(rows: Sequence[Row], what: str) -> list[Line]:
    """A column of pseudo-Huber's runs on the way with each assistant, at the scale whose fixed point has about TARGET."""
    found = []
    for assistant, style in zip(LABELS, (*PLAIN[:2], STYLES["star"]), strict=True):
        own = _aimed(rows, "star", assistant)
        if own:
            found.append(_on_the_way(LABELS[assistant], own, what, style))
    return found


def _longer(rows: Sequence[Row], what: str) -> list[Line]:
    """A column against the step: of pseudo-Huber's runs, and of those of LONGER that were ten times longer."""
    steps = rows[0]["steps"]
    found = [_on_the_way(f"{label_of('star')}, {int(steps):,} steps", _aimed(rows, "star"), what, SHORT)]
    for name in LONGER:
        longer = _aimed(rows, name, times=TIMES)
        if longer:
            found.append(_on_the_way(f"{label_of(name)}, {TIMES * int(steps):,} steps", longer, what, STYLES[name]))
    return found


def _aimed(rows: Sequence[Row], name: str, assistant: str = EXACT, times: int = 1) -> list[Row]:
    """The runs of a regularizer at the scale whose fixed point has about TARGET, so many times as long as the others."""
    steps = times * rows[0]["steps"]
    return where(rows, assistant=assistant, regularizer=name, reward_scale=AIMED[name], steps=steps)


SHORT = STYLES["star"]._replace(color=PLAIN[2].color)
MEAN_REWARD = Axis("mean reward", limits=(0.3, 1.0))
STEP = "generator step"


def picture(rows: Sequence[Row]) -> Picture:
    """Three metrics against mean reward beside the fixed points; pseudo-Huber with three assistants; ten times longer."""
    scale, steps = AIMED["star"], rows[0]["steps"]
    panels = {METRICS[metric]: _beside_the_lines(rows, metric) for metric in BESIDE}
    panels[f"pseudo-Huber, scale {scale:g}"] = [_fixed_point("star", scale, steps), *_by_assistant(rows, "reward")]
    panels["ten times longer: mean reward"] = [_fixed_point("star", scale, TIMES * steps), *_longer(rows, "reward")]
    panels["ten times longer: modes"] = _longer(rows, "modes")
    alt = (
        f"Networks under the reward “{REWARD}”. Three panels against mean reward: effective modes, share off the data and spread; "
        "lines are fixed points of four regularizers, markers networks with an exact assistant, crosses exact generators. One panel "
        "of mean reward on the way with pseudo-Huber, for an exact assistant, one that sees nothing at low noise, and the toy's "
        "own, with the fixed point as a dashed line. Two panels of mean reward and modes on the way, of runs ten times longer with "
        f"the exact assistant, pseudo-Huber's and those of KL, w = 1. Bands over {len(values_of(rows, 'seed'))} seeds."
    )
    return lines(
        panels,
        alt=alt,
        xlabel=[MEAN_REWARD, MEAN_REWARD, MEAN_REWARD, STEP, STEP, STEP],
        ylabel=["", "", "", "mean reward", "mean reward", "effective modes"],
        markers=True,
        columns=3,
    )


def facts(rows: Sequence[Row]) -> dict[str, float]:
    """Where networks end. By assistant, regularizer and scale (the longer ones as `long_…`): mean reward, modes, share off the
    data, spread and excess KL at the end, and `known_…`, the fixed point's mean reward.

    `lost_…`: runs that became NaN. And by regularizer, with the exact assistant: the metrics at TARGET (`at_target_…`), each seed
    between two of its own runs of which one is within REACH, and for how many seeds that is known (`seeds_at_target_…`); the
    fixed points' modes there (`line_…`).
    """
    found: dict[str, float] = {}
    points = read_points()
    for row in rows:
        name, scale, long = row["regularizer"], row["reward_scale"], row["steps"] > rows[0]["steps"]
        key = ("long",) * long + (row["assistant"], name, scale)
        if fact("reward", *key) in found:
            continue
        own = where(rows, assistant=row["assistant"], regularizer=name, reward_scale=scale, steps=row["steps"])
        found[fact("lost", *key)] = sum(not math.isfinite(run["reward"]) for run in own)
        for metric in ("reward", *METRICS):
            known = interval(run[metric] for run in own)
            if known:
                found |= facts_of(known, metric, *key)
        found[fact("known", name, scale)] = known_reward(points, REWARD, name, scale)
    for name in REGULARIZERS:
        own = _runs(rows, EXACT, name)
        found[fact("line", "modes", name)] = at_rest(points, REWARD, name, TARGET, "modes")
        for metric in METRICS:
            values = at_equal(own, "reward", TARGET, metric, reach=REACH) if own else []
            known = interval(values)
            if known:
                found |= facts_of(known, "at_target", metric, name)
                found[fact("seeds_at_target", metric, name)] = sum(math.isfinite(value) for value in values)
    return found


def assistants_picture(rows: Sequence[Row]) -> Picture:
    """Mean reward and share off the data on the way, for pseudo-Huber at its first scale with each assistant."""
    scale = AIMED["star"]
    return lines(
        {
            "mean reward": [_fixed_point("star", scale, rows[0]["steps"]), *_by_assistant(rows, "reward")],
            "share off the data": _by_assistant(rows, "off_support"),
        },
        alt=f"Pseudo-Huber at scale {scale:g} with three assistants: mean reward and share off the data against the generator step. "
        "The exact assistant stays below the fixed point, the one that is blind at low noise goes far beyond.",
        xlabel=STEP,
        ylabel=["mean reward", ""],
        markers=True,
    )


def causes(rows: Sequence[Row] | None = None) -> list[Cause]:
    """Why networks rest elsewhere than their objectives, one cause each, for the demo's page; from the recorded study.

    What the titles claim holds for the rows that ship, which a test checks.
    """
    rows = read_rows(STUDY.name) if rows is None else rows
    found = facts(rows)
    star, l2, kl = (AIMED[name] for name in ("star", "l2", "kl-one"))
    steps = int(rows[0]["steps"])

    def of(metric: str, *key: str | float) -> float:
        return found[fact(metric, *key)]

    held = lines(
        {
            f"{label_of(name)}, scale {scale:g}": [
                _fixed_point(name, scale, steps),
                _on_the_way(label_of(name), _aimed(rows, name), "reward", STYLES[name]),
            ]
            for name, scale in (("kl-one", kl), ("star", star), ("l2", l2))
        },
        alt="Mean reward against the generator step with an exact assistant, one panel for each of three regularizers, with the "
        "fixed point as a dashed line: KL with w = 1 rises to it, the two score divergences stay far below.",
        xlabel=STEP,
        ylabel=Axis("mean reward", limits=(0.3, 0.75)),
        markers=True,
    )
    longer = lines(
        {
            "mean reward": [_fixed_point("star", star, TIMES * steps), *_longer(rows, "reward")],
            "effective modes": _longer(rows, "modes"),
        },
        alt=f"Mean reward and effective modes with an exact assistant against the generator step, up to {TIMES * steps:,} steps: with "
        f"pseudo-Huber at scale {star:g} the reward rises all the way, towards the fixed point, a dashed line, and the modes fall; "
        f"with KL, w = 1, at scale {kl:g} the reward is on the line from the first marker on.",
        xlabel=STEP,
        ylabel=["mean reward", ""],
        markers=True,
    )
    filaments = lines(
        {METRICS[metric]: _beside_the_lines(rows, metric) for metric in ("off_support", "modes", "spread")},
        alt="Share off the data, effective modes and spread against mean reward: lines are fixed points, crosses exact generators, "
        "which lie near them, and markers networks with an exact assistant, which have more off the data than their lines and no "
        "fewer modes.",
        xlabel=MEAN_REWARD,
        ylabel=["", "", ""],
        markers=True,
    )
    three = ("star", "l2", "kl-one")
    off = [of("at_target", "off_support", name) for name in three]
    points = read_points()
    rest = {
        metric: {name: at_rest(points, REWARD, name, TARGET, metric) for name in three}
        for metric in ("off_support", "modes")
    }
    modes = ", ".join(
        f"{of('at_target', 'modes', name):.1f} with {label_of(name)} (its line has {rest['modes'][name]:.1f})"
        for name in three
    )
    return [
        Cause(
            "08_low_noise.png",
            "A network has to carry its mass through empty space, and an exact score divergence slows that down",
            f"An exact assistant takes its score from {KERNEL:,} fresh samples at each step. With it, at reward scales whose fixed "
            f"points have mean reward {TARGET:.2f}, KL with w = 1 reaches {of('reward', EXACT, 'kl-one', kl):.2f} in {steps:,} steps, "
            f"pseudo-Huber {of('reward', EXACT, 'star', star):.2f} and squared L2 {of('reward', EXACT, 'l2', l2):.2f}. Squared L2 "
            f"gets to {of('reward', EXACT, 'l2', SCALES['l2'][1]):.2f} at about twice its scale, pseudo-Huber to "
            f"{of('reward', EXACT, 'star', SCALES['star'][2]):.2f}. The maps of an exact generator pass mass from mode to mode by "
            "their probabilities; a network is continuous and has to carry it through the empty space between.",
            held,
        ),
        Cause(
            "09_blind.png",
            "With an assistant that ignores low noise it collects too much reward; with the learned one it ends between",
            f"The same run with an assistant that sees no gap below σ = {BLIND_BELOW:g} reaches "
            f"{of('reward', BLIND, 'star', star):.2f}, beyond the fixed point, with "
            f"{of('modes', BLIND, 'star', star):.1f} modes left, {of('off_support', BLIND, 'star', star):.0%} off the data and the "
            f"spread {of('spread', BLIND, 'star', star):.2f}. The assistant that networks learn ends "
            f"between the two, near the fixed point, at {of('reward', LEARNED, 'star', star):.2f} with "
            f"{of('modes', LEARNED, 'star', star):.1f} modes. Its gradient at low noise is not the exact one, so two errors may have "
            "cancelled to bring it near the fixed point. KL with w = 1 depends less on the assistant: it ends at "
            f"{of('reward', LEARNED, 'kl-one', kl):.2f} with the learned one and at {of('reward', EXACT, 'kl-one', kl):.2f} with the exact.",
            assistants_picture(rows),
        ),
        Cause(
            "10_steps.png",
            "Slow is not stuck: ten times the steps bring pseudo-Huber nearer to its fixed point",
            f"{TIMES * steps:,} steps lift pseudo-Huber from {of('reward', EXACT, 'star', star):.2f} to "
            f"{of('reward', 'long', EXACT, 'star', star):.2f}, and its modes fall from {of('modes', EXACT, 'star', star):.1f} to "
            f"{of('modes', 'long', EXACT, 'star', star):.1f}: it had more modes mostly because it had collected less reward. "
            f"KL with w = 1 ends at {of('reward', 'long', EXACT, 'kl-one', kl):.3f}, its fixed point being at "
            f"{of('known', 'kl-one', kl):.3f}. The learning rate of the longer runs falls ten times more "
            "slowly, so they are ahead at equal step; that it falls is why the curves flatten, and they do not show whether pseudo-Huber "
            f"would reach its own fixed point at {of('known', 'star', star):.2f}.",
            longer,
        ),
        Cause(
            "11_filaments.png",
            "Networks leave filaments between the modes",
            f"Lines are fixed points, crosses exact generators, other markers networks with an exact assistant. At mean reward "
            f"{TARGET:.2f} the networks of pseudo-Huber, squared L2 and KL with w = 1 have {min(off):.0%} to {max(off):.0%} of their "
            f"samples off the data, their fixed points {max(rest['off_support'].values()):.0%}; the distilled generator that they "
            f"start from has some of it already. Modes: {modes}.",
            filaments,
        ),
    ]


STUDY = Study(
    name="exact-assistant",
    question="Is the diversity that score regularization keeps a property of where it rests, or of the road? Networks whose "
    "assistant is exact.",
    prediction="At equal mean reward (0.66) networks with pseudo-Huber and with squared L2 keep as many modes as with KL, w = 1, to "
    "within half a mode, and lie farther off the data; only KL with w = σ²/α² narrows the fullest mode. The score "
    "divergences stop far below their fixed points at the scales that aim for 0.66, pseudo-Huber below 0.45, and need about twice "
    "the scale to get there; both KL rows rest within 0.05 of theirs. An assistant that is blind at low noise lets pseudo-Huber "
    "pass its fixed point, with a wider mode and more off the data. Ten times longer KL moves by less than 0.02 of mean reward, "
    "pseudo-Huber by more than 0.05 towards its fixed point: what it keeps beyond its line belongs to the road. A kernel mean of "
    "four times as many samples changes no mean reward by more than 0.02. (Written after pilots of one seed, or of two.)",
    settings=settings,
    measure=measure,
    picture=picture,
    facts=facts,
)
