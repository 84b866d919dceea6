"""Noise levels: the only file that maps t to alpha and sigma, and that converts eps, x0, v and score.

Convention of the whole project: x_t = alpha_t x_0 + sigma_t eps, eps ~ N(0, I).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Prediction = Literal["eps", "x0", "v", "score"]


def expand(coefficient: Tensor, like: Tensor) -> Tensor:
    """Give a per-sample coefficient, [B] or [], trailing axes so that it broadcasts against `like`, [B, ...]."""
    if coefficient.ndim == 0:
        return coefficient
    return coefficient.reshape(-1, *[1] * (like.ndim - 1))


def as_time(t: Tensor | float) -> Tensor:
    """A time as a tensor: a tensor as it is, a plain number as a scalar [], integers as integers."""
    return t if isinstance(t, Tensor) else torch.as_tensor(t, dtype=torch.float64 if isinstance(t, float) else None)


def precision_on(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device that has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


class NoiseSchedule(ABC):
    """How much signal and noise there is at time t, and what follows from it.

    Times are tensors [B] or [], or plain numbers, which stand for [].

    Attributes:
        low, high: the times for which the schedule is defined, both ends included.
        variance_preserving: whether alpha² + sigma² = 1 at every t; only then does "v" exist.
    """

    low: float
    high: float
    variance_preserving: bool

    @abstractmethod
    def _at(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(alpha, sigma, diffusion_squared) at t, without the check."""

    def check(self, t: Tensor | float) -> None:
        """Raise ValueError if a time lies outside [low, high].

        Off the CPU this would wait for the device, so there the bounds of the time law, checked once when a run
        starts, stand in for it.
        """
        t = as_time(t)
        if t.device.type != "cpu" or t.numel() == 0:
            return
        smallest, largest = (float(value) for value in t.aminmax())
        if not (self.low * (1 - 1e-6) <= smallest and largest <= self.high * (1 + 1e-6)):
            raise ValueError(
                f"t must lie in [{self.low:g}, {self.high:g}] for {type(self).__name__}, got values from "
                f"{smallest:g} to {largest:g}; draw t from a TimeLaw within these bounds"
            )

    def alpha(self, t: Tensor | float) -> Tensor:
        """Signal coefficient alpha_t, same shape as t. Raises ValueError for t outside [low, high]."""
        self.check(t)
        return self._at(as_time(t))[0]

    def sigma(self, t: Tensor | float) -> Tensor:
        """Noise coefficient sigma_t, same shape as t. Raises ValueError for t outside [low, high]."""
        self.check(t)
        return self._at(as_time(t))[1]

    def diffusion_squared(self, t: Tensor | float) -> Tensor:
        """g(t)² = alpha² d(sigma²/alpha²)/dt, the squared diffusion coefficient of the forward SDE, shaped like t.

        ½ ∫ g² E‖s_p − s_q‖² dt over a range of levels is KL at its clean end minus KL at its noisy end.
        """
        self.check(t)
        return self._at(as_time(t))[2]

    def coefficients(self, t: Tensor | float, like: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma), shaped to broadcast against `like` [B, ...], in at least float32 precision."""
        self.check(t)
        dtype = torch.promote_types(like.dtype, torch.float32)
        alpha, sigma, _ = self._at(as_time(t))
        return expand(alpha.to(dtype), like), expand(sigma.to(dtype), like)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
        """x_t = alpha_t x_0 + sigma_t eps. Shapes: x0 and noise [B, ...], t [B] or []; returns x0's shape.

        Raises:
            ValueError: if x0 and noise differ in shape, or t does not have one entry per sample.

        Examples:
            >>> schedule = VarianceExploding()
            >>> schedule.add_noise(torch.tensor([[1.0], [1.0]]), torch.tensor([[1.0], [-1.0]]), torch.tensor([0.5, 2.0]))
            tensor([[ 1.5000],
                    [-1.0000]])
        """
        if x0.shape != noise.shape:
            raise ValueError(
                f"x0 and noise must have the same shape, got {tuple(x0.shape)} and {tuple(noise.shape)}; "
                "draw the noise with x0's shape"
            )
        t = as_time(t)
        if t.ndim > 1 or (t.ndim == 1 and len(t) != len(x0)):
            raise ValueError(
                f"t must have shape [] or [{len(x0)}], one time per sample, got {tuple(t.shape)}; flatten it first"
            )
        alpha, sigma = self.coefficients(t, x0)
        return alpha * x0 + sigma * noise

    def convert(
        self, value: Tensor, x_t: Tensor, t: Tensor | float, *, source: Prediction, target: Prediction
    ) -> Tensor:
        """Express a prediction made at (x_t, t) in another form; shapes [B, ...], result at least float32.

        score = −eps/sigma, x0 = (x_t − sigma eps)/alpha, v = alpha eps − sigma x0 (Salimans & Ho 2022).

        Raises:
            ValueError: for an unknown form, or for "v" where alpha² + sigma² ≠ 1.
        """
        for name in (source, target):
            if name not in get_args(Prediction):
                raise ValueError(
                    f"prediction {name!r} is not one of {', '.join(get_args(Prediction))}; use one of these"
                )
            if name == "v" and not self.variance_preserving:
                raise ValueError(
                    f"prediction 'v' exists only where alpha² + sigma² = 1, which {type(self).__name__} is not; "
                    "use 'eps', 'x0' or 'score'"
                )
        alpha, sigma = self.coefficients(t, x_t)
        value, x_t = value.to(alpha.dtype), x_t.to(alpha.dtype)
        if source == target:
            return value
        eps = {
            "eps": lambda: value,
            "score": lambda: -sigma * value,
            "x0": lambda: (x_t - alpha * value) / sigma,
            "v": lambda: alpha * value + sigma * x_t,
        }[source]()
        return {
            "eps": lambda: eps,
            "score": lambda: -eps / sigma,
            "x0": lambda: (x_t - sigma * eps) / alpha,
            "v": lambda: (eps - sigma * x_t) / alpha,
        }[target]()


class VarianceExploding(NoiseSchedule):
    """x_t = x_0 + sigma eps with t = sigma (Karras et al. 2022); alpha = 1."""

    variance_preserving = False

    def __init__(self, low: float = 0.002, high: float = 80.0) -> None:
        if not 0 < low < high:
            raise ValueError(f"noise levels must satisfy 0 < low < high, got low={low} and high={high}; choose others")
        self.low, self.high = low, high

    def _at(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        t = t.to(torch.result_type(t, 1.0))
        return torch.ones_like(t), t, 2 * t


class VariancePreserving(NoiseSchedule):
    """x_t = sqrt(1 − sigma²) x_0 + sigma eps with t = sigma in (0, 1)."""

    variance_preserving = True

    def __init__(self, low: float = 1e-3, high: float = 1 - 1e-6) -> None:
        if not 0 < low < high < 1:
            raise ValueError(f"noise levels must satisfy 0 < low < high < 1, got {low} and {high}; choose others")
        self.low, self.high = low, high

    def _at(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        t = t.to(torch.result_type(t, 1.0))
        power = 1 - t.square()
        return power.sqrt(), t, 2 * t / power


class DiscreteSchedule(NoiseSchedule):
    """A variance-preserving table over integer times 0 .. T−1, as DDPM-trained networks use.

    Args:
        signal_power: alpha_t² for each t, [T], strictly decreasing within (0, 1); kept in float64 (float32 on devices
            without it), with one copy on each device that asks.

    Raises:
        ValueError: if the table does not decrease within (0, 1).
    """

    variance_preserving = True

    def __init__(self, signal_power: Tensor) -> None:
        power = signal_power.detach().double().cpu()
        inside = power.ndim == 1 and len(power) > 1 and bool(((power > 0) & (power < 1)).all())
        if not inside or not bool((power.diff() < 0).all()):
            raise ValueError(
                "signal_power must be a decreasing table of alpha² within (0, 1), one entry per integer time; "
                f"got shape {tuple(power.shape)}"
            )
        self.low, self.high = 0, len(power) - 1
        (slope,) = torch.gradient((1 - power) / power)
        table = torch.stack([power.sqrt(), (1 - power).sqrt(), power * slope])
        self._tables = {table.device: table}

    def _at(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if t.is_floating_point():
            raise ValueError(f"times must be integers, got dtype {t.dtype}; draw t with TimeLaw.levels(range(...))")
        if t.device not in self._tables:
            self._tables[t.device] = self._tables[torch.device("cpu")].to(t.device, precision_on(t.device))
        alpha, sigma, diffusion = self._tables[t.device][:, t]
        return alpha, sigma, diffusion


def scaled_linear_schedule(beta_start: float = 0.00085, beta_end: float = 0.012, steps: int = 1000) -> DiscreteSchedule:
    """The table that Stable Diffusion and SDXL were trained with: sqrt(beta) runs linearly over the steps.

    alpha_399 = 0.6528, sigma_399 = 0.7576; alpha_999 = 0.0683 (diffusers: beta_schedule "scaled_linear").
    """
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64).square()
    return DiscreteSchedule((1 - betas).cumprod(0))


@dataclass(frozen=True)
class TimeLaw:
    """How noise levels are drawn: a quantile function, so that draws can be stratified and keyed by position.

    Belongs to a method (pi(t) of the papers), not to the schedule.
    """

    name: Literal["uniform", "log_uniform", "levels"]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.name == "levels":
            needs, fits = "at least one time", len(self.values) > 0
        elif self.name == "uniform":
            needs, fits = "low < high", len(self.values) == 2 and self.values[0] < self.values[1]
        elif self.name == "log_uniform":
            needs, fits = "0 < low < high", len(self.values) == 2 and 0 < self.values[0] < self.values[1]
        else:
            raise ValueError(f"time law {self.name!r} is not one of uniform, log_uniform, levels; use one of these")
        if not fits:
            raise ValueError(f"TimeLaw.{self.name} needs {needs}, got {self.values}; choose other values")

    @classmethod
    def uniform(cls, low: float, high: float) -> TimeLaw:
        """Uniform on [low, high]. Raises ValueError unless low < high."""
        return cls("uniform", (low, high))

    @classmethod
    def log_uniform(cls, low: float, high: float) -> TimeLaw:
        """log t uniform on [log low, log high]. Raises ValueError unless 0 < low < high."""
        return cls("log_uniform", (low, high))

    @classmethod
    def levels(cls, values: Sequence[float]) -> TimeLaw:
        """Each of the listed times with equal probability; integers stay integers. Raises ValueError if empty."""
        return cls("levels", tuple(v.item() if hasattr(v, "item") else v for v in values))

    def quantile(self, u: Tensor) -> Tensor:
        """The u-quantile, u in [0, 1), any shape; dtype of u, or int64 when the levels are integers."""
        if self.name == "levels":
            integral = all(isinstance(value, int) for value in self.values)
            table = torch.tensor(self.values, dtype=torch.int64 if integral else u.dtype, device=u.device)
            return table[(u * len(table)).long().clamp(max=len(table) - 1)]
        low, high = self.values
        if self.name == "uniform":
            return low + (high - low) * u
        return low * (high / low) ** u

    def check(self, schedule: NoiseSchedule) -> None:
        """Raise ValueError if the law can draw a time that the schedule does not know."""
        if min(self.values) < schedule.low or max(self.values) > schedule.high:
            raise ValueError(
                f"the time law draws t from {min(self.values):g} to {max(self.values):g}, but "
                f"{type(schedule).__name__} is defined on [{schedule.low:g}, {schedule.high:g}]; narrow the law"
            )
