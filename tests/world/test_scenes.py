"""Scenes, captions and what is held out."""

import pytest
import torch

from distar_core.world import scenes
from distar_core.world.scenes import (
    COLOURS,
    RELATIONS,
    SHAPES,
    SIZES,
    Stated,
    Thing,
    caption_of,
    combinations,
    lay_out,
    read_caption,
    render,
    training_scenes,
)

EVERY = [stated for group in combinations().values() for stated in group]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_captions_read_back_as_what_they_state():
    for whole in EVERY:
        for stated in (whole, whole._replace(background=None), whole._replace(size=None, background=None)):
            assert read_caption(caption_of(stated)) == stated
    assert caption_of(Stated((Thing(0, 0),))) == "a red circle"
    assert read_caption("a red circle left of a blue square").relation == RELATIONS.index("left of")


@pytest.mark.parametrize(
    ("caption", "why"),
    [
        ("a purple circle", "the word 'purple' is unknown"),
        ("a circle red", "no known order"),
        ("", "no known order"),
        ("a small red circle left of a blue square", "no known order"),
        ("a red circle on a dark", "no known order"),
    ],
)
def test_a_caption_outside_the_grammar_is_one_sentence(caption, why):
    with pytest.raises(ValueError, match=why) as caught:
        read_caption(caption)
    assert "write, for example" in str(caught.value)


def test_what_is_held_out():
    groups = combinations()
    assert {name: len(group) for name, group in groups.items()} == {
        "one": 40,
        "two": 924,
        "one held out": 8,
        "two held out": 132,
    }
    assert len(set(EVERY)) == len(EVERY)
    # every attribute occurs among the held-out captions and in training, alone and in pairs
    for name in ("one", "one held out"):
        assert {s.things[0].colour for s in groups[name]} == set(range(len(COLOURS)))
        assert {s.things[0].shape for s in groups[name]} == set(range(len(SHAPES)))
        assert {s.size for s in groups[name]} == set(range(len(SIZES)))
    for name in ("two", "two held out"):
        assert {s.relation for s in groups[name]} == set(range(len(RELATIONS)))


def test_both_captions_of_a_scene_share_its_fate():
    groups = combinations()
    opposite = {0: 1, 1: 0, 2: 3, 3: 2}
    held_out = set(groups["two held out"])
    for stated in (*groups["two"], *held_out):
        seen_from_the_other = stated._replace(things=stated.things[::-1], relation=opposite[stated.relation])
        assert (seen_from_the_other in held_out) == (stated in held_out)


def test_nothing_held_out_is_drawn_for_training():
    groups = combinations()
    drawn, captions = training_scenes(4000, rng())
    held_out = {*groups["one held out"], *groups["two held out"]}
    seen = set()
    for k, caption in enumerate(captions):
        stated = read_caption(caption)
        whole = stated._replace(
            background=int(drawn.background[k]),
            size=int(drawn.radius[k, 0] > 6) if len(stated.things) == 1 else None,
        )
        assert whole not in held_out, caption
        seen.add(whole)
    assert len(seen & set(groups["one"])) == 40
    assert len(seen & set(groups["two"])) > 800
    # control: drawn from the held-out groups, the same reading finds them
    drawn = lay_out(list(groups["one held out"]), rng())
    assert [int(r > 6) for r in drawn.radius[:, 0]] == [stated.size for stated in groups["one held out"]]


def test_the_stream_is_a_function_of_the_seed():
    (first, said), (again, said_again) = (training_scenes(50, rng(3)) for _ in range(2))
    assert said == said_again
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    other, _ = training_scenes(50, rng(4))
    assert not torch.equal(first.centre, other.centre)


def test_factors_stay_within_what_the_caption_says():
    stated = [*combinations()["one"], *combinations()["two"]]
    drawn = lay_out(stated, rng())
    low, high = (torch.tensor([SIZES[list(SIZES)[s.size or 0]][k] for s in stated]) for k in range(2))
    assert bool(((drawn.radius[:, 0] >= low) & (drawn.radius[:, 0] <= high)).all())
    assert float(drawn.hue.abs().max()) <= scenes.HUE_RANGE
    assert float(drawn.hue.std()) > scenes.HUE_RANGE / 3, "factors vary"
    for k, one in enumerate(stated):
        if one.relation is not None:
            dx, dy = (drawn.centre[k, 1] - drawn.centre[k, 0]).tolist()
            along, across = (dx, dy) if one.relation < 2 else (dy, dx)
            assert (along > 0) == (one.relation % 2 == 0)
            assert abs(along) > abs(across) + 2


def test_pictures_are_what_the_scene_says():
    stated = [Stated((Thing(0, shape),), 1, None, 1) for shape in range(3)]
    drawn = lay_out(stated, rng())
    pictures = render(drawn)
    assert pictures.shape == (3, 3, 32, 32)
    assert 0 <= float(pictures.min()) <= float(pictures.max()) <= 1
    # the area of the shape, from its formula
    radius = drawn.radius[:, 0]
    area = torch.stack([torch.pi * radius[0] ** 2, torch.pi * radius[1] ** 2, 3 * 3**0.5 / 4 * (1.3 * radius[2]) ** 2])
    ground = drawn.background_brightness
    paint = pictures[torch.arange(3), :, *drawn.centre[:, 0].long().flip(1).T]
    covered = (pictures[:, 0] - ground[:, None, None]).sum((1, 2)) / (paint[:, 0] - ground)
    # soft edges round corners off a little
    torch.testing.assert_close(covered, area, rtol=0.05, atol=0)


def test_rgb_against_the_standard_library():
    import colorsys

    hues, values = torch.linspace(-20, 340, 37), torch.linspace(0.3, 1, 37)
    expected = torch.tensor(
        [
            colorsys.hsv_to_rgb((h % 360) / 360, scenes.SATURATION, v)
            for h, v in zip(hues.tolist(), values.tolist(), strict=True)
        ]
    )
    torch.testing.assert_close(scenes.rgb(hues, values), expected, rtol=0, atol=1e-5)
