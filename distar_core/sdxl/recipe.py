"""What post-training a text-to-image model depends on."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ..runs.settings import Count, Recipe
from ..schedule import TimeLaw

Decay = Annotated[float, Field(ge=0, lt=1)]
MIDDLE_TIMES = TimeLaw.levels(range(20, 980))
"""Nearly all of the 1000 times, as DMD2 draws them."""


class PictureRecipe(Recipe):
    """The keys of a run on pictures. What a model has tuned, its subclass gives as defaults.

    Attributes:
        roles: "full" copies of the networks, or "lora": adapters on tied clones.
        rank: of the adapters.
        prompts: a file as `read_prompts` takes it, or how many of the prompts that the model itself brings.
        ema_decay: of the generator's averaged weights, which are what is evaluated and exported; 0 keeps none.
        checkpoint_decoder: keep no activations inside the blocks of the decoder, through which the reward's gradient passes;
            for less memory and more time, with the same numbers.
    """

    TIMES: ClassVar[TimeLaw | None] = MIDDLE_TIMES
    FILES: ClassVar[tuple[str, ...]] = ("prompts",)

    roles: Literal["full", "lora"] = "full"
    rank: Count = 8
    prompts: Count | str
    ema_decay: Decay
    checkpoint_decoder: bool = False
