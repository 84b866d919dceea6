"""What post-training a text-to-image model depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ..runs.settings import Count, Recipe
from ..schedule import TimeLaw
from .prompt_files import dataset_named

Decay = Annotated[float, Field(ge=0, lt=1)]
MIDDLE_TIMES = TimeLaw.levels(range(20, 980))
"""Nearly all of the 1000 times, as DMD2 draws them."""


class PictureRecipe(Recipe):
    """The keys of a run on pictures. What a model has tuned, its subclass gives as defaults.

    Attributes:
        roles: "full" copies of the networks, or "lora": adapters on tied clones.
        rank: of the adapters.
        prompts: a file or a data set of the hub as `read_prompts` takes it, or how many of the prompts that the model itself
            brings.
        prompt_cache: a file for their embeddings, see Prompts; without one they are embedded when they are drawn, or at once
            where memory holds them. Embeddings from a cache are the same up to rounding.
        ema_decay: of the generator's averaged weights, which are what is evaluated and exported; 0 keeps none.
        optimizer: "adam" with beta_1 = 0, or "rmsprop", which takes the same steps in half of its memory, up to rounding; see
            AdamWithoutMomentum.
        checkpoint_unets, checkpoint_decoder: keep no activations inside the blocks of the UNets, and of the decoder, through
            which the reward's gradient passes; for less memory and more time, with the same numbers.
    """

    TIMES: ClassVar[TimeLaw | None] = MIDDLE_TIMES
    FILES: ClassVar[tuple[str, ...]] = ("prompts", "prompt_cache")

    roles: Literal["full", "lora"] = "full"
    rank: Count = 8
    prompts: Count | str
    prompt_cache: str | None = None
    ema_decay: Decay
    optimizer: Literal["adam", "rmsprop"] = "adam"
    checkpoint_unets: bool = False
    checkpoint_decoder: bool = False

    @classmethod
    def _with_paths(cls, written: Any, folder: Path) -> dict[str, Any]:
        """Paths relative to the recipe's folder, but for prompts that are a data set's name on the hub."""
        settled = super()._with_paths(written, folder)
        prompts = settled.get("prompts")
        if isinstance(prompts, str) and not Path(prompts).exists() and dataset_named(written["prompts"]) is not None:
            settled["prompts"] = written["prompts"]
        return settled
