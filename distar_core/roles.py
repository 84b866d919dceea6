"""The roles that the loop knows, and the wrappers that turn networks and mixtures into them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .mixture import GaussianMixture, LinearReward, QuadraticReward
from .schedule import NoiseSchedule, Prediction

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
    """Human preference, or a stand-in: (x0 [B, ...], condition) -> [B], larger is better."""

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

    def forward(self, x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
        value = self.network(x_t, t, condition)
        return self.schedule.convert(value, x_t, t, source=self.prediction, target="score")


class OneStep(nn.Module):
    """A diffusion network used once as a generator: x_0 from unit noise z at the fixed time t_star.

    For SDXL t_star = 399 (DMD2, and the DI* release): z is not scaled by sigma, and the gain 1/alpha of a network
    error is 1.53 there against 14.6 at t = 999.

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

    def __call__(self, x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
        return self.mixture.given(condition).diffuse(self.schedule, t).score(x_t)

    def tilted(self, reward: LinearReward | QuadraticReward, scale: float) -> MixtureScore:
        """The exact score of p exp(scale r)/Z at every level: s_ref + s_r (DIDR, 2605.24001)."""
        return MixtureScore(self.mixture.tilt(reward, scale), self.schedule)


class ResidualScore(nn.Module):
    """A reference plus a learnt correction: s_ref(x_t) − network(x_t, t, condition)/sigma_t.

    With a network that starts at zero this is an assistant initialised as a copy of the reference, as in the papers,
    where the reference is a formula and has no weights to copy.
    """

    def __init__(self, reference: Score, network: nn.Module, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.reference = reference
        self.network = network
        self.schedule = schedule

    def forward(self, x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
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
    """DIDR's proxy of the tilted score: s_ref(x_t) + scale ∇_{x_t} r(x̂_0(x_t)), x̂_0 by one Tweedie step.

    Exact for one Gaussian and a linear reward (2605.24001; formula derived, not quoted).
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
            x0 = self.schedule.convert(score, x_t, t, source="score", target="x0")
            (pull,) = torch.autograd.grad(self.reward(x0, condition).sum(), x_t, create_graph=differentiable)
        return (score if differentiable else score.detach()) + self.scale * pull


def tilted(reference: Score, reward: Reward, scale: float) -> Score:
    """The exact score of the tilted reference, for references that know it (DIDR is KL to another reference).

    Raises:
        TypeError: if the reference has no closed-form tilt; the message names the proxy.
    """
    if not hasattr(reference, "tilted"):
        raise TypeError(
            f"{type(reference).__name__} has no closed-form tilt; use the method 'didr-proxy', or hand in a reference "
            "with a method tilted(reward, scale)"
        )
    return reference.tilted(reward, scale)
