"""Exported generators draw what the trainer drew, in diffusers' own pipeline."""

import copy

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from distar_core.sdxl.adapters import add_lora, tied_clone
from distar_core.sdxl.export import export_lora, export_pipeline, fingerprint, load_lora, merged
from distar_core.world.models import load_world

CAPTIONS = ["a red circle left of a blue square", "a large green triangle on a dark background"]
SEEDS = [3, 4]


@pytest.fixture(scope="module")
def world():
    return load_world()


def changed(unet, seed=0):
    """The network with some of its trainable weights moved, so that it draws something else."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in unet.parameters():
            if p.requires_grad:
                p.add_(0.02 * torch.randn(p.shape, generator=rng))
    return unet


def adapted(world, seed=0):
    return changed(add_lora(tied_clone(world.unet), rank=4, seed=seed), seed)


def drawn_by(pipeline, world):
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 1, "timesteps": [399], "guidance_scale": 0.0, "output_type": "pt"}
    return pipeline(CAPTIONS, latents=world.noise(SEEDS), **options).images


def agree(first, second):
    return float((first - second).abs().max()) < 1e-4


def test_a_pipeline_folder_draws_the_trainers_picture(world, tmp_path):
    unet = changed(copy.deepcopy(world.unet).requires_grad_(True))
    export_pipeline(world.pipeline, unet, tmp_path)
    drawn = drawn_by(StableDiffusionXLPipeline.from_pretrained(tmp_path), world)
    assert agree(drawn, world.draw(CAPTIONS, SEEDS, world.generator(unet)))
    assert not agree(drawn, world.draw(CAPTIONS, SEEDS)), "control: the start draws something else"


def test_a_lora_draws_the_trainers_picture_and_so_does_its_merged_copy(world, tmp_path):
    before = fingerprint(world.unet)
    unet = adapted(world)
    wanted = world.draw(CAPTIONS, SEEDS, world.generator(unet))
    export_lora(unet, tmp_path)
    for load in (load_lora, lambda pipeline, folder: pipeline.load_lora_weights(folder)):
        pipeline = load_world().one_step_pipeline()
        assert not agree(drawn_by(pipeline, world), wanted), "control: not before it is loaded"
        load(pipeline, tmp_path)
        assert agree(drawn_by(pipeline, world), wanted)
    whole = merged(unet)
    assert not any("lora" in name for name, _ in whole.named_parameters())
    assert agree(world.draw(CAPTIONS, SEEDS, world.generator(whole)), wanted)
    assert fingerprint(world.unet) == fingerprint(unet) == before, "the base is as it was"


def test_a_lora_of_another_base_is_refused(world, tmp_path):
    export_lora(adapted(world), tmp_path)
    other = load_world()
    changed(other.unet.requires_grad_(True))
    with pytest.raises(ValueError, match=r"was trained on base \w{16}, but this UNet is \w{16}; load its own base"):
        load_lora(other.one_step_pipeline(), tmp_path)


def test_an_alpha_that_the_file_cannot_hold_is_refused(world, tmp_path):
    unet = add_lora(tied_clone(world.unet), rank=4, alpha=16)
    with pytest.raises(ValueError, match="alpha 16 and rank 4"):
        export_lora(unet, tmp_path)


def test_what_is_not_there_is_said(world, tmp_path):
    with pytest.raises(ValueError, match="the network has no LoRA; it was trained as a full copy"):
        export_lora(world.unet, tmp_path)
    with pytest.raises(FileNotFoundError, match="write one with: distar export RUN"):
        load_lora(world.one_step_pipeline(), tmp_path)


def test_a_fingerprint_follows_the_weights_and_not_the_precision(world):
    again = copy.deepcopy(world.unet)
    assert fingerprint(again.half()) == fingerprint(world.unet)
    assert fingerprint(world.pipeline.unet) != fingerprint(world.unet)
