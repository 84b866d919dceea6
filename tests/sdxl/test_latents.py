"""Latents as the pipeline reads them."""

import pytest
import torch

from distar_core.sdxl.latents import decode, encode
from distar_core.sdxl.miniature import make_pipeline


@pytest.fixture(scope="module")
def pipeline():
    torch.manual_seed(0)
    return make_pipeline(("a",))


@pytest.mark.parametrize("normalised", [False, True])
def test_decoding_equals_the_pipelines(pipeline, normalised):
    pipeline.vae.register_to_config(
        latents_mean=[0.5, -1.0, 0.0, 2.0] if normalised else None,
        latents_std=[2.0, 1.0, 0.5, 3.0] if normalised else None,
        scaling_factor=1.0 if normalised else 0.13025,
    )
    pipeline.set_progress_bar_config(disable=True)
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    options = {"num_inference_steps": 1, "guidance_scale": 1.0, "latents": z}
    prompts = ["a", "a"]
    latents = pipeline(prompts, output_type="latent", **options).images
    expected = pipeline(prompts, output_type="pt", **options).images
    with torch.no_grad():
        found = decode(pipeline.vae, latents).clamp(0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert float(expected.std()) > 1e-3


def test_encoding_is_normalised_and_decoding_takes_it_back(pipeline):
    pictures = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    pipeline.vae.register_to_config(latents_mean=None, latents_std=None, scaling_factor=1.0)
    with torch.no_grad():
        plain, seen = encode(pipeline.vae, pictures), decode(pipeline.vae, encode(pipeline.vae, pictures))
        mean, std = plain.mean((0, 2, 3)), plain.std((0, 2, 3))
        pipeline.vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
        latents = encode(pipeline.vae, pictures)
        again = decode(pipeline.vae, latents)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(again, seen, rtol=0, atol=1e-4)
