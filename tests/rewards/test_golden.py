"""The published rewards in their true architecture say of random weights what their original code says.

Golden numbers: `tools/golden_rewards.py`, which also fills the weights and makes the pictures here.
"""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from transformers import BatchEncoding

from distar_core.rewards.clip import ClipScore
from distar_core.rewards.heads import five_layers
from distar_core.rewards.imagereward import SPARE, TOKENS, ImageReward, make_network
from distar_core.rewards.laion import LaionAesthetic
from distar_core.rewards.preprocess import Preprocess, PreprocessWhole
from tools.golden_rewards import IDS, PROMPTS, SHAPES, direction, fill, keys_of, picture

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text("utf-8"))


class Tolerance(NamedTuple):
    """Of what is computed alike in float32; and of a picture that the original resizes in eight bits, or as we do."""

    exact: float
    resized: float


class Tokens:
    """BERT's tokens of the two prompts."""

    cls_token_id = 101

    def __len__(self) -> int:
        return 30522

    def __call__(self, prompts, **settings):
        if isinstance(prompts, str):
            return BatchEncoding({"input_ids": IDS[PROMPTS.index(prompts)] if prompts else [101, 102]})
        ids = [IDS[PROMPTS.index(prompt)] for prompt in prompts]
        rows = [(own + [0] * (TOKENS - len(own)), [1] * len(own) + [0] * (TOKENS - len(own))) for own in ids]
        names = ("input_ids", "attention_mask")
        return BatchEncoding({n: torch.tensor(v) for n, v in zip(names, zip(*rows, strict=True), strict=True)})


@pytest.fixture(autouse=True)
def no_random_weights(monkeypatch):
    """Initialising networks of this size takes longer than running them."""
    for name in ("kaiming_uniform_", "uniform_", "normal_", "trunc_normal_", "xavier_uniform_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)


def open_clip_model(name):
    import open_clip

    return open_clip.create_model(name, load_weights=False, pretrained_text=False)


def hold_to(golden, reward, tolerance):
    """Two scores, and of the first picture the gradient: its norm and its product with a fixed direction."""
    images = [(picture(*shape)[None] / 255).requires_grad_(number == 0) for number, shape in enumerate(SHAPES)]
    first = reward(images=images[0], prompts=PROMPTS[:1])
    assert first.item() == pytest.approx(golden["scores"][0], abs=tolerance.exact)
    (gradient,) = torch.autograd.grad(first.sum(), images[0])
    gradient = gradient * reward.preprocess.std  # the original's is at the preprocessed picture
    assert gradient.norm().item() == pytest.approx(golden["gradient_norm"], rel=1e-4)
    along = (gradient * direction(gradient.shape)).sum().item()
    assert along == pytest.approx(golden["gradient_along"], abs=1e-4 * golden["gradient_norm"])
    with torch.no_grad():
        second = reward(images=images[1], prompts=PROMPTS[1:]).item()
    assert second == pytest.approx(golden["scores"][1], abs=tolerance.resized)


def test_imagereward():
    network = make_network()
    state = network.state_dict()
    fill(state)
    spare = {"vision_proj": (256, 1024), "text_proj": (256, 768)}
    shapes = {f"blip.{name}.weight": shape for name, shape in spare.items()}
    shapes |= {f"blip.{name}.bias": shape[:1] for name, shape in spare.items()}
    shapes["blip.text_encoder.embeddings.position_ids"] = (1, 512)
    assert shapes.keys() == SPARE
    assert len(state) == 620
    assert (
        keys_of(state | {name: torch.empty(shape) for name, shape in shapes.items()}) == GOLDEN["imagereward"]["keys"]
    )
    reward = ImageReward(network, Tokens())
    hold_to(GOLDEN["imagereward"], reward, Tolerance(2e-5, 4e-3))
    # control: with 8 heads, as is transformers' default, the same weights load and say something else
    for module in reward.blip.text_encoder.modules():
        if hasattr(module, "num_attention_heads"):
            module.num_attention_heads, module.attention_head_size = 8, 96
    with torch.no_grad():
        wrong = reward(images=picture(*SHAPES[0])[None] / 255, prompts=PROMPTS[:1]).item()
    assert abs(wrong - GOLDEN["imagereward"]["scores"][0]) > 1e-2


def test_hpsv2():
    import open_clip

    model = open_clip_model("ViT-H-14")
    state = model.state_dict()
    assert len(state) == 686
    assert keys_of(state) == GOLDEN["hpsv2.1"]["keys"]
    fill(state)
    reward = ClipScore.of(model, open_clip.get_tokenizer("ViT-H-14"), preprocess=PreprocessWhole(224))
    hold_to(GOLDEN["hpsv2.1"], reward, Tolerance(1e-6, 1e-6))


def test_laion():
    layers = torch.nn.ModuleDict({"layers": five_layers(768)})
    visual = open_clip_model("ViT-L-14-quickgelu").visual
    state = {f"visual.{name}": value for name, value in visual.state_dict().items()} | layers.state_dict()
    assert keys_of(state) == GOLDEN["laion"]["keys"]
    fill(state)
    hold_to(GOLDEN["laion"], LaionAesthetic(visual, Preprocess(224), layers["layers"]), Tolerance(1e-6, 5e-5))
    # control: with GELU, open_clip's activation for the name without "-quickgelu", the same weights say something else
    for block in visual.transformer.resblocks:
        block.mlp.gelu = torch.nn.GELU()
    wrong = LaionAesthetic(visual, Preprocess(224), layers["layers"])
    with torch.no_grad():
        value = wrong(images=picture(*SHAPES[0])[None] / 255, prompts=PROMPTS[:1]).item()
    assert abs(value - GOLDEN["laion"]["scores"][0]) > 1e-5
