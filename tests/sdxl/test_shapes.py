"""Models from configurations alone, against the files that have both configurations and weights."""

import pytest
import torch

from distar_core.sdxl.loading import find_pipeline
from distar_core.sdxl.shapes import untrained


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_model_from_configurations_has_the_shapes_of_its_files(device, folder):
    found = find_pipeline(folder)
    stored = found.load()
    before = torch.get_default_dtype()
    model = untrained(found.configs, found.tokenizers, found.scheduler, device=device, dtype=torch.bfloat16)
    assert torch.get_default_dtype() == before
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        ours, theirs = getattr(model.pipeline, part), getattr(stored, part)
        assert {name: p.shape for name, p in ours.named_parameters()} == {
            name: p.shape for name, p in theirs.named_parameters()
        }
        assert {p.device.type for p in ours.parameters()} == {device}
        assert {p.dtype for p in ours.parameters()} == {torch.bfloat16}
        assert not any(p.requires_grad for p in ours.parameters())
    if device == "cpu":
        assert model.draw(["a red circle"], [0]).isfinite().all()
