"""Recipes for models of SDXL's kind, and what a run of one takes."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from distar_core.cli.main import app
from distar_core.rewards.published import CLIP_PREFIX, PUBLISHED
from distar_core.rewards.shapes import MAKERS, reward_on_meta
from distar_core.runs.settings import RecipeError
from distar_core.schedule import TimeLaw
from distar_core.sdxl import ledger
from distar_core.sdxl.adapters import add_lora
from distar_core.sdxl.ledger import GIB, Ledger
from distar_core.sdxl.loading import describe_pipeline
from distar_core.sdxl.phases import PHASES
from distar_core.sdxl.plan import (
    checkpoint_bytes,
    downloads,
    flops_of_run,
    hours_of_run,
    model_on_meta,
    require_disk,
    rewards_on_meta,
)
from distar_core.sdxl.plan import counted as counted_beforehand
from distar_core.sdxl.published import SDXL_NAME
from distar_core.sdxl.recipe import HUBER_C_OF_ONE, MIDDLE_TIMES, SdxlRecipe, find_recipe, is_sdxl
from distar_core.sdxl.shapes import described_on_meta
from tests.sdxl.test_true_size import by_hand, held_by_hand

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "notebooks" / "records" / "sdxl_true_size.jsonl"
KEYS = {
    "reference": "me/model",
    "generator": "me/model/unet",
    "reward": "pickscore",
    "reward_scale": 100.0,
    "cfg_scale": 7.5,
    "lr": 1e-5,
    "assistant_lr": 1e-5,
    "ema_decay": 0.0,
    "steps": 10,
    "batch": 4,
    "device": "cpu",
}
FLOPS = {"assistant: score": 6, "assistant: backward": 2, "scores": 32}


def test_paths_are_relative_to_the_recipe_and_names_of_the_hub_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = tmp_path / "there"
    (there / "model").mkdir(parents=True)
    text = "reference: model\ngenerator: tianweiy/DMD2/file.bin\nprompts: my/set\nreward: {pickscore: {weight: 1, folder: pick}}\n"
    rest = {key: value for key, value in KEYS.items() if key not in ("reference", "generator", "reward")}
    (there / "r.yaml").write_text(text + "".join(f"{key}: {value}\n" for key, value in rest.items()), "utf-8")
    own = SdxlRecipe.read(there / "r.yaml")
    assert own.reference == str(there / "model")
    assert own.generator == "tianweiy/DMD2/file.bin"
    assert own.prompts == "my/set"
    assert own.reward.root["pickscore"].folder == str(there / "pick")
    assert SdxlRecipe.read(there / "r.yaml", reference="here/model").reference == "here/model"
    (tmp_path / "here" / "model").mkdir(parents=True)
    assert SdxlRecipe.read(there / "r.yaml", reference="here/model").reference == str(tmp_path / "here" / "model")
    assert is_sdxl(there / "r.yaml")


def test_a_run_is_bound_to_its_numbers_and_not_to_its_places():
    own, other = (SdxlRecipe.read(KEYS | keys) for keys in ({}, {"reference": "you/model", "micro_batch": 2}))
    moved = own.replace(reward={"pickscore": {"weight": 1.0, "folder": "elsewhere"}}, save_every=3, device="cuda")
    moved = moved.replace(keep=3, best="gap_norm", also_log=["jsonl"])
    assert (own.checkpoints, moved.checkpoints) == (1, 4)
    assert own.bound == other.bound == moved.bound
    for change in (
        {"batch": 8},
        {"base": "fp32"},
        {"times": [20, 500]},
        {"reward": {"pickscore": 2.0}},
        {"targets": ["to_q"]},
    ):
        assert SdxlRecipe.read(KEYS | change).bound != own.bound


def test_a_recipe_is_filled_in_from_the_model(folder):
    model = described_on_meta(describe_pipeline(folder))
    own = SdxlRecipe.read(KEYS)
    with pytest.raises(ValueError, match="huber_c"):
        _ = own.method
    whole = own.for_model(model)
    assert (whole.pixels, whole.huber_c) == (32, HUBER_C_OF_ONE * 16)
    assert whole.for_model(model) == whole == SdxlRecipe.read(whole.written)
    assert own.replace(huber_c=3.0).for_model(model).huber_c == 3.0
    assert own.replace(method="dmd").for_model(model).huber_c is None
    assert whole.method.time_law == MIDDLE_TIMES
    changed = own.replace(assistant_times=[0, 999], huber_c=1.0).method
    assert changed.assistant_time_law == TimeLaw.levels(range(1000))
    for key in ("times", "assistant_times"):
        with pytest.raises(RecipeError) as caught:
            own.replace(**{key: [0, 1000]}).for_model(model)
        assert caught.value.key == key


def test_what_a_pipeline_says_of_itself_takes_no_weights(folder, hub):
    hub.models["me/model"] = folder
    found = describe_pipeline("me/model")
    assert found.configs["unet"]["sample_size"] == 8
    assert hub.sent
    assert not any(name.endswith("safetensors") for name in hub.sent)
    sent = len(hub.sent)
    sdxl = SdxlRecipe.read(KEYS | {"reference": SDXL_NAME, "pixels": 512})
    assert model_on_meta(sdxl, offline=True).latent_shape == (4, 64, 64)
    assert len(hub.sent) == sent, "SDXL's own shapes are known"


def test_a_lora_needs_layers_to_be_on(unets):
    with pytest.raises(ValueError, match="'to_w'"):
        add_lora(unets.tiny(), rank=1, targets=("to_q", "to_w"))
    for part in ("q", "to_", "."):
        with pytest.raises(ValueError, match="the target of a LoRA"):
            add_lora(unets.tiny(), rank=1, targets=(part,))
    add_lora(unets.tiny(), rank=1, targets=("attn1.to_q", "conv_in"))


@pytest.mark.parametrize(
    ("name", "million"),
    [
        ("pickscore", 986),
        ("hpsv2.1", 986),
        ("imagereward", 445),
        ("laion-aesthetic", 304),
        ("clip:ViT-B-32-quickgelu/openai", 151),
    ],
)
def test_a_reward_in_shapes_alone_is_called_as_it_is(name, million):
    """Numbers of weights as docs/rewards.md has them, counted from the real networks."""
    reward = reward_on_meta(name).to(torch.bfloat16)
    pictures = torch.zeros(2, 3, 256, 256, device="meta", requires_grad=True)
    value = reward(images=pictures, prompts=["a", "b"])
    value.sum().backward()
    assert value.shape == (2,)
    assert value.dtype == torch.float32
    assert pictures.grad.shape == pictures.shape
    assert round(sum(p.numel() for p in reward.parameters()) / 1e6) == million


def test_every_published_reward_has_shapes():
    named = {name for name in PUBLISHED if not name.startswith(CLIP_PREFIX)}
    assert named == set(MAKERS), "CLIPs have theirs by open_clip's name of the model"


# What a run takes, by hand.


def small_ledger(**held):
    return Ledger(held, {"scores": 100}, {}, FLOPS, samples=2)


def test_time_is_all_steps_and_a_warm_up_of_the_assistant_alone():
    own = SdxlRecipe.read(KEYS | {"warmup": 3, "peak_tflops": 1e-12})
    assert flops_of_run(own, small_ledger()) == 4 * (10 * 20 + 3 * 4)
    assert hours_of_run(own, small_ledger()) == pytest.approx(848 / 0.5 / 3600)
    assert hours_of_run(own.replace(method="reward-only"), small_ledger()) is not None
    assert hours_of_run(SdxlRecipe.read(KEYS), small_ledger()) is None


def test_a_disk_has_room_for_two_checkpoints_or_there_is_no_run(tmp_path, monkeypatch):
    sizes = {"learning weights": 300, "optimizer state": 200, "averages": 100, "reference": 10**6}
    assert checkpoint_bytes(small_ledger(**sizes)) == 600
    usage = shutil.disk_usage(tmp_path)
    free = [1200]
    monkeypatch.setattr("distar_core.sdxl.plan.shutil.disk_usage", lambda _: usage._replace(free=free[0]))
    run = tmp_path / "not" / "there"
    require_disk(run, small_ledger(**sizes))
    free[0] = 1199
    with pytest.raises(OSError, match=str(run)):
        require_disk(run, small_ledger(**sizes))
    run.mkdir(parents=True)
    (run / "checkpoint.safetensors").write_bytes(b"0" * 600)
    free[0] = 600
    require_disk(run, small_ledger(**sizes))
    (run / "checkpoint_best.safetensors").hardlink_to(run / "checkpoint.safetensors")  # takes no room
    (run / "checkpoint_at_3.safetensors").write_bytes(b"0" * 600)
    free[0] = 1200
    require_disk(run, small_ledger(**sizes), kept=3)
    free[0] = 1199
    with pytest.raises(OSError, match="beside 3 before it"):
        require_disk(run, small_ledger(**sizes), kept=3)


# In true size: the recipes that come with the package, against what a GPU recorded.


@pytest.mark.parametrize(
    ("name", "asked", "tflop", "hours", "card"),
    [
        ("24gb", {"roles": "lora", "cap_gib": 22, "steps": 54}, 135.2, 7.4, 23.0),
        ("80gb", {"roles": "cast", "steps": 10, "phases": True, "cap_gib": 76}, 145.8, 4.2, 78.0),
    ],
)
def test_in_true_size_a_recipe_fits_its_card_and_is_counted_as_a_gpu_allocated(
    name, asked, tflop, hours, card, monkeypatch
):
    """The dry run of a recipe. The recorded runs had no text encoders, no encoder of pictures, no text side of PickScore and no
    averages of adapters; and one sample in a step, so that no gradients were there while the next sample's pulls are computed.
    A GPU's kernels need more than their results: .79 GiB with adapters, the difference that the record states. With full copies
    all gradients are there from the second sample's backward pass on, which takes some more than the recorded one.
    """
    counted = {}
    count = ledger.count_step

    def seen(recipe, model, *inputs, **options):
        counted["ledger"] = count(recipe, model, *inputs, **options)
        counted["recipe"], counted["model"] = recipe, model
        return counted["ledger"]

    monkeypatch.setattr(ledger, "count_step", seen)
    result = CliRunner().invoke(app, ["train", "sdxl", "run", "--recipe", name, "--dry-run"])
    assert result.exit_code == 0, result.output + result.stderr
    found, recipe, model = counted["ledger"], counted["recipe"], counted["model"]
    said = " ".join(result.output.split())
    for told in (
        *PHASES,
        f"{found.peak / GIB:.1f} GiB counted at the peak",
        f"{hours_of_run(recipe, found):.1f} h, an estimate",
        f"about 6.9 GB from {SDXL_NAME}; licence: CreativeML Open RAIL++-M",
        "about 5.1 GB from tianweiy/DMD2/dmd2_sdxl_1step_unet_fp16.bin; licence: CC BY-NC 4.0",
        "about 3.9 GB from yuvalkirstain/PickScore_v1",
    ):
        assert told in said
    assert recipe.huber_c == 25.6

    def weights(*modules):
        return sum(p.numel() for module in modules for p in module.parameters())

    pipeline, judge = model.pipeline, rewards_on_meta(recipe).terms["pickscore"][1]
    adapters = sum(
        64 * sum(layer.weight.shape)
        for layer_name, layer in pipeline.unet.named_modules()
        if layer_name.endswith(("to_q", "to_k", "to_v", "to_out.0"))
    )
    learning = adapters if recipe.roles == "lora" else weights(pipeline.unet)
    assert weights(pipeline.unet) == 2_567_463_684
    start = [model.unet] if recipe.roles == "lora" else []  # full copies leave it in main memory
    narrow = 2 * weights(pipeline.unet, *start, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2, judge)
    assert found.static == pytest.approx(narrow + 4 * learning * 5, rel=1e-3), (
        "prompts, buffers and rounding up are the rest"
    )
    assert found.held == held_by_hand(recipe, model), "and to the byte"
    assert checkpoint_bytes(found) == pytest.approx(4 * learning * 5, rel=1e-3)
    assert found.flops_per_sample == pytest.approx(tflop * 1e12, rel=0.01)
    assert found.flops_per_sample == pytest.approx(by_hand(recipe, model), rel=0.01)
    assert hours_of_run(recipe, found) == pytest.approx(hours, abs=0.1)
    assert found.need < card * GIB
    beforehand = counted_beforehand()[name]
    assert (beforehand.processes, beforehand.ledger) == (1, found._replace(at_peak={})), (
        "run tools/count_recipes.py anew"
    )
    assert beforehand.gigabytes == {
        one.what: one.gigabytes for one in downloads(recipe, model) if one.what in beforehand.gigabytes
    }

    absent = found.held["text encoders"] + 2 * weights(pipeline.vae.encoder)
    absent += 2 * (weights(judge) - weights(judge.model.vision_model, judge.model.visual_projection))
    if recipe.roles == "lora":
        peak, least = found.peak - absent - found.held["averages"] - 4 * learning, 0.7 * GIB
    else:
        peak, least = found.peaks["generator: backward"] - absent, 0
    records = [json.loads(line) for line in RECORDS.read_text("utf-8").splitlines()]
    (recorded,) = (record["peak_allocated_gib"] for record in records if record["asked"] == asked)
    assert least < recorded * GIB - peak < 0.9 * GIB
    assert recorded * GIB < peak + found.need - found.peak, "reserves cover it"


def test_the_recipes_are_in_the_wheel(tmp_path):
    pytest.importorskip("setuptools")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    package = tmp_path / "distar_core"
    (package / "sdxl" / "recipes").mkdir(parents=True)
    for path in (package, package / "sdxl"):
        (path / "__init__.py").touch()
    for path in find_recipe("24gb").parent.iterdir():
        (package / "sdxl" / "recipes" / path.name).write_bytes(path.read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        "dist",
        ".",
    ]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if "/recipes/" in name} == {
        "distar_core/sdxl/recipes/24gb.yaml",
        "distar_core/sdxl/recipes/80gb.yaml",
        "distar_core/sdxl/recipes/counted.json",
        "distar_core/sdxl/recipes/n-gpus.yaml",
    }
