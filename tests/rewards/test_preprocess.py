"""HPSv2's preprocessing against its steps in torchvision, and what the types of pictures and weights change."""

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from distar_core.rewards.preprocess import CLIP_MEAN, CLIP_STD, Preprocess, PreprocessWhole


def blocks(height, width):
    """A picture [1, 3, height, width] with edges, at which bicubic interpolation overshoots."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    planes = [((x // (5 + c) + y // 7) % 2).float() for c in range(3)]
    return torch.stack(planes)[None]


def by_torchvision(image, size):
    """Longer side to size on floats, zeros around, normalised; written after the description of HPSv2's transform."""
    height, width = image.shape[-2:]
    scale = size / max(height, width)
    sides = [round(height * scale), round(width * scale)]
    resized = transforms.resize(image, sides, InterpolationMode.BICUBIC, antialias=True)
    down, across = size - sides[0], size - sides[1]
    padded = transforms.pad(resized, [across // 2, down // 2, across - across // 2, down - down // 2], fill=0)
    return transforms.normalize(padded, CLIP_MEAN, CLIP_STD)


@pytest.mark.parametrize("shape", [(512, 512), (301, 517), (640, 300), (96, 96), (40, 25), (33, 96), (97, 64)])
def test_the_whole_picture_is_kept(shape):
    image = blocks(*shape)
    ours = PreprocessWhole(96)
    found = ours(image)
    assert found.shape == (1, 3, 96, 96)
    torch.testing.assert_close(found, by_torchvision(image, 96), rtol=0, atol=2e-6)
    if shape != (96, 96):  # control
        assert not torch.allclose(found, Preprocess(96)(image), atol=1e-2)


def test_what_overshoots_at_an_edge_is_not_clamped():
    seen = PreprocessWhole(96).resize(blocks(301, 517))
    assert float(seen.min()) < -0.005
    assert float(seen.max()) > 1.005
    assert float(Preprocess(96).resize(blocks(301, 517)).min()) == 0, "control: CLIP's is"


def test_what_is_padded_is_black():
    image = torch.ones(1, 3, 20, 80)
    padded = PreprocessWhole(40).resize(image)
    assert padded[..., :15, :].eq(0).all()
    assert padded[..., 25:, :].eq(0).all()
    torch.testing.assert_close(padded[..., 15:25, :], torch.ones(1, 3, 10, 40))


@pytest.mark.parametrize("kind", [Preprocess, PreprocessWhole])
@pytest.mark.parametrize("shape", [(1, 1), (2, 900), (900, 3), (32, 33)])
def test_any_size_and_aspect_has_a_gradient(kind, shape):
    image = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    seen = kind(32)(image)
    assert seen.shape == (1, 3, 32, 32)
    (gradient,) = torch.autograd.grad(seen.square().sum(), image)
    assert gradient.isfinite().all()
    assert gradient.any()


def test_a_change_of_type_rounds_no_constant():
    image = torch.rand(1, 3, 40, 50)
    before = Preprocess(32)
    after = Preprocess(32).to(torch.bfloat16)
    assert after(image).dtype == torch.float32
    assert torch.equal(after(image), before(image))
    assert torch.equal(after(image.bfloat16()), before(image.bfloat16().float()))
    assert before(image.double()).dtype == torch.float64
    assert Preprocess(32).to("meta").mean.device.type == "meta", "but it moves"
