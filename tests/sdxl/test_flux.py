"""FLUX beside one-step models: a pipeline folder in the real format with tiny random networks is drawn with as diffusers draws."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from distar_core.cli.evaluate import find_model
from distar_core.sdxl.flux import draw, is_flux_folder, load_flux
from distar_core.sdxl.miniature import make_tokenizer
from distar_core.sdxl.published import FLUX, MODELS
from distar_core.sdxl.shapes import FLUX_DEV, untrained_flux

TINY = {
    "transformer": {
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 32,
        "axes_dims_rope": (4, 6, 6),
    },
    "vae": {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1},
    "text_encoder": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "projection_dim": 32,
        "vocab_size": 600,
        "eos_token_id": 599,
    },
    "text_encoder_2": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "vocab_size": 128},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import T5Tokenizer

    torch.manual_seed(0)
    pipeline = untrained_flux(
        {part: config | TINY[part] for part, config in FLUX_DEV.items()}, device="cpu", dtype=torch.float32
    )
    for part in TINY:
        for weight in getattr(pipeline, part).parameters():
            torch.nn.init.normal_(weight, std=0.1)
    pipeline.tokenizer = make_tokenizer(["a", "red", "blue", "square", "circle"])
    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        *((letter, -1.0) for letter in "▁abcdefghijklmnopqrstuvwxyz"),
    ]
    pipeline.tokenizer_2 = T5Tokenizer(vocab=pieces, extra_ids=0)
    where = tmp_path_factory.mktemp("flux") / "tiny"
    pipeline.save_pretrained(where)
    return where


@pytest.fixture
def small(folder):
    pipeline = load_flux(folder, dtype=torch.float32)
    pipeline.default_sample_size = 4
    return pipeline


def test_a_folder_says_what_it_is(folder, tmp_path):
    assert is_flux_folder(folder)
    assert not is_flux_folder(tmp_path)


def test_a_picture_depends_on_its_prompt_and_seed_alone(small):
    prompts, seeds = ["a red square", "a blue circle", "a red square"], [1, 1, 2]
    settings = {"steps": 2, "guidance_scale": 3.5}
    together = draw(small, prompts, seeds, **settings)
    assert together.shape == (3, 3, 32, 32)
    assert together.dtype == torch.float32
    assert 0 <= together.min() < together.max() <= 1
    assert torch.equal(together[1:2], draw(small, prompts[1:2], seeds[1:2], **settings))
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(together[0], together[2])
    with pytest.raises(ValueError, match="shorter"):
        draw(small, prompts, seeds[:2], **settings)


def test_guidance_is_an_input(small):
    one, other = (draw(small, ["a red square"], [0], steps=2, guidance_scale=scale) for scale in (1.0, 7.0))
    assert not torch.equal(one, other)


def test_an_evaluation_draws_with_it(folder):
    model = find_model(f"{folder},steps=3", dtype="float32", device="cpu")
    assert model.name == "tiny"
    assert not model.one_step
    assert "3 steps" in model.settings["draws"]
    assert "3.5" in model.settings["draws"]
    drawer = model.load()
    drawer.draw.args[0].default_sample_size = 4
    assert drawer.draw(["a red square"], [0]).shape == (1, 3, 32, 32)
    assert drawer.weights == find_model(str(folder), dtype="float32", device="cpu").load().weights


@pytest.mark.parametrize("name", [FLUX, MODELS[FLUX].source])
def test_the_published_one_is_known_by_name(name):
    model = find_model(name, dtype="bfloat16", device="cpu")
    assert "50 steps" in model.settings["draws"]
    assert "Non-Commercial" in model.settings["is"]


def test_one_whose_network_takes_no_guidance_is_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = copy / "transformer" / "config.json"
    config.write_text(config.read_text("utf-8").replace('"guidance_embeds": true', '"guidance_embeds": false'), "utf-8")
    with pytest.raises(ValueError, match="guidance"):
        find_model(str(copy), dtype="float32", device="cpu")


@pytest.mark.parametrize("setting", ["base=x", "lora=x", "steps=0"])
def test_settings_that_it_does_not_have_are_refused(folder, setting):
    with pytest.raises(ValueError, match=setting.split("=")[0]):
        find_model(f"{folder},{setting}", dtype="float32", device="cpu")


@pytest.mark.parametrize("part", ["transformer", "text_encoder_2", "tokenizer_2", "scheduler"])
def test_a_folder_without_a_part_is_refused_by_its_name(folder, tmp_path, part):
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(copy / part)
    with pytest.raises(FileNotFoundError, match=part):
        load_flux(copy)


@pytest.mark.parametrize("part", ["transformer", "text_encoder_2"])
def test_weights_that_do_not_fit_are_refused_by_name(folder, tmp_path, part):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (file,) = (copy / part).glob("*.safetensors")
    weights = load_file(file)
    name = next(name for name in weights if name.endswith("q.weight") or name.endswith("to_q.weight"))
    del weights[name]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        load_flux(copy)
