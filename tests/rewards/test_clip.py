"""CLIP rewards: preprocessing and values against each model's own processor, with random weights."""

import copy
import json
import math
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from distar_core.rewards import clip
from distar_core.rewards.base import PictureReward
from distar_core.rewards.clip import ClipScore
from distar_core.rewards.preprocess import Preprocess
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


def transformers_model():
    from transformers import CLIPConfig, CLIPModel

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
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval(), tokenizer


def test_a_transformers_model_has_its_own_value():
    from transformers import CLIPImageProcessor

    model, tokenizer = transformers_model()
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


def test_a_model_says_what_it_multiplies_its_cosines_by(open_clip_model):
    """Both libraries begin at CLIP's 1/0.07, which weights of one's own replace."""
    scores = (ClipScore.of(open_clip_model, tokenize), ClipScore.of_transformers(*transformers_model()))
    assert [score.temperature for score in scores] == pytest.approx([1 / 0.07] * 2, rel=1e-4)
    scores[1].model.logit_scale.data.fill_(2.0)
    assert scores[1].temperature == pytest.approx(math.exp(2))


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

    def unreachable(*_, **__):
        raise OSError("We couldn't connect to the hub\nand more")

    monkeypatch.setattr(open_clip, "download_pretrained", unreachable)
    with pytest.raises(
        FileNotFoundError, match=r"ViT-H-14, tag 'laion2b_s32b_b79k' are not here .*: 3\.9 GB, licence: MIT"
    ) as caught:
        ClipScore.load("ViT-H-14", "laion2b_s32b_b79k")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="open_clip knows no model 'ViT-Z-99'"):
        ClipScore.load("ViT-Z-99")
    assert {name for name in clip.SIZES if "ViT" in name} <= set(open_clip.list_models())


def test_a_tag_whose_weights_want_another_activation_is_refused():
    import open_clip

    refused = []
    for name, tag in open_clip.list_pretrained():
        wants = open_clip.pretrained.get_pretrained_cfg(name, tag).get("quick_gelu", False)
        if wants and not open_clip.get_model_config(name).get("quick_gelu", False):
            with pytest.raises(ValueError, match=f"{tag}.*QuickGELU.*'{name}-quickgelu'"):
                ClipScore.load(name, tag)
            refused.append((name, tag))
            assert clip.stated_by_open_clip(f"{name}-quickgelu", tag)["quick_gelu"], "control: the remedy is one"
        else:
            assert clip.stated_by_open_clip(name, tag)["mean"]
    assert ("ViT-L-14", "openai") in refused
    with pytest.raises(ValueError, match=r"'laion'.*laion2b_s32b_b79k"):
        ClipScore.load("ViT-H-14", "laion")


def test_weights_given_as_a_file_are_refused(tmp_path):
    path = tmp_path / "weights.pt"
    path.touch()
    with pytest.raises(ValueError, match=r"weights\.pt does not say which mean.*open_clip_config\.json"):
        ClipScore.load("ViT-B-32", str(path))


MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]


@pytest.fixture
def open_clip_folder(tmp_path):
    """An open_clip folder with a mean and deviation of its own."""
    import open_clip
    from safetensors.torch import save_file

    tokenizer = make_tokenizer(("a", "red", "circle"))
    tokenizer.save_pretrained(tmp_path)
    vision = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}
    text = {"context_length": 8, "vocab_size": len(tokenizer), "width": 32, "heads": 2, "layers": 1}
    config = {
        "model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text | {"hf_tokenizer_name": "own"}},
        "preprocess_cfg": {"mean": MEAN, "std": STD, "interpolation": "bilinear"},
    }
    (tmp_path / clip.CONFIG).write_text(json.dumps(config), "utf-8")
    torch.manual_seed(0)
    model = open_clip.CLIP(16, open_clip.CLIPVisionCfg(**vision), open_clip.CLIPTextCfg(**text))
    save_file(model.state_dict(), tmp_path / clip.WEIGHTS[0])
    return tmp_path


def test_a_folder_has_its_own_preprocessing_and_weights(open_clip_folder, caplog):
    from safetensors.torch import load_file

    reward = ClipScore.load(f"local-dir:{open_clip_folder}")
    assert reward.preprocess.mean.flatten().tolist() == pytest.approx(MEAN)
    assert reward.preprocess.std.flatten().tolist() == pytest.approx(STD)
    assert reward.preprocess.interpolation == "bilinear"
    for name, value in load_file(open_clip_folder / clip.WEIGHTS[0]).items():
        assert torch.equal(reward.model.state_dict()[name], value)
    assert not caplog.records
    config = json.loads((open_clip_folder / clip.CONFIG).read_text("utf-8"))
    del config["preprocess_cfg"]["std"]
    (open_clip_folder / clip.CONFIG).write_text(json.dumps(config), "utf-8")
    with pytest.raises(ValueError, match=r"open_clip_config\.json does not say the std"):
        ClipScore.load(f"local-dir:{open_clip_folder}")


def damaged(weights):
    """Weights that are another model's in one way each, and what has to be said of them."""
    first = next(name for name in sorted(weights) if weights[name].dim())
    yield {f"model.{name}": value for name, value in weights.items()}, [f"{len(weights)} missing", "model."]
    yield {name: value for name, value in weights.items() if name != first}, [f"1 missing ({first})"]
    yield weights | {"extra": torch.zeros(1)}, ["1 unexpected (extra)"]
    yield weights | {first: torch.zeros(3)}, [f"1 misshapen ({first})"]
    yield weights | {first: torch.full_like(weights[first], torch.nan)}, [f"NaN or infinity in 1 weights ({first})"]


def test_a_folder_is_never_loaded_half(open_clip_folder):
    from safetensors.torch import load_file, save_file

    path = open_clip_folder / clip.WEIGHTS[0]
    weights = load_file(path)
    longer = {"positional_embedding": torch.zeros(16, 32)}  # which open_clip itself would resize
    for wrong, told in [*damaged(weights), (weights | longer, ["1 misshapen (positional_embedding)"])]:
        save_file(wrong, path)
        with pytest.raises(ValueError, match=r"open_clip_model\.safetensors (does not hold|has NaN)") as caught:
            ClipScore.load(f"local-dir:{open_clip_folder}")
        assert all(part in str(caught.value) for part in told)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"open_clip_model\.safetensors is damaged"):
        ClipScore.load(f"local-dir:{open_clip_folder}")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no weights.*open_clip_model\.safetensors"):
        ClipScore.load(f"local-dir:{open_clip_folder}")
    (open_clip_folder / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no tokenizer.*tokenizer\.json"):
        ClipScore.load(f"local-dir:{open_clip_folder}")


def test_a_pickscore_folder_is_never_loaded_half(tmp_path):
    from safetensors.torch import load_file, save_file

    model, tokenizer = transformers_model()
    model.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no tokenizer.*tokenizer\.json, and vocab\.json and merges\.txt"):
        ClipScore.pickscore(tmp_path)
    make_tokenizer(("a",)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"has 54 entries but the text model {len(tokenizer)}"):
        ClipScore.pickscore(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    reward = ClipScore.pickscore(tmp_path)
    images = as_tensor(pictures(64, 64))
    expected = ClipScore.of_transformers(model, tokenizer)(images=images, prompts=PROMPTS)
    assert torch.equal(reward(images=images, prompts=PROMPTS), expected), "control: the whole folder is loaded"
    path = tmp_path / "model.safetensors"
    for wrong, told in damaged(load_file(path)):
        save_file(wrong, path, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=r"does not hold this model's weights|has NaN") as caught:
            ClipScore.pickscore(tmp_path)
        assert all(part in str(caught.value) for part in told)


@pytest.mark.parametrize("kind", ["open_clip", "transformers"])
def test_a_tokenizer_without_merges_is_refused(open_clip_folder, tmp_path, kind):
    """It has as many entries as the model, but spells every word in letters."""
    folder = open_clip_folder if kind == "open_clip" else tmp_path / "pickscore"
    if kind == "transformers":
        model, tokenizer = transformers_model()
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    def load():
        return ClipScore.load(f"local-dir:{folder}") if kind == "open_clip" else ClipScore.pickscore(folder)

    load()  # control: with its merges it is taken
    path = folder / "tokenizer.json"
    words = json.loads(path.read_text("utf-8"))
    made = len(words["model"]["merges"])
    words["model"]["merges"] = []
    path.write_text(json.dumps(words), "utf-8")
    with pytest.raises(ValueError, match=rf"no merges that make {made} words .* 're'"):
        load()


def test_a_model_that_pools_elsewhere_than_its_tokenizer_ends_is_refused():
    """All prompts would have one embedding."""
    model, tokenizer = transformers_model()
    end = tokenizer.eos_token_id
    for other in (49407, None, [end]):
        model.config.text_config.eos_token_id = other
        with pytest.raises(ValueError, match="eos_token_id is") as told:
            ClipScore.of_transformers(model, tokenizer)
        assert f"token {end}" in str(told.value)
        assert repr(other) in str(told.value)
    for own in (2, end):  # controls
        model.config.text_config.eos_token_id = own
        ClipScore.of_transformers(model, tokenizer)
    tokenizer.padding_side = "left"
    with pytest.raises(ValueError, match="padding_side 'left'"):
        ClipScore.of_transformers(model, tokenizer)


def test_a_pickscore_configuration_of_the_wrong_type_is_one_sentence(tmp_path):
    model, tokenizer = transformers_model()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text("utf-8"))
    config["text_config"]["vocab_size"] = str(len(tokenizer))
    path.write_text(json.dumps(config), "utf-8")
    with pytest.raises(ValueError, match="'vocab_size'") as told:
        ClipScore.pickscore(tmp_path)
    assert "\n" not in str(told.value)


def test_a_transformers_processor_is_obeyed_or_refused():
    from transformers import CLIPImageProcessor

    model, tokenizer = transformers_model()
    own = {"image_mean": MEAN, "image_std": STD, "resample": 2}
    reward = ClipScore.of_transformers(model, tokenizer, own)
    images = pictures(300, 260)
    expected = CLIPImageProcessor(**own)(images, return_tensors="pt").pixel_values
    difference = (reward.preprocess(as_tensor(images)) - expected) * reward.preprocess.std
    assert float(difference.abs().max()) <= 2 / 255
    for other in ({"size": {"shortest_edge": 256}}, {"do_center_crop": False}, {"resample": 1}, {"image_mean": None}):
        with pytest.raises(ValueError, match=f"{next(iter(other))}"):
            ClipScore.of_transformers(model, tokenizer, own | other)


def test_one_string_is_no_list_of_prompts(open_clip_model):
    reward = ClipScore.of(open_clip_model, tokenize)
    images = as_tensor(pictures(32, 32, 12))
    with pytest.raises(TypeError, match="'a red circle'; put it in brackets"):
        reward(images=images, prompts="a red circle")
    with pytest.raises(TypeError, match="in brackets"):
        reward.words("a")
    with pytest.raises(ValueError, match="12 images but 1 prompts"):
        reward(images=images, prompts=["a red circle"])


def test_prompts_over_the_limit_are_counted_and_said(open_clip_folder):
    fits, cut = "a red circle a red circle", "a red circle a red circle a"  # 6 and 7 words, and two marks around them
    for reward, more in (
        (ClipScore.load(f"local-dir:{open_clip_folder}"), ""),
        (ClipScore.of_transformers(*transformers_model()), " a red circle a red circle a a"),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            reward.words([fits + more])
        with pytest.warns(UserWarning, match=rf"1 of 2 new prompts .* {reward.limit} tokens .*'{cut + more}'"):
            reward.words([cut + more, "a", fits + more])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            reward.words([cut + more])  # said once


def test_the_latest_prompts_are_kept_and_no_more(open_clip_model, monkeypatch):
    monkeypatch.setattr(clip, "KEPT", 2)
    reward = ClipScore.of(open_clip_model, tokenize)
    first = reward.words(["a", "red", "circle"])
    assert list(reward._known) == ["red", "circle"]
    again = reward.words(["red", "a", "red"])
    assert list(reward._known) == ["red", "a"]
    assert torch.equal(again, first[[1, 0, 1]])


def test_a_copy_embeds_with_its_own_weights(open_clip_model):
    reward = ClipScore.of(open_clip_model, tokenize)
    other = copy.deepcopy(reward)
    with torch.no_grad():
        other.model.text_projection.neg_()
    torch.testing.assert_close(other.words(PROMPTS), -reward.words(PROMPTS))
