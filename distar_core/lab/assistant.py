"""How good must the assistant be, and what fails first? Asked of a generator whose score is known at every level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import NonFiniteError
from ..evaluation.statistics import Interval
from ..figures.charts import Axis, Line, lines
from ..figures.picture import CYCLE, Picture, Style
from ..losses import gap
from ..methods import Method
from ..rates import cosine_decay
from ..roles import Trainable
from ..runs.run import check_finite
from ..schedule import TimeLaw
from ..toy.ring import LEVELS, LOOP, REWARDS, SCHEDULE, TOY_METHODS, new_generator, no_conditions, reference, toy_state
from ..toy.summary import WINDOW
from ..training import State, generator_step, make_batch, noised_samples, post_train, scores_at
from ..truth.grid import Level
from ..truth.quadrature import AffineGenerator, GeneratorScore, cosine
from .study import Row, Study, fact, facts_of, interval_line, over_seeds, values_of, where
from .toy_runs import UNKNOWN, flat_components_diverge, matched_scale, outcome

REWARD = "mode"
GENERATOR_RATE = 1.0
REGULARIZERS = ("star", "kl-one")
MOMENTS = {"early": 8, "half": 2, "end": 1}


class Kind(NamedTuple):
    """An assistant: its label, updates per generator step, learning rate, width of its network; no updates means the
    exact score."""

    label: str
    updates: int = 2
    rate: float = 2e-3
    width: int = 96


DEFAULT, STALE, GENEROUS, LAVISH, EXACT, NARROW = "default", "stale", "generous", "lavish", "exact", "width-4"
KINDS = {
    DEFAULT: Kind("toy default"),
    "1-update": Kind("1 update", updates=1),
    "5-updates": Kind("5 updates", updates=5),
    STALE: Kind("rate / 30 (stale)", rate=2e-3 / 30),
    "rate-over-10": Kind("rate / 10", rate=2e-4),
    "rate-over-3": Kind("rate / 3", rate=2e-3 / 3),
    "rate-times-3": Kind("rate · 3", rate=6e-3),
    "rate-times-10": Kind("rate · 10", rate=2e-2),
    NARROW: Kind("width 4", width=4),
    "width-12": Kind("width 12", width=12),
    "width-32": Kind("width 32", width=32),
    GENEROUS: Kind("5 updates, rate · 3", updates=5, rate=6e-3),
    LAVISH: Kind("20 updates, rate · 3", updates=20, rate=6e-3),
    EXACT: Kind("exact score", updates=0),
}
DRAWN = {
    DEFAULT: CYCLE[0],
    STALE: CYCLE[1],
    NARROW: CYCLE[2],
    GENEROUS: CYCLE[3],
    EXACT: Style("black", "*", ""),
}
OTHERS = Style("#9c9ca1", "x", "")


def settings(profile: str) -> list[Row]:
    """Regularizer x assistant x seed: one thing varied at a time from the toy's defaults (two in GENEROUS and
    LAVISH), and the exact score.

    KL gets the assistants that the figure draws, the score divergence all.
    """
    few = (DEFAULT, STALE, GENEROUS, EXACT)
    kinds, regularizers, seeds, steps = {
        "ci": ((DEFAULT, EXACT), REGULARIZERS[:1], 2, 8),
        "fast": (few, REGULARIZERS, 2, 200),
        "full": (tuple(KINDS), REGULARIZERS, 5, 800),
    }[profile]
    return [
        {
            "assistant": kind,
            "regularizer": regularizer,
            "updates": KINDS[kind].updates,
            "rate": KINDS[kind].rate,
            "width": KINDS[kind].width,
            "seed": seed,
            "steps": steps,
        }
        for kind in kinds
        for regularizer in regularizers[: 2 if kind in DRAWN else 1]
        for seed in range(seeds)
    ]


def ring_generator(offset: float = 0.15, deviation: float = 0.2) -> AffineGenerator:
    """A generator whose law is known: 32 components, four about each mode of the ring, close to the reference; float32.

    A mode then has the variance offset² + deviation², the reference's with the default values. The weights are fixed,
    so a mode's share changes only by components that walk to another mode.
    """
    corners = offset * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    shifts = (reference().means[:, None] + corners).flatten(0, 1)
    scales = deviation * torch.eye(2).expand(len(shifts), 2, 2)
    return AffineGenerator(torch.full((len(shifts),), 1 / len(shifts)), shifts, scales)


def known_state(kind: Kind, *, seed: int, steps: int) -> State:
    """The toy's state with `ring_generator` in the generator's place, moved by SGD at the rate GENERATOR_RATE.

    Adam would give each of the 192 parameters a step of the same size, however small its gradient is beside its noise.
    """
    mixture = reference()
    stand_in = new_generator(mixture, kind.width)
    reward = REWARDS[REWARD]
    state = toy_state(stand_in, mixture, reward, seed=seed, steps=steps, assistant_lr=kind.rate, width=kind.width)
    module = ring_generator()
    generator = Trainable(
        module,
        torch.optim.SGD(module.parameters(), lr=GENERATOR_RATE),
        lr=cosine_decay(GENERATOR_RATE, steps),
        ema_decay=0.98,
    )
    state.roles = state.roles._replace(generator=generator)
    if kind.updates == 0:
        state.roles = state.roles._replace(assistant=Trainable(GeneratorScore(module, SCHEDULE)))
    return state


class Probe(NamedTuple):
    """The assistant against the exact score at one noise level, on one batch.

    Attributes:
        found, exact: the regularizer's gradient in the generator's parameters, with the assistant and with the exact
            score, [P] each.
        error: E‖sigma (s_psi − s_theta)‖², the assistant's squared error in eps-units.
        gap: E‖sigma (s_theta − s_ref)‖², what there is to be seen, in the same units.
        loss: the regularizer's mean loss, zero with the exact score but for the batch's noise (with a frozen law).
    """

    found: Tensor
    exact: Tensor
    error: float
    gap: float
    loss: float


def probe(state: State, method: Method, sigma: float, *, rows: int = 4096, seed: int = 0) -> Probe:
    """Compare the state's assistant with the exact score of its AffineGenerator at one level; changes nothing."""
    generator = state.roles.generator
    assert isinstance(generator.module, AffineGenerator)
    known = Trainable(GeneratorScore(generator.module, state.schedule))
    alone = replace(method, reward_at="nowhere", reward_scale=0.0)
    batch = make_batch(
        state,
        TimeLaw.levels((sigma,)),
        no_conditions,
        seed=seed,
        step=0,
        stream="probe",
        batch=rows,
        rows=slice(None),
    )
    gradients, scores, losses = [], [], []
    for assistant in (state.roles.assistant, known):
        asked = State(state.roles._replace(assistant=assistant), state.schedule)
        generator.zero_grad()
        losses.append(float(generator_step(asked, alone, batch).losses["regularizer"].mean()))
        gradients.append(torch.cat([p.grad.flatten() for p in generator.parameters().values() if p.grad is not None]))
        with torch.no_grad():
            noised = noised_samples(state.schedule, generator.module(batch.z, None), batch)
            scores.append(scores_at(asked.roles, replace(alone, exact=False), noised, None, state.schedule))
    generator.zero_grad()
    own, true = scores
    error = (noised.sigma * (own.assistant - true.assistant)).square().sum(-1).mean()
    seen = gap(noised, true, "eps").square().sum(-1).mean()
    return Probe(gradients[0], gradients[1], float(error), float(seen), losses[0])


def error_by_level(state: State, *, draws: int = 400_000, seed: int = 0) -> dict[float, tuple[float, float]]:
    """The assistant's squared error and the squared gap of any toy generator, both in eps-units, by noise level.

    The generator's law is a histogram of `draws` samples, blurred on a grid, which gives its density and score; both
    means are over the noised law. Good to about one per cent where the error is not tiny.
    """
    generator = state.roles.generator.module
    rng = torch.Generator().manual_seed(seed)
    latent = generator.latent(lambda name, shape: torch.randn(draws, *shape, generator=rng))  # type: ignore[operator]
    found: dict[float, tuple[float, float]] = {}
    with torch.no_grad():
        mass, _ = WINDOW.histogram(generator(latent, None))
        for sigma in LEVELS:
            level = Level(WINDOW, sigma)
            density = level.density(mass)
            inside = density > 1e-6 * density.max()
            weight = density[inside] / density[inside].sum()
            true = level.density_gradient(mass)[inside] / density[inside, None]
            points = level.points[inside].float()
            t = torch.full((len(points),), sigma)
            own, ref = (role(points, t, None) for role in (state.roles.assistant.module, state.roles.reference))
            error, seen = (float(weight @ (sigma * gap).square().sum(-1)) for gap in (own - true, true - ref))
            found[sigma] = error, seen
    return found


def _compared(probes: Sequence[Probe]) -> dict[str, float]:
    found, exact = (torch.stack([getattr(one, name) for one in probes]).mean(0) for name in ("found", "exact"))
    return {"cosine": cosine(found, exact), "size": float(found.norm() / exact.norm())}


def measure(setting: Row) -> dict[str, float]:
    """Gradient with the assistant against gradient with the exact score, early, half-way and at the end; the outcome.

    `cosine` and `size` (relative norm) of the sum over levels at each moment, by level half-way, with the assistant's
    error and the gap; then the summary of the averaged generator.
    """
    steps, kind = int(setting["steps"]), KINDS[setting["assistant"]]
    name = setting["regularizer"]
    method = replace(TOY_METHODS[name], reward_scale=matched_scale(REWARD, name))
    state = known_state(kind, seed=int(setting["seed"]), steps=steps)
    moments = {max(1, steps // share): moment for moment, share in MOMENTS.items()}
    many = 4096 if steps >= 100 else 256
    columns = [f"{what}_{moment}" for moment in MOMENTS for what in ("cosine", "size", "error")]
    columns += [f"{what}_{k}" for k in range(len(LEVELS)) for what in ("cosine", "size", "error", "gap", "loss")]
    found = dict.fromkeys(columns, math.nan)
    summary = UNKNOWN
    try:
        loop = LOOP | {"assistant_updates": kind.updates, "warmup": LOOP["warmup"] if kind.updates else 0}
        with flat_components_diverge():
            for record in post_train(state, method, no_conditions, steps=steps, seed=int(setting["seed"]), **loop):
                check_finite(record)
                moment = moments.get(record.step + 1)
                if moment is None:
                    continue
                rows = many if moment == "half" else many // 4
                probes = [probe(state, method, sigma, rows=rows) for sigma in LEVELS]
                found |= {f"{what}_{moment}": value for what, value in _compared(probes).items()}
                found[f"error_{moment}"] = sum(one.error for one in probes) / len(probes)
                if moment == "half":
                    for k, one in enumerate(probes):
                        found |= {f"{what}_{k}": value for what, value in _compared([one]).items()}
                        found |= {f"error_{k}": one.error, f"gap_{k}": one.gap, f"loss_{k}": one.loss}
        summary = outcome(state, REWARD)
    except NonFiniteError:
        pass
    return found | summary | {"diverged": float(not math.isfinite(summary["kl"]))}


def _by_level(rows: Sequence[Row], what: str) -> list[Interval]:
    kept = _finite(rows, f"{what}_0")
    return [over_seeds(kept, f"{what}_{k}") for k in range(len(LEVELS))]


def _level_line(kind: str, rows: Sequence[Row]) -> Line:
    return interval_line(KINDS[kind].label, LEVELS, _by_level(rows, "cosine"), DRAWN[kind])


def picture(rows: Sequence[Row]) -> Picture:
    """Cosine by noise level for each regularizer, and where the score runs end: KL to the reference against reward."""
    panels: dict[str, list[Line]] = {}
    for name in values_of(rows, "regularizer"):
        of_name = where(rows, regularizer=name)
        kinds = [kind for kind in DRAWN if kind != EXACT and where(of_name, assistant=kind)]
        panels[name] = [_level_line(kind, where(of_name, assistant=kind)) for kind in kinds]
    ends = []
    shown = where(rows, regularizer=values_of(rows, "regularizer")[0])
    for kind in values_of(shown, "assistant"):
        of_kind = _finite(where(shown, assistant=kind), "kl")
        if len(of_kind) < 2:
            continue
        reward, kl = over_seeds(of_kind, "reward"), over_seeds(of_kind, "kl")
        style = DRAWN.get(kind, OTHERS)._replace(line="")
        label = KINDS[kind].label if kind in DRAWN else "other assistants"
        ends.append(interval_line(label, [reward.mean], [kl], style))
    panels["where the score runs end"] = ends
    count = len(panels) - 1
    alt = (
        f"{count} panels of the cosine between the regularizer's gradient with the assistant and with the exact score "
        f"against the noise level, half-way through the runs, one line per assistant, bands over "
        f"{len(values_of(rows, 'seed'))} seeds; and a panel of KL to the reference against mean reward at the end, one "
        "marker per assistant."
    )
    level, cosine = Axis("noise level σ", log=True), Axis("cosine with exact gradient", limits=(-0.55, 1.05))
    return lines(
        panels,
        alt=alt,
        xlabel=[*[level] * count, "mean reward"],
        ylabel=[*[cosine] * count, "KL to the reference"],
        markers=True,
    )


def _finite(rows: Sequence[Row], key: str) -> list[Row]:
    """The rows whose run got as far as this column."""
    return [row for row in rows if math.isfinite(row[key])]


def failing_levels(rows: Sequence[Row]) -> list[float]:
    """The noise levels, from the lowest on, at which the mean cosine over the seeds is below one half or unknown."""
    return [sigma for sigma, found in zip(LEVELS, _by_level(rows, "cosine"), strict=True) if not found.mean >= 0.5]


def facts(rows: Sequence[Row]) -> dict[str, float]:
    """By regularizer: for the toy's assistant, half-way, the cosine of all levels, the lowest and the highest level's, at
    how many levels it is below 0.5, and its squared error as a share of the squared gap at the three lowest levels.

    And for every assistant: the mean cosine at each level (0 the lowest), at how many levels it is surely above 0.5, how many
    runs were lost, and KL, modes and reward of the others at the end.
    """
    found: dict[str, float] = {}
    top = len(LEVELS) - 1
    for name in values_of(rows, "regularizer"):
        default = where(rows, regularizer=name, assistant=DEFAULT)
        error, seen = (sum(level.mean for level in _by_level(default, what)[:3]) for what in ("error", "gap"))
        found |= {fact("failing", name): len(failing_levels(default)), fact("error_share", name): error / seen}
        for key, column in (("cosine", "half"), ("cosine_lowest", "0"), ("cosine_highest", f"{top}")):
            found |= facts_of(over_seeds(_finite(default, f"cosine_{column}"), f"cosine_{column}"), key, name)
        for kind in values_of(where(rows, regularizer=name), "assistant"):
            own = where(rows, regularizer=name, assistant=kind)
            ended = _finite(own, "kl")
            found |= {
                fact("good", name, kind): sum(level.low > 0.5 for level in _by_level(own, "cosine")),
                fact("lost", name, kind): len(own) - len(ended),
                **{fact("cosine", name, kind, k): level.mean for k, level in enumerate(_by_level(own, "cosine"))},
            }
            if len(ended) > 1:
                for metric in ("kl", "modes", "reward"):
                    found |= facts_of(over_seeds(ended, metric), metric, name, kind)
    return found


STUDY = Study(
    name="assistant",
    question="How good must the assistant be, and what fails first?",
    prediction="The toy's own assistant is good: a cosine above 0.9 with the exact gradient over all levels. A slow one (rate "
    "/ 30) or a narrow one (width 4) fails, at low noise first, where the fine shape of the generator is hard to learn; the "
    "slow one ends in collapse. The score leash suffers more than KL, for the error enters its loss twice, with its slope. "
    "(Written after short development runs, so not blind.)",
    settings=settings,
    measure=measure,
    picture=picture,
    facts=facts,
)
