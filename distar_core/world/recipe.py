"""What post-training in the world depends on: our defaults for its models, and its training captions."""

from __future__ import annotations

from typing import ClassVar

import torch

from ..runs.settings import Count, CountFrom0, Defaults, Rate
from ..sdxl.prompt_files import read_prompts
from ..sdxl.recipe import Decay, PictureRecipe
from .scenes import training_scenes

REWARD_SCALES = {
    "reward-only": 1.0,
    "diff-instruct++": 3.0,
    "diff-instruct*": 0.3,
    "diff-instruct*-out": 1.0,
    "didr-proxy": 0.1,
}
"""Our defaults for the preference reward, from pilots of 150 steps with one seed."""


class WorldRecipe(PictureRecipe):
    """A PictureRecipe for the world's models; `prompts` is a file, or a number of training captions.

    huber_c is 0.1 √n for the n = 256 values of a latent, cfg_scale what the shipped generator was distilled with. CLIP's
    reward has no default scale; at 4 its pull is about as long as that of the preference reward at 0.3.
    """

    DEFAULTS: ClassVar[Defaults] = Defaults({"preference": REWARD_SCALES, "clip": {}}, huber_c=1.6, cfg_scale=1.0)

    reward: str = "preference"
    prompts: Count | str = 2048
    steps: Count = 300
    batch: Count = 32
    lr: Rate = 1e-4
    assistant_lr: Rate = 5e-4
    ema_decay: Decay = 0.95
    panels_every: CountFrom0 = 50


def training_prompts(recipe: PictureRecipe) -> list[str]:
    """The prompts of a recipe: its file's, or training captions of the world, none of them held out."""
    if isinstance(recipe.prompts, str):
        return read_prompts(recipe.prompts)
    return training_scenes(recipe.prompts, torch.Generator().manual_seed(recipe.seed + 3))[1]
