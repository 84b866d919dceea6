"""Algorithm 1, once: the loop that post-trains a one-step generator of any size with any method of the family.

Every term acts on a sample through its pulls, the gradients of its loss at x_t and at x_0. The regularizers of this
library live at x_t and the reward at x_0; a regularizer may use both. The graph is cut at both points, so the generator
gets a single backward pass with alpha_t · pull_t + pull_0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .draws import draw, require_whole, share_of
from .losses import (
    Noised,
    Scores,
    as_constants,
    cfg_reward,
    denoising,
    differentiate,
    gap_seen_and_missed,
    like_samples,
    one_per_sample,
)
from .methods import Method
from .roles import Roles, evaluate_reward, guided, target_score
from .schedule import NoiseSchedule, TimeLaw

Conditions = Callable[[int, slice], Any]


@dataclass
class State:
    """A run in memory: who takes part, the noise schedule, and how far it is.

    Attributes:
        step: the next step; −warmup .. −1 update the assistant alone, 0, 1, … both.
        place: puts what the loop draws where the roles are; the identity on the CPU. It gets noise and times, and must
            leave integer times integers.
        perform: computes assistant_step or generator_step, its first argument, for a batch; another way to do so has to give
            the same results and gradients.
    """

    roles: Roles
    schedule: NoiseSchedule
    step: int | None = None
    place: Callable[[Tensor], Tensor] = lambda tensor: tensor
    perform: Callable[..., Any] = lambda half, *inputs: half(*inputs)


class Batch(NamedTuple):
    """What one update is computed from: z, t and the condition, and `noise(x0)`, which needs x0's shape."""

    z: Any
    t: Tensor
    condition: Any
    noise: Callable[[Tensor], Tensor]


class Pulls(NamedTuple):
    """What the terms did to each sample: per-sample losses [B], and pulls [B, ...] by term, scaled as applied.

    Attributes:
        at_x_t, at_x0: the pulls at the two cut points; a term that does not reach a point is missing there.
        alpha: carries a pull at x_t to x_0; broadcasts against the pulls.
        reward, t, gap_norm, gap_missed: as in Record.
    """

    losses: dict[str, Tensor]
    at_x_t: dict[str, Tensor]
    at_x0: dict[str, Tensor]
    alpha: Tensor
    reward: Tensor | None
    t: Tensor
    gap_norm: Tensor | None
    gap_missed: Tensor | None

    @property
    def pulls(self) -> dict[str, Tensor]:
        """Each term's pull at its own point: x_t where the term reaches it (regularizer, cfg), else x_0 (reward)."""
        return {term: self.at_x_t[term] if term in self.at_x_t else self.at_x0[term] for term in self.losses}

    @property
    def on_x0(self) -> dict[str, Tensor]:
        """What each term does to the generator's samples: alpha_t · pull_t + pull_0."""
        result = {term: self.alpha * pull for term, pull in self.at_x_t.items()}
        for term, pull in self.at_x0.items():
            result[term] = result[term] + pull if term in result else pull
        return result


class Record(NamedTuple):
    """What happened in one step; tensors stay where they are, so that reading them is the caller's choice.

    Attributes:
        step: negative in the warm-up.
        losses: per-sample values [B] by term: "assistant", "regularizer", "cfg", "reward". For the score divergence with
            a frozen law the regularizer's mean is zero with an exact assistant: it measures staleness, not progress. For
            integral KL the value itself means nothing.
        pull_norms: per-sample norms [B] of the pulls by term; of both together for a term that acts at x_t and x_0.
        reward: [B], or None when no term uses it.
        t: the noise levels of the samples that moved the generator [B].
        assistant_t: the noise levels of the assistant's last update [B], or None.
        gap_norm: ‖y‖ per sample [B] of the gap in units of eps, y = sigma (s_psi − s_ref), or None.
        gap_missed: ⟨y, sigma (∇log q − s_psi)⟩ per sample [B], or None. Its mean is zero with an exact assistant, whatever
            y is, as the score is the mean of ∇log q at x_t. Divided by the mean of ‖y‖² it is how much longer the true gap
            is along y: the lag of the assistant.
        seconds: wall time of the step, without waiting for the device.
    """

    step: int
    losses: dict[str, Tensor]
    pull_norms: dict[str, Tensor]
    reward: Tensor | None
    t: Tensor | None
    assistant_t: Tensor | None
    gap_norm: Tensor | None
    gap_missed: Tensor | None
    seconds: float


def make_batch(
    state: State, law: TimeLaw, conditions: Conditions, *, seed: int, step: int, stream: str, batch: int, rows: slice
) -> Batch:
    """Draw rows of the global batch of a stream: latent, noise levels, and the noise once x0's shape is known."""

    def normal(name: str, shape: tuple[int, ...]) -> Tensor:
        return state.place(draw(seed, step, f"{stream}/{name}", (batch, *shape), rows))

    return Batch(
        z=state.roles.generator.module.latent(normal),  # type: ignore[operator]
        t=state.place(law.quantile(draw(seed, step, f"{stream}/t", (batch,), rows, uniform=True))),
        condition=conditions(step, rows),
        noise=lambda x0: normal("noise", tuple(x0.shape[1:])),
    )


def noised_samples(schedule: NoiseSchedule, x0: Tensor, batch: Batch) -> Noised:
    """The samples' noised versions; x0 and x_t are leaves, the two points where the graph is cut."""
    x0 = x0.detach().requires_grad_()
    noise = batch.noise(x0)
    x_t = schedule.add_noise(x0.detach(), noise, batch.t).requires_grad_()
    return Noised(x0, x_t, noise, batch.t, *schedule.coefficients(batch.t, x_t))


def assistant_step(state: State, method: Method, batch: Batch, share: float = 1.0) -> Tensor:
    """Weighted denoising score matching on the generator's samples, lambda(t)‖s_psi + eps/sigma‖², with its backward.

    Args:
        share: the part that this batch is of the whole one; scales the gradient.

    Returns:
        The per-sample loss, [B].
    """
    with torch.no_grad():
        x0 = state.roles.generator.module(batch.z, batch.condition)
    noised = noised_samples(state.schedule, x0, batch)
    score = state.roles.assistant.module(noised.x_t.detach(), noised.t, batch.condition)
    like_samples(score, noised.x_t, "assistant's score")
    loss = one_per_sample(method.assistant_weight(noised), x0, "assistant_weight") * denoising(score, noised)
    (share * loss.mean()).backward()
    return loss.detach()


def scores_at(roles: Roles, method: Method, noised: Noised, condition: Any, schedule: NoiseSchedule) -> Scores:
    """The scores that a method needs at x_t, with a graph to x_t exactly where the method differentiates them.

    With the reward at every level the reward's score is added once, to the conditional and the null score alike, so
    guidance stays that of the plain reference and a reward is never asked about the null condition.
    """
    target = target_score(roles.reference, roles.reward, method.reward_at, method.reward_scale, schedule)
    with torch.set_grad_enabled(method.exact):
        assistant_score = roles.assistant.module(noised.x_t, noised.t, condition)
        reference_score = target(noised.x_t, noised.t, condition)
    like_samples(assistant_score, noised.x_t, "assistant's score")
    like_samples(reference_score, noised.x_t, "reference's score")
    if not method.guides:
        return Scores(assistant_score, reference_score)
    with torch.set_grad_enabled(method.exact and method.guidance == "inside"):
        null_score = like_samples(roles.reference(noised.x_t, noised.t, None), noised.x_t, "null score")
        if target is not roles.reference:
            # reference − null has to stay the plain guidance direction, inside and outside
            null_score = null_score + (reference_score - roles.reference(noised.x_t, noised.t, condition))
    if method.guidance == "inside":
        reference_score = guided(reference_score, null_score, method.cfg_scale)
    return Scores(assistant_score, reference_score, null_score)


def generator_step(state: State, method: Method, batch: Batch, share: float = 1.0) -> Pulls:
    """The pulls of all terms on the generator's samples, and one backward pass through the generator with their sum.

    Every term is differentiated at both cut points. With `exact` False the scores are constants, and a regularizer has
    to detach them, as `field` does: one that would differentiate them is refused, as its value depends on x_t through
    them. So is a score that comes without a graph where the method is exact and the regularizer differentiates it.

    Args:
        share: the part that this batch is of the whole one; scales the gradient.

    Raises:
        ValueError: for such a regularizer, or a term with a gradient neither at x_t nor at x_0.
    """
    roles = state.roles
    x0 = roles.generator.module(batch.z, batch.condition)
    noised = noised_samples(state.schedule, x0, batch)
    losses: dict[str, Tensor] = {}
    constants: dict[str, Tensor] = {}
    reward = gap_norm = gap_missed = None
    if method.regularizer is not None or (method.guides and method.guidance == "outside"):
        scores = scores_at(roles, method, noised, batch.condition, state.schedule)
        weight = one_per_sample(method.weight(noised, scores).detach(), x0, "weight")
        if method.regularizer is not None:
            live, constants = as_constants(scores)
            losses["regularizer"] = weight * method.loss(noised, live)
            gap_norm, gap_missed = gap_seen_and_missed(noised, scores)
        if method.guides and method.guidance == "outside":
            losses["cfg"] = method.cfg_scale * weight * cfg_reward(noised, scores)
    if method.reward_at == "sample" and method.reward_scale:
        reward = evaluate_reward(roles.reward, noised.x0, batch.condition)
        losses["reward"] = -method.reward_scale * reward
    at_x_t: dict[str, Tensor] = {}
    at_x0: dict[str, Tensor] = {}
    for term, loss in losses.items():
        for at, pull in zip((at_x_t, at_x0), differentiate(term, loss, noised, constants), strict=True):
            if pull is not None:
                at[term] = pull
    reward = None if reward is None else reward.detach()
    losses = {term: loss.detach() for term, loss in losses.items()}
    pulls = Pulls(losses, at_x_t, at_x0, noised.alpha, reward, noised.t, gap_norm, gap_missed)
    x0.backward(sum(pulls.on_x0.values()) * (share / len(x0)))
    return pulls


def post_train(
    state: State,
    method: Method,
    conditions: Conditions,
    *,
    steps: int,
    seed: int,
    batch: int,
    warmup: int = 0,
    assistant_updates: int = 1,
    micro_batch: int | None = None,
    rows: slice | None = None,
) -> Iterator[Record]:
    """Run `method` until `steps` generator steps are done; yields one record per step, warm-up steps first.

    Everything that the loop draws is a function of (seed, step, stream), so a run that stops after any record and resumes
    from its checkpoint equals one that never stopped (dropout inside a role draws from torch's global source and is not
    covered). Nothing happens, and no argument is checked, before the first record is asked for. Then reference and reward
    are put in evaluation mode (`Roles.eval_frozen`): what does not learn has no dropout. The learners' modes are the caller's.

    Args:
        state: where to start; a new one (step None) begins with the warm-up.
        conditions: (step, rows) -> the conditions of these rows of the global batch, or None. Steps are negative in the
            warm-up, and row 0 of step 0 is asked for once in advance.
        steps: generator steps; with 0 only the warm-up runs, and a generator that yields data instead of its own samples
            makes it the training of a diffusion.
        batch: size of the global batch.
        warmup: assistant-only steps before the first generator step, recorded with negative step numbers.
        assistant_updates: assistant updates before each generator update.
        micro_batch: rows in memory at a time; gradients are those of the whole batch, so a role that takes statistics over
            the batch (BatchNorm) is refused.
        rows: this process's rows of the global batch; all of them by default.

    Raises:
        TypeError: for a reward, weight, score or regularizer that returns no tensor, or a count that is no whole number.
        ValueError: for a batch that micro_batch does not divide or a role does not let it divide, a time law outside the
            schedule, guidance without conditions, a method with a term whose role is missing, or a term that would be
            differentiated in half or not at all (see generator_step).
    """
    require_whole(steps=steps, batch=batch, warmup=warmup, seed=seed)
    mine = share_of(batch, rows or slice(None))
    size = len(mine) if micro_batch is None else micro_batch
    if size <= 0 or len(mine) % size:
        raise ValueError(f"micro_batch {size} does not divide the {len(mine)} rows at hand; choose a divisor")
    if warmup < 0 or assistant_updates < 0:
        raise ValueError(f"warmup {warmup} or assistant_updates {assistant_updates} is negative; use 0 for none")
    state.roles.eval_frozen()
    state.roles.check(method, conditions(0, slice(0, 1)), moves=steps > 0, in_parts=size < batch)
    for law in (method.time_law, method.assistant_time_law):
        law.check(state.schedule)
    parts = [slice(start, start + size) for start in mine[::size]]
    share = 1 / len(parts)
    state.step = -warmup if state.step is None else state.step
    generator, assistant = state.roles.generator, state.roles.assistant
    assistant_learns = method.regularizer is not None and assistant.optimizer is not None

    def batches(law: TimeLaw, stream: str, step: int) -> Iterator[Batch]:
        for part in parts:
            yield make_batch(state, law, conditions, seed=seed, step=step, stream=stream, batch=batch, rows=part)

    while state.step < steps:
        started = time.perf_counter()
        step = state.step
        learnt: list[tuple[Tensor, Tensor]] = []
        moved: list[Pulls] = []
        for k in range(assistant_updates if assistant_learns else 0):
            assistant.zero_grad()
            drawn = batches(method.assistant_time_law, f"assistant/{k}", step)
            learnt = [(state.perform(assistant_step, state, method, one, share), one.t) for one in drawn]
            assistant.update(step)
        if step >= 0:
            generator.zero_grad()
            drawn = batches(method.time_law, "generator", step)
            moved = [state.perform(generator_step, state, method, one, share) for one in drawn]
            generator.update(step)
        state.step += 1
        yield _record(step, learnt, moved, time.perf_counter() - started)


def _norm(pulls: Pulls, term: str) -> Tensor:
    parts = [at[term].flatten(1) for at in (pulls.at_x_t, pulls.at_x0) if term in at]
    return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).norm(dim=1)


def _record(step: int, learnt: list[tuple[Tensor, Tensor]], moved: list[Pulls], seconds: float) -> Record:
    def joined(parts: list[Any]) -> Any:
        return (torch.cat(parts) if len(parts) > 1 else parts[0]) if parts and parts[0] is not None else None

    terms = moved[0].losses if moved else {}
    losses = {"assistant": joined([loss for loss, _ in learnt])} if learnt else {}
    return Record(
        step=step,
        losses=losses | {term: joined([one.losses[term] for one in moved]) for term in terms},
        pull_norms={term: joined([_norm(one, term) for one in moved]) for term in terms},
        assistant_t=joined([t for _, t in learnt]),
        **{name: joined([getattr(one, name) for one in moved]) for name in ("reward", "t", "gap_norm", "gap_missed")},
        seconds=seconds,
    )
