"""Latents as the pipeline reads them."""

import pytest
import torch
from diffusers import AutoencoderKL

from distar_core.sdxl.latents import checkpointed, decode, encode
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


def kept_bytes(vae, latents):
    """The bytes of activations that a decoding keeps for its backward pass, and the gradient of a function of its pictures."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {p.untyped_storage().data_ptr() for p in vae.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = decode(vae, latents).pow(3).sum()
    (gradient,) = torch.autograd.grad(value, latents)
    return sum(size for place, size in kept.items() if place not in weights), gradient


def test_a_checkpointed_decoder_keeps_little_and_gives_the_same_gradient(pipeline):
    vae = pipeline.vae.requires_grad_(False)
    names = [name for name, _ in vae.named_modules()]
    twin = checkpointed(vae)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3)).requires_grad_()
    (plain, wanted), (little, found) = (kept_bytes(one, latents) for one in (vae, twin))
    assert torch.equal(found, wanted)
    assert little < plain / 3, "what is left is the decoder's last layers, outside of its blocks"
    assert [name for name, _ in vae.named_modules()] == names, "the original is as it was"
    assert twin.state_dict().keys() == vae.state_dict().keys()
    assert all(ours.data_ptr() == its.data_ptr() for ours, its in zip(vae.parameters(), twin.parameters(), strict=True))


def test_in_true_size_pictures_and_pulls_come_back_in_float32():
    """SDXL's autoencoder in bfloat16 on the meta device, which has shapes and types but no numbers."""
    with torch.device("meta"):
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
            scaling_factor=0.13025,
        )
    vae = checkpointed(vae.to(torch.bfloat16).requires_grad_(False))
    latents = torch.empty(1, 4, 128, 128, device="meta", requires_grad=True)
    pictures = decode(vae, latents)
    assert (pictures.shape, pictures.dtype) == ((1, 3, 1024, 1024), torch.float32)
    (pull,) = torch.autograd.grad(pictures.sum(), latents)
    assert (pull.shape, pull.dtype) == (latents.shape, torch.float32)
