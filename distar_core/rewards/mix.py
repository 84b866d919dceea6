"""A reward as a recipe writes it: published rewards by name, with weights and normalisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

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
        mean, std: of the reward on pictures that one calls usual, such as those of the generator before post-training;
            `Normalised.fit` measures them.
        folder: with its files; by default they are fetched.
    """

    model_config = STRICT

    weight: float
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
            reward = load(name, None if term.folder is None else Path(term.folder)).to(device=device, dtype=dtype)
            plain = (term.mean, term.std) == (0.0, 1.0)
            terms[name] = (term.weight, reward if plain else Normalised(reward, term.mean, term.std))
        return WeightedSum(terms)


def _read_term(name: Any, term: Any, written: Any) -> Term:
    try:
        find_reward(str(name))
    except ValueError as error:
        raise _refusal(written, str(error)) from None
    if not isinstance(term, int | float | Mapping | Term) or isinstance(term, bool):
        raise _refusal(written, f"gives {name} the weight {term!r}; write a number, such as {name}: 1.0")
    try:
        return Term.model_validate(term)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        key, known = ".".join(map(str, found["loc"])), ", ".join(Term.model_fields)
        raise _refusal(written, f"{name} cannot have this {key} ({found['msg']}); its keys are {known}") from None


def _refusal(value: Any, why: str) -> PydanticCustomError:
    """What a recipe's sentence goes on with after "but"."""
    return PydanticCustomError("recipe", "{why}", {"value": value, "why": why})
