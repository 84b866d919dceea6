"""What distar evaluate draws with, on a tiny random pipeline of SDXL's classes."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from distar_core.cli.evaluate import find_model
from distar_core.sdxl.loading import load_pipeline
from distar_core.sdxl.models import TextToImage, load_text_to_image
from distar_core.sdxl.published import MODELS, PublishedModel

PROMPTS, SEEDS = ["a red circle"], [3]


def drawn(text):
    """The picture of the model that a text names, and its weights' digest."""
    drawer = find_model(text, dtype="float32", device="cpu").load()
    return drawer.draw(PROMPTS, SEEDS), drawer.weights


def test_a_pipeline_draws_in_its_steps_or_in_one(folder):
    model = load_text_to_image(folder)
    many, weights = drawn(f"{folder},steps=2,guidance_scale=3")
    torch.testing.assert_close(many, model.draw_reference(PROMPTS, SEEDS, steps=2, guidance_scale=3), rtol=0, atol=0)
    one, same = drawn(f"{folder},steps=1")
    expected = TextToImage(load_pipeline(folder), load_pipeline(folder).unet).draw(PROMPTS, SEEDS)
    torch.testing.assert_close(one, expected, rtol=0, atol=0)
    assert weights == same
    assert "50 steps" in find_model(str(folder), dtype="float32", device="cpu").settings["draws"]


def test_a_unet_draws_in_one_step_inside_its_base_by_name_or_path(folder, tmp_path, hub, monkeypatch):
    changed = {
        name: value * 1.5 for name, value in load_file(folder / "unet" / "diffusion_pytorch_model.safetensors").items()
    }
    (tmp_path / "repository").mkdir()
    file = tmp_path / "repository" / "one_step.safetensors"
    save_file(changed, file)
    pictures, weights = drawn(f"mine={file},base={folder}")
    expected = load_text_to_image(folder, generator=file).draw(PROMPTS, SEEDS)
    torch.testing.assert_close(pictures, expected, rtol=0, atol=0)
    plain, other = drawn(f"{folder},steps=1")
    assert float((plain - pictures).abs().max()) > 1e-3, "control: it is another network"
    assert weights != other
    hub.models["owner/unets"] = tmp_path / "repository"
    monkeypatch.setitem(MODELS, "dmd2", PublishedModel("owner/unets/one_step.safetensors", "tiny", "none"))
    by_name, same = drawn(f"dmd2,base={folder}")
    assert torch.equal(by_name, pictures)
    assert same == weights


def test_a_pipeline_for_few_steps_that_does_not_say_how_many_is_asked(copied):
    path = copied({"model_index.json": {"scheduler": ["diffusers", "LCMScheduler"]}})
    with pytest.raises(ValueError, match=f"has an LCMScheduler.*{path},steps=1"):
        drawn(str(path))
    drawn(f"{path},steps=1")
