"""The roles that the loop knows, and the wrappers that turn networks and mixtures into them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from .losses import one_per_sample
from .methods import Method, RewardAt
from .mixture import GaussianMixture, LinearReward, QuadraticReward
from .schedule import NoiseSchedule, Prediction, as_time

Draw = Callable[[str, tuple[int, ...]], Tensor]


@runtime_checkable
class Score(Protocol):
    """A score network or formula: (x_t [B, ...], t [B], condition) -> ∇ log p_t(x_t | condition), [B, ...].

    condition None is the null condition.
    """

    def __call__(self, x_t: Tensor, t: Tensor, condition: Any) -> Tensor: ...


@runtime_checkable
class Generator(Protocol):
    """A one-step generator: (z, condition) -> x0 [B, ...]."""

    def latent(self, draw: Draw) -> Any:
        """The input noise z, a tensor or a tuple of tensors [B, ...], drawn with draw(name, shape of a sample)."""
        ...

    def __call__(self, z: Any, condition: Any) -> Tensor: ...


class Reward(Protocol):
    """Human preference, or a stand-in: (x0 [B, ...], condition) -> [B], larger is better, with a gradient at x0."""

    def __call__(self, x0: Tensor, condition: Any) -> Tensor: ...


class NetworkScore(nn.Module):
    """A diffusion network as a Score, whatever it predicts; the only place where its output is converted.

    Args:
        network: (x_t, t, condition) -> prediction [B, ...].
        schedule: the noise schedule that it was trained with.
        prediction: what it predicts: "eps", "x0", "v" or "score".

    The result is at least float32; float64 stays float64.
    """

    def __init__(self, network: nn.Module, schedule: NoiseSchedule, prediction: Prediction) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.prediction: Prediction = prediction

    def forward(self, x_t: Tensor, t: Tensor | float, condition: Any) -> Tensor:
        t = as_time(t)
        value = self.network(x_t, t, condition)
        return self.schedule.convert(value, x_t, t, source=self.prediction, target="score")


class OneStep(nn.Module):
    """A diffusion network used once as a generator: x_0 from unit noise z at the fixed time t_star.

    For SDXL t_star = 399 (DMD2, and the DI* release): z is not scaled by sigma, and the gain sigma/alpha of an eps
    network's error is 1.16 there against 14.6 at t = 999.

    Args:
        network, schedule, prediction: as for NetworkScore.
        t_star: the time given to the network.
        shape: shape of one sample, without the batch.
    """

    def __init__(
        self, network: nn.Module, schedule: NoiseSchedule, prediction: Prediction, t_star: float, shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.prediction: Prediction = prediction
        self.t_star = t_star
        self.shape = shape

    def latent(self, draw: Draw) -> Tensor:
        return draw("z", self.shape)

    def forward(self, z: Tensor, condition: Any) -> Tensor:
        integral = isinstance(self.t_star, int)
        t = torch.full((len(z),), self.t_star, dtype=torch.int64 if integral else z.dtype, device=z.device)
        value = self.network(z, t, condition)
        return self.schedule.convert(value, z, t, source=self.prediction, target="x0")


class PushForward(nn.Module):
    """A plain network used as a generator: x_0 = network(z, condition), z ~ N(0, I) of the given shape."""

    def __init__(self, network: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.network = network
        self.shape = shape

    def latent(self, draw: Draw) -> Tensor:
        return draw("z", self.shape)

    def forward(self, z: Tensor, condition: Any) -> Tensor:
        return self.network(z, condition)


class MixtureScore:
    """The exact score of a Gaussian mixture at every level; condition: labels [B], one label, or None."""

    def __init__(self, mixture: GaussianMixture, schedule: NoiseSchedule) -> None:
        self.mixture = mixture
        self.schedule = schedule

    def __call__(self, x_t: Tensor, t: Tensor | float, condition: Any) -> Tensor:
        return self.mixture.given(condition).diffuse(self.schedule, as_time(t)).score(x_t)

    def tilted(self, reward: LinearReward | QuadraticReward, scale: float) -> MixtureScore:
        """The exact score of p exp(scale r)/Z at every level: s_ref + s_r (the target of DIDR, 2605.24001; derived)."""
        return MixtureScore(self.mixture.tilt(reward, scale), self.schedule)


class ResidualScore(nn.Module):
    """A reference plus a learnt correction: s_ref(x_t) − network(x_t, t, condition)/sigma_t.

    With a network that starts at zero this is an assistant initialised as a copy of the reference, as is usual in this
    family, where the reference is a formula and has no weights to copy.
    """

    def __init__(self, reference: Score, network: nn.Module, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.reference = reference
        self.network = network
        self.schedule = schedule

    def forward(self, x_t: Tensor, t: Tensor | float, condition: Any) -> Tensor:
        t = as_time(t)
        correction = self.network(x_t, t, condition)
        return self.reference(x_t, t, condition) + self.schedule.convert(
            correction, x_t, t, source="eps", target="score"
        )


class Recomputed(nn.Module):
    """A role that keeps no activations: its backward pass runs it again, alone.

    With every role wrapped, only one network's activations are in memory at a time; gradients are the same.
    """

    def __init__(self, role: nn.Module) -> None:
        super().__init__()
        self.role = role

    def latent(self, draw: Draw) -> Any:
        return self.role.latent(draw)  # type: ignore[operator]

    def forward(self, *inputs: Any) -> Tensor:
        return checkpoint(self.role, *inputs, use_reentrant=False)


def guided(conditional: Tensor, null: Tensor, cfg_scale: float) -> Tensor:
    """s_c + cfg_scale (s_c − s_null): classifier-free guidance in its additive form, 0 is off; shapes [B, ...]."""
    return conditional + cfg_scale * (conditional - null)


class ProxyTilt:
    """A proxy of the tilted score: s_ref(x_t) + scale ∇_{x_t} r(x̂_0(x_t)), x̂_0 by one Tweedie step.

    The idea is DIDR's (2605.24001: differentiable short-step denoising); this formula, and that it is exact for one
    Gaussian and a linear reward, are derived here.

    Called, it raises ValueError if the reference's score has no graph to x_t, through which the gradient runs.
    """

    def __init__(self, reference: Score, reward: Reward, scale: float, schedule: NoiseSchedule) -> None:
        self.reference = reference
        self.reward = reward
        self.scale = scale
        self.schedule = schedule

    def __call__(self, x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
        differentiable = torch.is_grad_enabled() and x_t.requires_grad
        with torch.enable_grad():
            x_t = x_t if differentiable else x_t.detach().requires_grad_()
            score = self.reference(x_t, t, condition)
            if not score.requires_grad:
                raise ValueError(
                    f"the reference {type(self.reference).__name__} returned a score without a graph to x_t, through which "
                    "the proxy differentiates the reward; take no_grad and detach out of it"
                )
            x0 = self.schedule.convert(score, x_t, t, source="score", target="x0")
            reward = evaluate_reward(self.reward, x0, condition)
            (pull,) = torch.autograd.grad(reward.sum(), x_t, create_graph=differentiable)
        return (score if differentiable else score.detach()) + self.scale * pull


def target_score(
    reference: Score, reward: Reward | None, reward_at: RewardAt, scale: float, schedule: NoiseSchedule
) -> Score:
    """The score that a method aims for: the reference, or with the reward at every level the tilted reference (DIDR).

    DIDR is not another loss but another reference: exactly, for references with a method tilted(reward, scale), or by
    ProxyTilt for any.

    Raises:
        TypeError: if the exact tilt is asked of a reference that has none; the message names the proxy.
        ValueError: if there is no reward.
    """
    if reward_at in ("nowhere", "sample"):
        return reference
    if reward is None:
        raise ValueError(NO_REWARD)
    if reward_at == "every_level_by_proxy":
        return ProxyTilt(reference, reward, scale, schedule)
    if not hasattr(reference, "tilted"):
        raise TypeError(
            f"{type(reference).__name__} has no closed-form tilt; use the method 'didr-proxy', or hand in a reference "
            "with a method tilted(reward, scale)"
        )
    try:
        return reference.tilted(reward, scale)
    except TypeError as error:
        raise TypeError(f"{error}; the method 'didr-proxy' takes any differentiable reward") from None


BATCH_NORM = nn.modules.batchnorm._BatchNorm  # the base of all of them, lazy and synchronised ones too
NO_REWARD = "the method uses a reward but the roles have none; pass reward= in Roles"


def evaluate_reward(reward: Reward | None, x0: Tensor, condition: Any) -> Tensor:
    """reward(x0, condition), [B].

    Raises:
        TypeError: if it is no tensor.
        ValueError: if there is no reward, it has another shape, or no gradient although x0 asks for one.
    """
    if reward is None:
        raise ValueError(NO_REWARD)
    name = f"reward {getattr(reward, '__name__', type(reward).__name__)}"
    value = one_per_sample(reward(x0, condition), x0, name)
    if torch.is_grad_enabled() and x0.requires_grad and not value.requires_grad:
        raise ValueError(
            f"the {name} has no gradient at x0, so nothing can climb it; compute it in torch without no_grad, detach or "
            "rounding, or learn a differentiable one from its preferences"
        )
    return value


def modules_of(role: Any, *, without: tuple[nn.Module, ...] = ()) -> Iterator[nn.Module]:
    """Every nn.Module of a role: itself, or what it holds in attributes, containers, bound arguments and closures.

    Args:
        without: modules that are not entered; nor are Trainable roles.
    """
    seen: dict[int, Any] = {id(module): module for module in without}
    waiting = [role]
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, (type, ModuleType, Tensor, str, bytes, Trainable)):
            continue
        seen[id(one)] = one
        if isinstance(one, nn.Module):
            yield one
            waiting += one.children()
        elif isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, (list, tuple, set, frozenset)):
            waiting += one
        elif isinstance(one, FunctionType):
            waiting += [one.__defaults__, one.__kwdefaults__, *(one.__closure__ or ())]
        elif isinstance(one, CellType):
            with suppress(ValueError):  # an empty cell
                waiting.append(one.cell_contents)
        elif isinstance(one, MethodType):
            waiting += [one.__self__, one.__func__]
        elif isinstance(one, partial):
            waiting += [one.func, one.args, one.keywords]
        waiting += vars(one).values() if hasattr(one, "__dict__") else ()


@dataclass
class Trainable:
    """A role that learns.

    Attributes:
        module: the role itself, callable.
        optimizer: over the module's trainable parameters; None for a role that is exact and needs no updates.
        lr: learning rate at a step (negative in the warm-up), a function of the step alone so that a resumed run needs
            no scheduler state; None keeps the optimizer's own.
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
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be positive, got {self.max_grad_norm}; use None to clip nothing")
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

    @torch.no_grad()
    def load_ema(self) -> None:
        """Put the averages, where they are kept, in place of the parameters."""
        for parameter, average in zip(self._tracked, self.ema.values(), strict=True):
            parameter.copy_(average)

    def zero_grad(self) -> None:
        """Forget the gradients of the trainable parameters."""
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)

    def update(self, step: int) -> None:
        """One optimizer step on the gradients at hand, at the rate of this step; then the averages follow.

        The gradients are let go, so that they do not take memory while another role is updated.
        """
        assert self.optimizer is not None
        if self.lr is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr(step)
        if self.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters().values(), self.max_grad_norm)
        self.optimizer.step()
        self.zero_grad()
        if self.ema:
            get_ema_multi_avg_fn(self.ema_decay)(tuple(self.ema.values()), tuple(self._tracked), 0)


class Roles(NamedTuple):
    """Who takes part. The reward may be None for methods without one."""

    generator: Trainable
    reference: Score
    assistant: Trainable
    reward: Reward | None = None

    def eval_frozen(self) -> None:
        """Put the modules of reference and reward in evaluation mode: dropout off, batch statistics the stored ones.

        A module that recomputes its blocks (`gradient_checkpointing`, which some libraries heed in training mode alone)
        keeps its own mode; what it contains does not. A plain function's global variables are not looked at.
        """
        learners = (self.generator.module, self.assistant.module)
        for module in modules_of((self.reference, self.reward), without=learners):
            if not getattr(module, "gradient_checkpointing", False):
                module.training = False

    def check(self, method: Method, condition: Any, *, moves: bool = True, in_parts: bool = False) -> None:
        """Raise ValueError, before anything runs, if a role lacks what the method and the loop need of it.

        Args:
            moves: whether the generator is to be updated, or the assistant alone.
            in_parts: whether a batch is computed in parts, which a role with statistics over the batch makes another one.
        """
        generator = self.generator
        if moves and generator.optimizer is None:
            raise ValueError("the generator has no optimizer, so it cannot move; give its Trainable one")
        for name, role in (("generator", generator), ("assistant", self.assistant)):
            groups = role.optimizer.param_groups if role.optimizer else []
            own = {id(p) for p in role.module.parameters()}
            foreign = sum(id(p) not in own for group in groups for p in group["params"])
            if foreign:
                raise ValueError(
                    f"the {name}'s optimizer holds {foreign} parameters that are not the {name}'s, so it would move something "
                    "else; make the optimizer from the module's own parameters, after any copy"
                )
            if groups and not any(p.requires_grad for group in groups for p in group["params"]):
                raise ValueError(
                    f"the {name}'s optimizer holds only frozen parameters, so it cannot move; unfreeze them (a tied clone "
                    "shares its base's: freezing one freezes both)"
                )
        if not hasattr(generator.module, "latent"):
            raise ValueError(
                f"the generator {type(generator.module).__name__} has no method latent(draw), which says what noise it "
                "takes; wrap it in PushForward or OneStep, or add one"
            )
        parts: dict[str, Any] = {"generator": generator.module, "assistant": self.assistant.module}
        parts |= {"reference": self.reference, "reward": self.reward}
        for name, part in parts.items() if in_parts else ():
            for module in modules_of(part):
                if isinstance(module, BATCH_NORM) and (module.training or module.running_mean is None):
                    raise ValueError(
                        f"the {name} takes statistics over the batch in {module}, so parts of a batch have other gradients "
                        "than the whole; leave micro_batch out, put this module in evaluation mode, or use GroupNorm"
                    )
        rewarded = method.reward_at != "nowhere" and method.reward_scale != 0
        if rewarded and self.reward is None:
            raise ValueError(NO_REWARD)
        outside = method.guides and method.guidance == "outside"
        if method.regularizer is None and not outside and not (rewarded and method.reward_at == "sample"):
            raise ValueError(
                f"method {method.name!r} has no term that moves the generator; give it a regularizer or a reward"
            )
        if method.guides and condition is None:
            raise ValueError(
                f"method {method.name!r} has cfg_scale {method.cfg_scale:g} but conditions are None, for which "
                "guidance is nothing; pass conditions or set cfg_scale to 0"
            )
