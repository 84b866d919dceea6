"""Sums, normalisation, and the way from a reward on pictures to the loop."""

import numpy as np
import pytest
import torch

from distar_core.errors import NonFiniteError
from distar_core.rewards.base import Normalised, PictureReward, WeightedSum, check_pictures
from distar_core.runs.run import check_finite
from distar_core.sdxl.decoded import Decoded
from distar_core.sdxl.latents import decode
from distar_core.sdxl.miniature import make_pipeline
from distar_core.sdxl.prompts import Prompt

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
PROMPTS = ["a"] * 4


class Redness:
    differentiable = True

    def __call__(self, *, images, prompts):
        return images[:, 0].mean((1, 2)) - images[:, 1:].mean((1, 2, 3))


class Length:
    differentiable = False

    def __call__(self, *, images, prompts):
        return torch.tensor([float(len(prompt)) for prompt in prompts])


def test_a_sum_weighs_its_terms():
    total = WeightedSum({"red": (2.0, Redness()), "length": (-0.5, Length())})
    assert isinstance(total, PictureReward)
    expected = 2 * Redness()(images=IMAGES, prompts=PROMPTS) - 0.5
    torch.testing.assert_close(total(images=IMAGES, prompts=PROMPTS), expected)
    assert set(total.each(images=IMAGES, prompts=PROMPTS)) == {"red", "length"}
    assert not total.differentiable
    assert WeightedSum({"red": (2.0, Redness())}).differentiable
    with pytest.raises(ValueError, match="at least one term"):
        WeightedSum({})


class Wordy:
    """Redness in two parts, times the length of the words."""

    differentiable = True

    def read(self, prompts):
        return torch.tensor([float(len(prompt)) for prompt in prompts])

    def judge(self, images, read):
        return read * Redness()(images=images, prompts=[])

    def __call__(self, *, images, prompts):
        return self.judge(images, self.read(prompts))


def test_a_sum_of_rewards_in_two_parts_is_in_two_parts(vae):
    total = WeightedSum({"wordy": (2.0, Wordy()), "usual": (-0.5, Normalised(Wordy(), 0.3, 0.5))})
    words = ["a", "bb", "ccc", "dddd"]
    read = total.read(words)
    assert torch.equal(total.judge(IMAGES, read), total(images=IMAGES, prompts=words))
    assert not torch.equal(total.judge(IMAGES, total.read(PROMPTS)), total(images=IMAGES, prompts=words)), "control"
    reward, x0 = Decoded(vae, total), torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    prompt = Prompt(torch.zeros(4, 1, 1), torch.zeros(4, 1), tuple(words))
    assert torch.equal(reward.judge(x0, reward.read(prompt)), reward(x0, prompt))
    with pytest.raises(TypeError, match="Redness"):
        WeightedSum({"wordy": (1.0, Wordy()), "red": (1.0, Normalised(Redness(), 0.0, 1.0))}).read(words)


def test_normalised_rewards_have_mean_0_and_deviation_1_where_they_were_fitted():
    reward = Normalised.fit(Redness(), images=IMAGES, prompts=PROMPTS)
    values = reward(images=IMAGES, prompts=PROMPTS)
    assert float(values.mean()) == pytest.approx(0, abs=1e-5)
    assert float(values.std()) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match=r"std must be positive, got 0\.0"):
        Normalised.fit(Length(), images=IMAGES, prompts=PROMPTS)


@pytest.mark.parametrize(
    ("images", "prompts", "why"),
    [
        (IMAGES[0], PROMPTS, r"images must be \[B, 3, H, W\], got \[3, 8, 8\]"),
        (IMAGES[:, :1], PROMPTS, r"got \[4, 1, 8, 8\]"),
        (IMAGES, PROMPTS[:3], "there are 4 images but 3 prompts"),
        (IMAGES * 2 - 1, PROMPTS, r"must lie in \[0, 1\], got values from -"),
    ],
)
def test_what_is_no_picture_is_refused(images, prompts, why):
    check_pictures(IMAGES, PROMPTS)
    with pytest.raises(ValueError, match=why):
        check_pictures(images, prompts)


def test_pictures_with_a_nan_are_a_divergence():
    images = IMAGES.clone()
    images[2, 1, 3, 4] = float("nan")
    with pytest.raises(NonFiniteError, match="what drew them has diverged"):
        check_pictures(images, PROMPTS)


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return make_pipeline(("a",)).vae.requires_grad_(False).double()


def condition_for(count: int) -> Prompt:
    return Prompt(torch.zeros(count, 1, 1), torch.zeros(count, 1), ("a",) * count)


def test_the_loop_gets_the_reward_of_the_decoded_picture(vae):
    reward = Decoded(vae, Redness())
    x0 = torch.randn(3, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = reward(x0, condition_for(3))
    torch.testing.assert_close(found, Redness()(images=decode(vae, x0).clamp(0, 1), prompts=["a"] * 3))


def test_its_gradient_at_the_latent_is_that_of_finite_differences(vae):
    reward = Decoded(vae, Redness())
    x0 = 0.1 * torch.randn(1, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    direction = torch.randn_like(x0)
    x0.requires_grad_()
    (gradient,) = torch.autograd.grad(reward(x0, condition_for(1)).sum(), x0)
    with torch.no_grad():
        ends = [float(reward(x0 + h * direction, condition_for(1))) for h in (1e-5, -1e-5)]
    slope = float((gradient * direction).sum())
    assert abs((ends[0] - ends[1]) / 2e-5 - slope) < 1e-6
    assert abs(slope) > 1e-4


def test_a_reward_without_gradient_is_refused(vae):
    with pytest.raises(ValueError, match="reward Length is not differentiable, so the loop cannot climb it"):
        Decoded(vae, Length())


@pytest.mark.parametrize(
    ("values", "error", "why"),
    [
        (lambda images: images[:, 0].mean((1, 2))[:1], ValueError, "reward"),
        (lambda images: images[:, 0].mean((1, 2)) * float("nan"), NonFiniteError, "loss of the reward became nan"),
    ],
)
def test_a_reward_of_a_wrong_shape_or_nan_stops_the_loop(vae, values, error, why):
    from dataclasses import replace

    from torch import nn

    from distar_core import METHODS, PushForward, Roles, State, TimeLaw, Trainable, post_train, scaled_linear_schedule

    class Broken(Redness):
        def __call__(self, *, images, prompts):
            return values(images)

    generator = PushForward(nn.Conv2d(4, 4, 1).double(), (4, 4, 4))
    generator.forward = lambda z, condition: generator.network(z)
    roles = Roles(
        Trainable(generator, torch.optim.SGD(generator.parameters(), 0.1)),
        lambda x_t, t, condition: -x_t,
        Trainable(nn.Module()),
        Decoded(vae, Broken()),
    )
    law = TimeLaw.levels([100])
    method = replace(METHODS["reward-only"], time_law=law, assistant_time_law=law)
    place = lambda tensor: tensor.double() if tensor.is_floating_point() else tensor  # noqa: E731
    state = State(roles, scaled_linear_schedule(), place=place)
    records = post_train(state, method, lambda step, rows: condition_for(2), steps=1, seed=0, batch=2)
    with pytest.raises(error, match=why):
        check_finite(next(records))


@pytest.mark.parametrize("wrap", [lambda r: WeightedSum({"r": (1.0, r)}), lambda r: Normalised(r, 0.0, 1.0)])
@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.zeros(4, np.float32)], ids=repr)
def test_a_reward_that_returns_no_tensor_is_refused_by_name(wrap, value):
    class Judge(Redness):
        def __call__(self, *, images, prompts):
            return value

    with pytest.raises(TypeError, match="the reward Judge must return a tensor") as error:
        wrap(Judge())(images=IMAGES, prompts=PROMPTS)
    assert type(value).__name__ in str(error.value)


@pytest.mark.parametrize(
    "build", [lambda r: Decoded(None, r), lambda r: Normalised(r, 0.0, 1.0), lambda r: WeightedSum({"r": (1.0, r)})]
)
def test_a_function_that_does_not_say_whether_it_is_differentiable_is_refused(build):
    def redness(*, images, prompts):
        return images[:, 0].mean((1, 2))

    with pytest.raises(TypeError, match="redness is not a reward on pictures: it has no attribute differentiable"):
        build(redness)
    redness.differentiable = True
    build(redness)


def test_a_single_string_is_no_list_of_prompts():
    with pytest.raises(TypeError, match="'abc'"):
        check_pictures(torch.zeros(3, 3, 8, 8), "abc")
    check_pictures(torch.zeros(3, 3, 8, 8), ["abc"] * 3)
