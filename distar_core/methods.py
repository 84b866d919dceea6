"""The table of methods: data, no code. Variants come from dataclasses.replace(METHODS[name], ...)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real
from typing import Literal, get_args

from torch import Tensor

from .losses import (
    Distance,
    Law,
    Noised,
    PseudoHuber,
    Scores,
    Unit,
    integral_kl,
    one_per_sample,
    score_divergence,
    weight_dmd,
    weight_one,
    weight_sigma_squared,
    weight_x0,
)
from .schedule import TimeLaw

Guidance = Literal["none", "inside", "outside"]
RewardAt = Literal["nowhere", "sample", "every_level", "every_level_by_proxy"]
_OUR_TIME_LAW = TimeLaw.log_uniform(0.1, 4.0)
LARGEST_SCALE = 1e12
"""Largest scale of a term: squares of what it multiplies must stay within float32, or pulls would vanish as 1/inf."""


@dataclass(frozen=True)
class Method:
    """One member of the family. The weights, laws of t, huber_c and scales are our defaults; we found no published values for
    Diff-Instruct* but the scales of its SDXL run.

    Attributes:
        name: how logs and figures call it.
        regularizer: (noised, scores[, distance=, unit=, law=]) -> [B], a function of losses.py or your own; None: none.
        exact: whether the regularizer differentiates through the scores; False evaluates them without a graph.
        distance, unit, law: handed to the regularizer unless None.
        weight: w(t), (noised, scores) -> [B]; a constant for the gradient.
        time_law: pi(t) of the generator's loss.
        assistant_weight: lambda(t), (noised) -> [B].
        assistant_time_law: pi(t) of the assistant's loss.
        guidance: "none"; "inside": the guided score is the reference; "outside": plain reference plus the CFG reward.
        cfg_scale: additive guidance strength, at most 1e12 in size; 0 is off.
        reward_at: "nowhere"; "sample": on x_0; "every_level": in the target score, exactly; "every_level_by_proxy".
        reward_scale: strength of the explicit reward, at most 1e12 in size.

    Raises:
        ValueError: for an unknown guidance or reward_at, or a scale that is no number, too large, or without its switch.
    """

    name: str
    regularizer: Callable[..., Tensor] | None = None
    exact: bool = False
    distance: Distance | None = None
    unit: Unit | None = None
    law: Law | None = None
    weight: Callable[[Noised, Scores], Tensor] = weight_one
    time_law: TimeLaw = _OUR_TIME_LAW
    assistant_weight: Callable[[Noised], Tensor] = weight_sigma_squared
    assistant_time_law: TimeLaw = _OUR_TIME_LAW
    guidance: Guidance = "none"
    cfg_scale: float = 0.0
    reward_at: RewardAt = "nowhere"
    reward_scale: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.exact, bool):
            raise TypeError(
                f"exact of method {self.name!r} must be True or False, got {self.exact!r}; write one of these"
            )
        for field, value, known in (("guidance", self.guidance, Guidance), ("reward_at", self.reward_at, RewardAt)):
            if value not in get_args(known):
                choices = ", ".join(get_args(known))
                raise ValueError(f"{field} {value!r} of method {self.name!r} is not one of {choices}; use one of these")
        for scale, switch, off in (("cfg_scale", "guidance", "none"), ("reward_scale", "reward_at", "nowhere")):
            value = getattr(self, scale)
            if not isinstance(value, Real) or not abs(float(value)) <= LARGEST_SCALE:
                raise ValueError(
                    f"{scale} of method {self.name!r} must be a number of at most {LARGEST_SCALE:g} in size, got {value!r}; "
                    "choose a smaller one"
                )
            if value and getattr(self, switch) == off:
                raise ValueError(
                    f"method {self.name!r} has {scale} {value:g} but {switch} {off!r}; change {switch}, or set {scale} to 0"
                )

    @property
    def guides(self) -> bool:
        """Whether the score with the null condition is needed; cfg_scale 0 is off."""
        return self.guidance != "none" and self.cfg_scale != 0

    def loss(self, noised: Noised, scores: Scores) -> Tensor:
        """The regularizer without its weight, [B]."""
        if self.regularizer is None:
            raise ValueError(f"method {self.name!r} has no regularizer; set regularizer= to a function of losses.py")
        options = {key: getattr(self, key) for key in ("distance", "unit", "law") if getattr(self, key) is not None}
        return one_per_sample(self.regularizer(noised, scores, **options), noised.x_t, "regularizer")


_KL = Method("diff-instruct", regularizer=integral_kl, weight=weight_x0, guidance="inside")
_SCORE = Method(
    "sim", score_divergence, exact=True, distance=PseudoHuber(0.05), unit="eps", law="frozen", guidance="inside"
)

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("reward-only", reward_at="sample", reward_scale=1.0),
        _KL,
        replace(_KL, name="diff-instruct++", reward_at="sample", reward_scale=1.0),
        _SCORE,
        replace(_SCORE, name="diff-instruct*", reward_at="sample", reward_scale=1.0),
        replace(_SCORE, name="diff-instruct*-out", guidance="outside", reward_at="sample", reward_scale=1.0),
        replace(_KL, name="dmd", weight=weight_dmd),
        replace(_KL, name="didr", reward_at="every_level", reward_scale=1.0),
        replace(_KL, name="didr-proxy", reward_at="every_level_by_proxy", reward_scale=1.0),
    )
}

ALIASES = {"di++": "diff-instruct++", "di-star": "diff-instruct*", "di-star-out": "diff-instruct*-out"}


def find_method(name: str) -> Method:
    """A row of METHODS by its name or an alias without stars. Raises ValueError that lists the known names.

    Examples:
        >>> find_method("di-star").name
        'diff-instruct*'
        >>> replace(find_method("di-star"), reward_scale=0.4).reward_scale  # a variant
        0.4
    """
    full_name = ALIASES.get(name, name)
    if full_name not in METHODS:
        raise ValueError(f"method {name!r} is unknown; known are {', '.join([*METHODS, *ALIASES])}")
    return METHODS[full_name]
