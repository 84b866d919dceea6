"""Runs in the plane: what they depend on, and the loop in a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Self

from pydantic import field_validator

from ..methods import METHODS
from ..runs.run import run
from ..runs.settings import LOOP_KEYS, RECIPE, Count, CountFrom0, Defaults, Rate, Recipe, write_yaml
from ..schedule import TimeLaw
from ..training import Record, State
from .ring import ASSISTANT_LR, LAW, LOOP, LR, REWARDS, ToyGenerator, no_conditions, reference, toy_state


class ToyRecipe(Recipe):
    """What a run in the plane depends on. Rewards are those of REWARDS, noise levels those of the fixed points."""

    DEFAULTS: ClassVar[Defaults] = Defaults({reward: dict.fromkeys(METHODS, 0.8) for reward in REWARDS})
    TIMES: ClassVar[TimeLaw | None] = LAW

    reward: str = "mode"
    steps: Count = 800
    batch: Count = LOOP["batch"]
    warmup: CountFrom0 = LOOP["warmup"]
    assistant_updates: Count = LOOP["assistant_updates"]
    lr: Rate = LR
    assistant_lr: Rate = ASSISTANT_LR

    @field_validator("cfg_scale")
    @classmethod
    def _no_guidance(cls, cfg_scale: float | None) -> float | None:
        if cfg_scale:
            raise ValueError("should be 0, since there are no prompts in the plane to be guided by")
        return cfg_scale

    @classmethod
    def of_run(cls, folder: Path) -> Self:
        """The recipe of the run in a folder; of one from before runs had a recipe, what its config.json says."""
        if (folder / RECIPE).is_file() or not (folder / "config.json").is_file():
            return super().of_run(folder)
        try:
            config = json.loads((folder / "config.json").read_text("utf-8"))
            method = {"method": config["method"]["name"], "reward_scale": config["method"]["reward_scale"]}
            written = method | {key: config[key] for key in ("reward", *LOOP_KEYS)}
        except (ValueError, LookupError, TypeError):
            raise ValueError(
                f"{folder / 'config.json'} is not that of a run in the plane; name another folder"
            ) from None
        return cls.read(written)


def make_state(recipe: ToyRecipe, generator: ToyGenerator) -> State:
    """A fresh run from a copy of a generator."""
    return toy_state(
        generator,
        reference(),
        REWARDS[recipe.reward],
        seed=recipe.seed,
        steps=recipe.steps,
        lr=recipe.lr,
        assistant_lr=recipe.assistant_lr,
    )


def run_recipe(
    recipe: ToyRecipe, state: State, folder: Path, *, resume: bool = False, save_every: int = 200
) -> Iterator[Record]:
    """`runs.run` of a fresh state in a folder, which also gets recipe.yaml with every key written out."""
    yield from run(
        state,
        recipe.method,
        no_conditions,
        folder,
        resume=resume,
        save_every=save_every,
        settings={"reward": recipe.reward},
        texts={RECIPE: write_yaml(recipe.written)},
        **recipe.loop,
    )
