"""Algorithm 1, once: the loop that post-trains a one-step generator of any size with any method of the family.

Every term acts on a sample through one vector, its pull: the regularizer's is the gradient at x_t, the reward's the
gradient at x_0. The graph is cut at both points, so the generator gets a single backward pass with
alpha_t · pull_t + pull_0.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from .losses import Noised, Scores, cfg_reward, denoising, gap
from .methods import Method
from .roles import ProxyTilt, Reward, Score, guided, tilted
from .schedule import NoiseSchedule, TimeLaw

Conditions = Callable[[int, slice], Any]


@dataclass
class Trainable:
    """A role that learns.

    Attributes:
        module: the role itself, callable.
        optimizer: over the module's trainable parameters; None for a role that is exact and needs no updates.
        lr: learning rate at a step, a function of the step alone so that a resumed run needs no scheduler state;
            None keeps the optimizer's own.
        ema_decay: keep an exponential moving average of the trainable parameters; 0 keeps none.
        max_grad_norm: clip the gradient to this norm; None does not clip.
        ema: the averages by parameter name.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer | None = None
    lr: Callable[[int], float] | None = None
    ema_decay: float = 0.0
    max_grad_norm: float | None = None
    ema: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}; 0.999 is usual, 0 is off")
        tracked = self.parameters() if self.ema_decay else {}
        self._tracked = list(tracked.values())
        self.ema = {name: parameter.detach().clone() for name, parameter in tracked.items()}

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by name."""
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    def averaged(self, *inputs: Any) -> Tensor:
        """Call the module with the averaged parameters, or as it is when no average is kept."""
        return torch.func.functional_call(self.module, self.ema, inputs)

    def update(self, step: int, backward: Callable[[], Any]) -> Any:
        """One optimizer step on the gradients that `backward` leaves; returns what it returns."""
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        result = backward()
        if self.lr is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr(step)
        if self.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters().values(), self.max_grad_norm)
        self.optimizer.step()
        if self.ema:
            live = [parameter.detach() for parameter in self._tracked]
            torch._foreach_lerp_(list(self.ema.values()), live, 1 - self.ema_decay)
        return result


class Roles(NamedTuple):
    """Who takes part. The reward may be None for methods without one."""

    generator: Trainable
    reference: Score
    assistant: Trainable
    reward: Reward | None = None


@dataclass
class State:
    """A run in memory: who takes part, the noise schedule, and how far it is.

    Attributes:
        step: the next step; −warmup .. −1 update the assistant alone, 0, 1, … both.
        place: puts what the loop draws where the roles are (device, dtype); the identity on the CPU.
    """

    roles: Roles
    schedule: NoiseSchedule
    step: int | None = None
    place: Callable[[Tensor], Tensor] = lambda tensor: tensor


class Batch(NamedTuple):
    """What one update is computed from: z, t and the condition, and `noise(x0)`, which needs x0's shape."""

    z: Any
    t: Tensor
    condition: Any
    noise: Callable[[Tensor], Tensor]


class Pulls(NamedTuple):
    """What the terms did to each sample: per-sample losses [B], and pulls [B, ...] by term, scaled as applied."""

    losses: dict[str, Tensor]
    pulls: dict[str, Tensor]
    reward: Tensor | None
    t: Tensor
    gap_norm: Tensor | None


class Record(NamedTuple):
    """What happened in one step; tensors stay where they are, so that reading them is the caller's choice.

    Attributes:
        step: negative in the warm-up.
        losses: per-sample values [B] by term: "assistant", "regularizer", "cfg", "reward". The regularizer's mean is
            zero for an exact assistant: it measures staleness, not progress.
        pull_norms: per-sample norms [B] of the pulls by term.
        reward: [B], or None when no term uses it.
        t: the noise levels of the samples that moved the generator [B].
        assistant_t: the noise levels of the assistant's last update [B], or None.
        gap_norm: ‖sigma (s_psi − s_ref)‖ per sample [B], or None.
        seconds: wall time of the step, without waiting for the device.
    """

    step: int
    losses: dict[str, Tensor]
    pull_norms: dict[str, Tensor]
    reward: Tensor | None
    t: Tensor | None
    assistant_t: Tensor | None
    gap_norm: Tensor | None
    seconds: float


def draw(
    seed: int,
    step: int,
    stream: str,
    shape: tuple[int, ...],
    rows: slice,
    *,
    law: Literal["normal", "uniform"] = "normal",
) -> Tensor:
    """Random numbers by position: the same (seed, step, stream) gives the same global batch, in every process.

    Args:
        shape: shape of the global batch, [B, ...].
        rows: this process's share of it.
        law: "normal", or "uniform": one stratified number in [0, 1) a row, in random order, shape [B].
    """
    key = hashlib.blake2b(f"{seed}/{step}/{stream}".encode(), digest_size=8).digest()
    source = torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)
    if law == "normal":
        return torch.randn(shape, generator=source)[rows]
    count = shape[0]
    return ((torch.randperm(count, generator=source) + torch.rand(count, generator=source)) / count)[rows]


def make_batch(
    state: State, law: TimeLaw, conditions: Conditions, *, seed: int, step: int, stream: str, batch: int, rows: slice
) -> Batch:
    """Draw rows of the global batch of a stream: latent, noise levels, and the noise once x0's shape is known."""

    def normal(name: str, shape: tuple[int, ...]) -> Tensor:
        return state.place(draw(seed, step, f"{stream}/{name}", (batch, *shape), rows))

    u = draw(seed, step, f"{stream}/t", (batch,), rows, law="uniform")
    return Batch(
        z=state.roles.generator.module.latent(normal),  # type: ignore[operator]
        t=state.place(law.quantile(u)),
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
    loss = method.assistant_weight(noised) * denoising(score, noised)
    (share * loss.mean()).backward()
    return loss.detach()


def scores_at(roles: Roles, method: Method, noised: Noised, condition: Any, schedule: NoiseSchedule) -> Scores:
    """The scores that a method needs at x_t, with a graph to x_t exactly where the method differentiates them."""
    reference = roles.reference
    if method.reward_at == "every_level":
        reference = tilted(reference, _reward(roles, method), method.reward_scale)
    elif method.reward_at == "every_level_by_proxy":
        reference = ProxyTilt(reference, _reward(roles, method), method.reward_scale, schedule)
    with torch.set_grad_enabled(method.exact):
        assistant_score = roles.assistant.module(noised.x_t, noised.t, condition)
        reference_score = reference(noised.x_t, noised.t, condition)
    if not method.guides:
        return Scores(assistant_score, reference_score)
    with torch.set_grad_enabled(method.exact and method.guidance == "inside"):
        null_score = reference(noised.x_t, noised.t, None)
    if method.guidance == "inside":
        reference_score = guided(reference_score, null_score, method.cfg_scale)
    return Scores(assistant_score, reference_score, null_score)


def generator_step(state: State, method: Method, batch: Batch, share: float = 1.0) -> Pulls:
    """The pulls of all terms on the generator's samples, and one backward pass through the generator with their sum.

    Args:
        share: the part that this batch is of the whole one; scales the gradient.
    """
    roles = state.roles
    x0 = roles.generator.module(batch.z, batch.condition)
    noised = noised_samples(state.schedule, x0, batch)
    losses: dict[str, Tensor] = {}
    pulls: dict[str, Tensor] = {}
    reward = gap_norm = None
    if method.regularizer is not None or (method.guides and method.guidance == "outside"):
        scores = scores_at(roles, method, noised, batch.condition, state.schedule)
        weight = method.weight(noised, scores).detach()
        if method.regularizer is not None:
            losses["regularizer"] = weight * method.loss(noised, scores)
            gap_norm = gap(noised, scores, "eps").detach().flatten(1).norm(dim=1)
        if method.guides and method.guidance == "outside":
            losses["cfg"] = method.cfg_scale * weight * cfg_reward(noised, scores)
    if method.reward_at == "sample" and method.reward_scale:
        reward = _reward(roles, method)(noised.x0, batch.condition)
        if reward.shape != (len(x0),):
            raise ValueError(
                f"the reward must return one value per sample, shape [{len(x0)}], got {tuple(reward.shape)}; "
                "reduce over all other axes"
            )
        losses["reward"] = -method.reward_scale * reward
    for term, loss in losses.items():
        cut = noised.x0 if term == "reward" else noised.x_t
        (pulls[term],) = torch.autograd.grad(loss.sum(), cut)
    on_x0 = sum(pull if term == "reward" else noised.alpha * pull for term, pull in pulls.items())
    x0.backward(on_x0 * (share / len(x0)))
    return Pulls(
        {term: loss.detach() for term, loss in losses.items()},
        pulls,
        None if reward is None else reward.detach(),
        noised.t,
        gap_norm,
    )


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

    All randomness is a function of (seed, step, stream), so a run that stops after any record and goes on from its
    checkpoint equals one that never stopped.

    Args:
        state: where to start; a new one (step None) begins with the warm-up.
        conditions: (step, rows) -> the conditions of these rows of the global batch, or None.
        batch: size of the global batch.
        warmup: assistant-only steps before the first generator step, recorded with negative step numbers.
        assistant_updates: assistant updates before each generator update.
        micro_batch: rows in memory at a time; gradients are those of the whole batch.
        rows: this process's rows of the global batch; all of them by default.

    Raises:
        ValueError: for a batch that micro_batch does not divide, a time law outside the schedule, guidance without
            conditions, or a method with a term whose role is missing.
    """
    rows = rows or slice(0, batch)
    size = micro_batch or rows.stop - rows.start
    if size <= 0 or (rows.stop - rows.start) % size:
        raise ValueError(
            f"micro_batch {size} does not divide the {rows.stop - rows.start} rows of a batch; choose a divisor"
        )
    if not method.regularizer and not method.guides and not (method.reward_at == "sample" and method.reward_scale):
        raise ValueError(
            f"method {method.name!r} has no term that moves the generator; give it a regularizer or a reward"
        )
    if method.guides and conditions(0, slice(0, 1)) is None:
        raise ValueError(
            f"method {method.name!r} has cfg_scale {method.cfg_scale:g} but conditions are None, for which guidance "
            "is nothing; pass conditions or set cfg_scale to 0"
        )
    for law in (method.time_law, method.assistant_time_law):
        law.check(state.schedule)
    parts = [slice(start, start + size) for start in range(rows.start, rows.stop, size)]
    share = 1 / len(parts)
    state.step = -warmup if state.step is None else state.step
    generator, assistant = state.roles.generator, state.roles.assistant
    assistant_learns = method.regularizer is not None and assistant.optimizer is not None

    while state.step < steps:
        started = time.perf_counter()
        batch_of = partial(make_batch, state, conditions=conditions, seed=seed, step=state.step, batch=batch)

        def assistant_backward(k: int, batch_of: Any = batch_of) -> tuple[Tensor, Tensor]:
            batches = [batch_of(method.assistant_time_law, stream=f"assistant/{k}", rows=part) for part in parts]
            losses = [assistant_step(state, method, one, share) for one in batches]
            return torch.cat(losses), torch.cat([one.t for one in batches])

        def generator_backward(batch_of: Any = batch_of) -> list[Pulls]:
            return [
                generator_step(state, method, batch_of(method.time_law, stream="generator", rows=part), share)
                for part in parts
            ]

        assistant_loss = assistant_t = None
        for k in range(assistant_updates if assistant_learns else 0):
            assistant_loss, assistant_t = assistant.update(state.step, partial(assistant_backward, k))
        pulled = generator.update(state.step, generator_backward) if state.step >= 0 else []
        state.step += 1
        yield _record(state.step - 1, pulled, assistant_loss, assistant_t, time.perf_counter() - started)


def _record(
    step: int, pulled: list[Pulls], assistant_loss: Tensor | None, assistant_t: Tensor | None, seconds: float
) -> Record:
    def gather(parts: list[Any]) -> Any:
        return torch.cat(parts) if parts and parts[0] is not None else None

    losses = {} if assistant_loss is None else {"assistant": assistant_loss}
    terms = pulled[0].losses if pulled else {}
    losses.update({term: gather([one.losses[term] for one in pulled]) for term in terms})
    return Record(
        step=step,
        losses=losses,
        pull_norms={term: gather([one.pulls[term].flatten(1).norm(dim=1) for one in pulled]) for term in terms},
        reward=gather([one.reward for one in pulled]),
        t=gather([one.t for one in pulled]),
        assistant_t=assistant_t,
        gap_norm=gather([one.gap_norm for one in pulled]),
        seconds=seconds,
    )


def _reward(roles: Roles, method: Method) -> Reward:
    if roles.reward is None:
        raise ValueError(f"method {method.name!r} uses a reward but the roles have none; pass reward= in Roles")
    return roles.reward
