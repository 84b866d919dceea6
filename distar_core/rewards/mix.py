"""A reward as a recipe writes it: published rewards by name, with weights, units and normalisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from .base import FrozenReward, Normalised, PictureReward, WeightedSum
from .published import find_reward, load_reward

STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Term(BaseModel):
    """One reward of a mix: weight · (reward − mean)/std. A recipe may write the weight alone.

    Attributes:
        weight: its factor; negative to go down.
        unit: "own" as the reward is defined, for a CLIP the cosine; "logit" is the cosine times the model's own temperature, as
            in its training loss and some tables. A hundred times the cosine is a weight of 100.
        mean, std: in that unit, of the reward on pictures that one calls usual, such as those of the generator before post-training;
            `Normalised.fit` measures them.
        folder: with its files; by default they are fetched.
    """

    model_config = STRICT

    weight: float
    unit: Literal["own", "logit"] = "own"
    mean: float = 0.0
    std: Annotated[float, Field(gt=0)] = 1.0
    folder: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _settle(cls, written: Any) -> Any:
        is_number = isinstance(written, int | float) and not isinstance(written, bool)
        return {"weight": written} if is_number else written


class RewardMix(RootModel[dict[str, Term]]):
    """Published rewards by name, as in `reward: {pickscore: 1.0, hpsv2.1: {weight: 0.5, mean: 0.28, std: 0.02}}`.

    A name alone is that reward with weight 1. Names are held to those of `find_reward`. It is a pydantic type: a recipe with
    a field of it refuses what it cannot honour under the field's key.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _settle(cls, written: Any) -> Any:
        if isinstance(written, str):
            written = {written: 1.0}
        if not isinstance(written, Mapping) or not written:
            raise _refusal(written, "should be the name of a reward, or names with weights such as {pickscore: 1.0}")
        return {name: _read_term(name, term, written) for name, term in written.items()}

    def load(
        self,
        load: Callable[[str, Path | None], FrozenReward] = load_reward,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> WeightedSum:
        """The sum of the rewards, each normalised and weighted; its `each` gives them by name, normalised. Raises as `load`."""
        terms: dict[str, tuple[float, PictureReward]] = {}
        for name, term in self.root.items():
            reward: Any = load(name, None if term.folder is None else Path(term.folder))
            unit = reward.temperature if term.unit == "logit" else 1.0
            # (unit r − mean)/std, by the mean and deviation of r itself
            mean, std = term.mean / unit, term.std / unit
            reward = reward.to(device=device, dtype=dtype)
            terms[name] = (term.weight, reward if (mean, std) == (0.0, 1.0) else Normalised(reward, mean, std))
        return WeightedSum(terms)


def _read_term(name: Any, term: Any, written: Any) -> Term:
    try:
        found = find_reward(str(name))
    except ValueError as error:
        raise _refusal(written, str(error)) from None
    if not isinstance(term, int | float | Mapping | Term) or isinstance(term, bool):
        raise _refusal(written, f"gives {name} the weight {term!r}; write a number, such as {name}: 1.0")
    try:
        read = Term.model_validate(term)
    except ValidationError as error:
        why = error.errors(include_url=False)[0]
        key, known = ".".join(map(str, why["loc"])), ", ".join(Term.model_fields)
        raise _refusal(written, f"{name} cannot have this {key} ({why['msg']}); its keys are {known}") from None
    if read.unit == "logit" and not found.has_logit:
        raise _refusal(written, f"gives {name} the unit 'logit', which only a CLIP's cosine has; leave it out")
    return read


def _refusal(value: Any, why: str) -> PydanticCustomError:
    """What a recipe's sentence goes on with after "but"."""
    return PydanticCustomError("recipe", "{why}", {"value": value, "why": why})
