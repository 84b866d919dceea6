"""The judges: what gold prefers, that it is what the reward is taught, and that swaps are swaps."""

import warnings

import pytest
import torch
from safetensors.torch import save_file

from distar_core.rewards.base import PictureReward
from distar_core.world import judges
from distar_core.world.judges import (
    GoldPreference,
    PreferenceReward,
    compared,
    load_clip,
    load_judges,
    load_preference,
    make_clip,
    prefers_as_gold,
    swapped,
    taste,
    taste_terms,
    tells_swaps,
)
from distar_core.world.oracle import read
from distar_core.world.scenes import (
    WORDS,
    Stated,
    Thing,
    caption_of,
    combinations,
    lay_out,
    read_caption,
    render,
    training_scenes,
)

RED_CIRCLE = Stated((Thing(0, 0),), 0, None, 1)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gold_of(scenes, caption="a small red circle on a dark background"):
    pictures = render(scenes)
    return GoldPreference()(images=pictures, prompts=[caption] * len(pictures))


def test_gold_likes_what_it_says_it_likes():
    scenes = lay_out([RED_CIRCLE] * 20, rng())._replace(
        centre=torch.full((20, 2, 2), 16.0),
        radius=torch.full((20, 2), 4.8),
        brightness=torch.full((20, 2), 0.85),
    )
    usual = gold_of(scenes)
    for better, worse in (
        ({"brightness": torch.full((20, 2), 0.98)}, {"brightness": torch.full((20, 2), 0.77)}),
        ({"radius": torch.full((20, 2), 5.1)}, {"radius": torch.full((20, 2), 4.5)}),
        ({}, {"centre": torch.full((20, 2, 2), 21.0)}),
    ):
        assert bool((gold_of(scenes._replace(**worse)) < usual - 0.03).all())
        assert bool((gold_of(scenes._replace(**better)) >= usual - 0.01).all())
    # what is not in its taste changes nothing: hue within the class, softness of edges
    assert float((gold_of(scenes._replace(hue=-scenes.hue)) - usual).abs().max()) < 0.03


def test_taste_is_the_mean_of_its_three_terms():
    scenes = lay_out([RED_CIRCLE] * 20, rng())
    reading = read(render(scenes))
    terms = taste_terms(reading)
    assert terms.shape == (20, 3)
    assert 0 <= float(terms.min()) <= float(terms.max()) <= 1
    torch.testing.assert_close(terms.mean(1), taste(reading))
    # each term is about its own factor: what was drawn is what it follows
    off = (scenes.centre[:, 0] - 16).norm(dim=1)
    for term, factor in zip(terms.T, (scenes.brightness[:, 0], scenes.radius[:, 0], -off), strict=True):
        assert float(torch.corrcoef(torch.stack([term, factor]))[0, 1]) > 0.8


def test_a_wrong_picture_is_never_preferred_to_a_right_one():
    scenes = lay_out([RED_CIRCLE] * 50, rng())
    right, wrong = gold_of(scenes), gold_of(scenes, "a small blue circle on a dark background")
    torch.testing.assert_close(right - wrong, torch.ones(50), rtol=0, atol=1e-5)
    assert float(right.min()) >= 0 >= float(wrong.max())
    assert isinstance(GoldPreference(), PictureReward)
    assert not GoldPreference.differentiable


def test_a_swapped_caption_states_something_else():
    for caption in ("a red circle", "a small red circle on a dark background", "a red circle left of a blue square"):
        assert read_caption(swapped(caption)) != read_caption(caption)
    two = swapped("a red circle left of a blue square on a dark background")
    assert two == "a blue square left of a red circle on a dark background"
    assert swapped(two) == "a red circle left of a blue square on a dark background"


class FakeWorld:
    """Draws scenes of the caption instead of a generator's pictures: seed by seed, factors at random."""

    def draw(self, prompts, seeds):
        stated = [read_caption(prompt) for prompt in prompts]
        whole = [
            s._replace(background=s.background or 0, size=None if s.relation is not None else s.size or 0)
            for s in stated
        ]
        parts = [lay_out([one], rng(seed)) for one, seed in zip(whole, seeds, strict=True)]
        return torch.cat([render(part) for part in parts])


def test_comparisons_follow_gold_with_the_stated_noise():
    sharp = compared(FakeWorld(), 200, 0, noise=1e-6)
    gold = GoldPreference()
    gaps = gold(images=sharp[0], prompts=sharp[2]) - gold(images=sharp[1], prompts=sharp[2])
    assert bool((gaps >= 0).all())
    # control: with all noise the preferred one is a coin
    blind = compared(FakeWorld(), 200, 0, noise=1e6)
    gaps = gold(images=blind[0], prompts=blind[2]) - gold(images=blind[1], prompts=blind[2])
    assert 70 < int((gaps > 0).sum()) < 130


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    from distar_core.sdxl.miniature import make_tokenizer

    torch.manual_seed(0)
    return make_clip(tmp_path_factory.mktemp("clip"), make_tokenizer(WORDS))


def test_the_reward_contract(clip):
    reward = PreferenceReward(clip)
    assert isinstance(reward, PictureReward)
    assert reward.differentiable
    images = render(lay_out([RED_CIRCLE] * 3, rng())).requires_grad_()
    prompts = ["a red circle"] * 3
    values = reward(images=images, prompts=prompts)
    assert values.shape == (3,)
    learns = {name: p for name, p in reward.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(values.sum(), [images, *learns.values()])
    assert all(float(gradient.abs().max()) > 0 for gradient in gradients)
    assert learns
    assert not [name for name in learns if name.startswith("clip.")], "CLIP stays as it is"
    # samples do not see each other
    torch.testing.assert_close(reward(images=images[:1], prompts=prompts[:1])[0], values[0], rtol=0, atol=1e-5)
    other = reward(images=images, prompts=["a blue square"] * 3)
    assert float((other - values).detach().abs().max()) > 1e-5
    with pytest.raises(ValueError, match=r"must be \[B, 3, 32, 32\], got \[3, 3, 16, 16\]; resize them first"):
        reward(images=images[..., ::2, ::2], prompts=prompts)


def test_judging_the_judges():
    class Always:
        differentiable = False

        def __init__(self, sign):
            self.sign = sign

        def __call__(self, *, images, prompts):
            return self.sign * GoldPreference()(images=images, prompts=prompts)

    assert bool(prefers_as_gold(Always(1), FakeWorld(), 60, 0).all())
    assert not bool(prefers_as_gold(Always(-1), FakeWorld(), 60, 0).any())


def test_swaps_are_told_by_a_score_that_reads_captions():
    class Reads:
        def __call__(self, *, images, prompts):
            return GoldPreference()(images=images, prompts=prompts)

    stated = [Stated((Thing(0, 0), Thing(3, 1)), None, k % 4, 1) for k in range(40)]
    pictures, captions = render(lay_out(stated, rng())), [caption_of(one) for one in stated]
    assert bool(tells_swaps(Reads(), pictures, captions).all())
    assert not bool(tells_swaps(Reads(), pictures, [swapped(caption) for caption in captions]).any())


def test_missing_judges_are_one_sentence(tmp_path, clip):
    with pytest.raises(
        FileNotFoundError, match=r"has no open_clip_model\.safetensors; build it with: distar world build"
    ):
        load_clip(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no .*preference\.safetensors; build it with"):
        load_preference(tmp_path / judges.PREFERENCE, clip)


def test_a_preference_is_never_loaded_half(tmp_path, clip):
    path = tmp_path / judges.PREFERENCE
    whole = {k: v for k, v in PreferenceReward(clip).state_dict().items() if not k.startswith("clip.")}
    save_file(whole, path)
    loaded = load_preference(path, clip)
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in whole.items())
    first = sorted(whole)[0]
    for wrong, told in (
        ({f"module.{k}": v for k, v in whole.items()}, f"{len(whole)} missing"),
        ({k: v for k, v in whole.items() if k != first}, f"1 missing ({first})"),
        (whole | {"clip.model.logit_scale": torch.zeros(())}, "1 unexpected (clip.model.logit_scale)"),
        (whole | {first: torch.zeros(3)}, f"1 misshapen ({first})"),
    ):
        save_file(wrong, path)
        with pytest.raises(ValueError, match=r"preference\.safetensors does not hold") as caught:
            load_preference(path, clip)
        assert told in str(caught.value)


def test_the_judges_say_which_words_they_have_never_seen():
    clip = load_judges().clip
    cut = "a red circle, left of a blue square"
    with pytest.warns(UserWarning, match="1 of 2 new prompts .*'circle,'; it knows a, above"):
        said = clip.words([cut, "a red circle"])
    # this is what the warning is about: the comma ends the caption
    torch.testing.assert_close(said[0], said[1])
    with pytest.warns(UserWarning, match="'purple'"):
        clip(images=torch.zeros(1, 3, 32, 32), prompts=["a purple circle"])
    with pytest.warns(UserWarning, match="1 of 1 new prompts have more than the 16 tokens"):
        clip.words(["a red circle " * 6])


def test_the_worlds_own_captions_never_warn(clip):
    said = {caption_of(stated) for group in combinations().values() for stated in group}
    said |= set(training_scenes(2000, rng())[1])
    said |= {swapped(caption) for caption in said}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip._warn(sorted(said))
