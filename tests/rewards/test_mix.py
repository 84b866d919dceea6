"""Sums of published rewards as a recipe writes them."""

from typing import Any, ClassVar

import pytest
import torch

from distar_core.rewards.base import PictureReward
from distar_core.rewards.mix import RewardMix, Term
from distar_core.runs.settings import Defaults, RecipeError
from distar_core.sdxl.recipe import PictureRecipe

IMAGES = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
PROMPTS = ["a"] * 3
WRITTEN = {"pickscore": 1.0, "hpsv2.1": {"weight": -0.5, "mean": 0.25, "std": 0.02, "folder": "weights/hps"}}


class Channel(torch.nn.Module):
    """The mean of one channel."""

    differentiable = True
    NUMBERS: ClassVar[dict[str, int]] = {"pickscore": 0, "hpsv2.1": 1}

    def __init__(self, name: str) -> None:
        super().__init__()
        self.number = self.NUMBERS[name]
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, *, images, prompts):
        return images[:, self.number].mean((1, 2))


def test_a_sum_is_weighted_and_normalised_by_name():
    asked = {}

    def load(name, folder):
        asked[name] = folder
        return Channel(name)

    reward = RewardMix.model_validate(WRITTEN).load(load, dtype=torch.bfloat16)
    assert isinstance(reward, PictureReward)
    assert {name: None if folder is None else folder.as_posix() for name, folder in asked.items()} == {
        "pickscore": None,
        "hpsv2.1": "weights/hps",
    }
    red, green, _ = IMAGES.mean((2, 3)).unbind(1)
    expected = red - 0.5 * (green - 0.25) / 0.02
    torch.testing.assert_close(reward(images=IMAGES, prompts=PROMPTS), expected)
    torch.testing.assert_close(reward.each(images=IMAGES, prompts=PROMPTS)["hpsv2.1"], (green - 0.25) / 0.02)
    assert reward.terms["pickscore"][1].scale.dtype == torch.bfloat16


class Cosine(Channel):
    """A channel that says, as a CLIP does, what its model multiplies it by."""

    temperature = 100.0


def test_a_cosine_may_be_weighted_as_the_logit_of_its_model():
    def values(**term):
        reward = RewardMix.model_validate({"pickscore": {"weight": 2.0, **term}}).load(lambda name, _: Cosine(name))
        return reward(images=IMAGES, prompts=PROMPTS)

    red = IMAGES.mean((2, 3))[:, 0]
    torch.testing.assert_close(values(), 2 * red)
    torch.testing.assert_close(values(unit="logit"), 200 * red)
    torch.testing.assert_close(values(unit="logit", mean=22.0, std=4.0), 2 * (100 * red - 22) / 4)


class Mixed(PictureRecipe):
    """A recipe of a model without rewards of its own."""

    DEFAULTS: ClassVar[Defaults] = Defaults(None)

    reward: RewardMix
    prompts: str = "prompts.txt"
    steps: int = 1
    batch: int = 1
    lr: float = 1e-4
    assistant_lr: float = 1e-4
    ema_decay: float = 0.0


def test_a_recipe_reads_back_what_it_wrote(tmp_path):
    recipe = Mixed.read({"reward": WRITTEN, "reward_scale": 2.0})
    path = tmp_path / "recipe.yaml"
    recipe.write(path)
    assert Mixed.read(path).reward == recipe.reward
    assert recipe.reward.root["pickscore"] == Term(weight=1.0, mean=0.0, std=1.0)
    path.write_text("reward: clip:ViT-B-32/laion2b_s34b_b79k\nreward_scale: 1.0\n", "utf-8")
    assert Mixed.read(path).reward.root == {"clip:ViT-B-32/laion2b_s34b_b79k": Term(weight=1.0)}
    with pytest.raises(RecipeError) as caught:
        Mixed.read({"reward": WRITTEN})
    assert caught.value.key == "reward_scale", "no sum has a default"


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ({}, "pickscore: 1.0"),
        (3.0, "pickscore: 1.0"),
        ("pikscore", "'pikscore' is unknown; known are imagereward"),
        ({"pickscore": 1.0, "hps": 1.0}, "'hps' is unknown"),
        ({1: 1.0}, "'1' is unknown"),
        ("clip:ViT-B-32/openai", "load 'ViT-B-32-quickgelu'"),
        ({"pickscore": "1.0"}, "weight '1.0'"),
        ({"pickscore": True}, "weight True"),
        ({"pickscore": float("nan")}, "finite"),
        ({"pickscore": {"mean": 1.0}}, "weight"),
        ({"pickscore": {"weight": 1.0, "std": 0.0}}, "greater than 0"),
        ({"pickscore": {"weight": 1.0, "deviation": 2.0}}, "deviation"),
        ({"pickscore": {"weight": 1.0, "unit": "percent"}}, "unit"),
        ({"laion-aesthetic": {"weight": 1.0, "unit": "logit"}}, "'logit'"),
    ],
)
def test_what_cannot_be_honoured_is_refused_under_the_key(written: Any, told: str):
    Mixed.read({"reward": WRITTEN, "reward_scale": 1.0})  # control
    with pytest.raises(RecipeError) as caught:
        Mixed.read({"reward": written, "reward_scale": 1.0})
    assert caught.value.key == "reward"
    assert told in str(caught.value)
