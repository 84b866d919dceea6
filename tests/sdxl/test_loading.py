"""Pipeline folders that lack something."""

import shutil

import pytest
import torch

from distar_core.sdxl.loading import load_pipeline, quiet
from distar_core.sdxl.miniature import make_pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pipeline")
    with quiet():
        make_pipeline(("a",)).save_pretrained(path)
    return path


def test_a_whole_folder_loads_frozen_and_in_single_precision(folder, capfd):
    pipeline = load_pipeline(folder)
    for part in (pipeline.vae, pipeline.unet, pipeline.text_encoder, pipeline.text_encoder_2):
        assert {p.dtype for p in part.parameters()} == {torch.float32}
        assert not any(p.requires_grad for p in part.parameters())
    assert capfd.readouterr().err == ""


def test_no_pipeline_and_a_missing_part_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no pipeline folder: it has no model_index\.json"):
        load_pipeline(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "text_encoder_2")
    with pytest.raises(FileNotFoundError, match="lacks text_encoder_2; copy it again"):
        load_pipeline(copy)


def test_a_damaged_part_is_one_sentence(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"copy is damaged or of another model .*; copy it again, whole"):
        load_pipeline(copy)
