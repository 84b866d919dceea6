"""CLIP rewards: preprocessing and values against each model's own processor, with random weights."""

import numpy as np
import pytest
import torch
from PIL import Image

from distar_core.rewards import clip
from distar_core.rewards.base import PictureReward
from distar_core.rewards.clip import ClipScore, Preprocess
from distar_core.sdxl.miniature import make_tokenizer

PROMPTS = ["a red circle", "a circle"]


def pictures(height: int, width: int, count: int = 2) -> list[Image.Image]:
    """Smooth pictures with an edge, in eight bits."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.stack([np.sin(x / (7 + k + c)) * np.cos(y / (5 + 2 * c)) for c in range(3)], -1) for k in range(count)]
    return [Image.fromarray(np.uint8(127 + 120 * wave * (1 - 2 * (x > width // 2)[..., None]))) for wave in waves]


def as_tensor(images: list[Image.Image]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 for image in images])


def own_processors():
    import open_clip
    from transformers import CLIPImageProcessor
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    of_open_clip = open_clip.image_transform(224, is_train=False)
    of_transformers = CLIPImageProcessor()
    yield (
        "open_clip",
        Preprocess(224, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD),
        lambda images: torch.stack([of_open_clip(image) for image in images]),
    )
    yield (
        "transformers",
        Preprocess(224, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, halves="floor"),
        lambda images: of_transformers(images, return_tensors="pt").pixel_values,
    )


@pytest.mark.parametrize("shape", [(512, 512), (300, 517), (640, 301), (224, 224), (100, 130), (55, 55), (320, 330)])
def test_preprocessing_equals_the_models_own(shape):
    images = pictures(*shape)
    for name, ours, own in own_processors():
        difference = (ours(as_tensor(images)) - own(images)) * ours.std
        assert float(difference.abs().max()) <= 2 / 255, name
    # control: without antialiasing, or with another cut, it is not
    wrong = torch.nn.functional.interpolate(as_tensor(pictures(512, 512)), (224, 224), mode="bicubic")
    right = ours.resize(as_tensor(pictures(512, 512)))
    assert float((wrong - right).abs().max()) > 2 / 255


@pytest.fixture(scope="module")
def open_clip_model():
    import open_clip

    torch.manual_seed(0)
    model = open_clip.CLIP(
        embed_dim=16,
        vision_cfg=open_clip.CLIPVisionCfg(layers=2, width=32, head_width=16, patch_size=8, image_size=32),
        text_cfg=open_clip.CLIPTextCfg(context_length=16, vocab_size=64, width=32, heads=2, layers=2),
    )
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    open_clip.set_model_preprocess_cfg(model, {"size": (32, 32), "mean": mean, "std": std, "interpolation": "bicubic"})
    return model


def tokenize(prompts: list[str]) -> torch.Tensor:
    tokenizer = make_tokenizer(("a", "red", "circle"))
    return tokenizer(prompts, padding="max_length", return_tensors="pt").input_ids.clamp(max=63)


def test_the_value_is_the_models_own_on_its_own_preprocessing(open_clip_model):
    import open_clip

    reward = ClipScore.of(open_clip_model, tokenize)
    images = pictures(96, 120)
    own = torch.stack([open_clip.image_transform(32, is_train=False)(image) for image in images])
    with torch.no_grad():
        seen = open_clip_model.encode_image(own, normalize=True)
        said = open_clip_model.encode_text(tokenize(PROMPTS), normalize=True)
        expected = (seen * said).sum(-1)
        found = reward(images=as_tensor(images), prompts=PROMPTS)
    # eight-bit rounding of the resized picture is all that is left between them; measured: 4e-4
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)
    assert isinstance(reward, PictureReward)
    # control: other prompts give other values
    assert float((reward(images=as_tensor(images), prompts=PROMPTS[::-1]) - found).abs().max()) > 5e-3


def test_a_transformers_model_has_its_own_value():
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(0)
    tokenizer = make_tokenizer(("a", "red", "circle"))
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 224,
        "patch_size": 32,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    reward = ClipScore.of_transformers(model, tokenizer)
    images = pictures(300, 260)
    with torch.no_grad():
        out = model(
            pixel_values=CLIPImageProcessor()(images, return_tensors="pt").pixel_values,
            **tokenizer(PROMPTS, padding="max_length", max_length=16, return_tensors="pt"),
        )
        expected = out.logits_per_image.diagonal() / model.logit_scale.exp()
        found = reward(images=as_tensor(images), prompts=PROMPTS)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


def test_the_gradient_reaches_the_picture(open_clip_model):
    reward = ClipScore.of(open_clip_model, tokenize).double()
    images = as_tensor(pictures(48, 48)).double().requires_grad_()
    (gradient,) = torch.autograd.grad(reward(images=images, prompts=PROMPTS).sum(), images)
    direction = torch.randn_like(images)
    with torch.no_grad():
        ends = [reward(images=(images + h * direction).clamp(0, 1), prompts=PROMPTS).sum() for h in (1e-6, -1e-6)]
    slope = float((gradient * direction).sum())
    assert abs(float(ends[0] - ends[1]) / 2e-6 - slope) < 1e-4 * max(1, abs(slope))
    assert abs(slope) > 1e-4
    open_clip_model.float()


def test_words_follow_the_model_to_another_type(open_clip_model):
    reward = ClipScore.of(open_clip_model, tokenize)
    assert reward.words(PROMPTS).dtype == torch.float32
    assert reward.double().words(PROMPTS).dtype == torch.float64
    reward.float()


@pytest.mark.parametrize("other", [{"resize_mode": "squash"}, {"size": (32, 48)}])
def test_a_model_with_other_preprocessing_is_refused(open_clip_model, monkeypatch, other):
    for key, value in other.items():
        monkeypatch.setitem(open_clip_model.visual.preprocess_cfg, key, value)
    with pytest.raises(ValueError, match=r"takes 32 × (32|48) pixels with resize_mode '(squash|shortest)', but only"):
        ClipScore.of(open_clip_model, tokenize)


def test_missing_weights_are_one_sentence(monkeypatch):
    import open_clip
    import transformers

    def unreachable(*_, **__):
        raise OSError("We couldn't connect to the hub\nand more")

    monkeypatch.setattr(open_clip, "create_model", unreachable)
    monkeypatch.setattr(transformers.CLIPModel, "from_pretrained", unreachable)
    with pytest.raises(
        FileNotFoundError, match=r"ViT-H-14, tag 'laion2b_s32b_b79k' are not here .*: 3\.9 GB, licence: MIT"
    ):
        ClipScore.load("ViT-H-14", "laion2b_s32b_b79k")
    with pytest.raises(
        FileNotFoundError, match=r"PickScore_v1 are not here and could not be fetched \(We couldn't"
    ) as caught:
        ClipScore.pickscore()
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="open_clip knows no model 'ViT-Z-99'"):
        ClipScore.load("ViT-Z-99")
    assert {name for name in clip.SIZES if "ViT" in name} <= set(open_clip.list_models())
