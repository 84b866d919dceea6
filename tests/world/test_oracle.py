"""The oracle reads what was rendered, and says no where a picture and its caption differ."""

import pytest
import torch

from distar_core.errors import NonFiniteError
from distar_core.world.oracle import Verdicts, compare, judge, read
from distar_core.world.scenes import Stated, Thing, caption_of, combinations, lay_out, render


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn_from(group: str, count: int, seed: int = 0):
    known = combinations()[group]
    stated = [known[(7 * k) % len(known)] for k in range(count)]
    return stated, lay_out(stated, rng(seed))


@pytest.mark.parametrize("group", ["one", "two", "one held out", "two held out"])
def test_renders_are_read_back(group):
    stated, scenes = drawn_from(group, 400)
    verdicts = compare(read(render(scenes)), stated)
    assert all(int((~getattr(verdicts, name)).sum()) <= 1 for name in Verdicts._fields)


def test_factors_are_read_back():
    _, scenes = drawn_from("one", 300)
    reading = read(render(scenes))
    for name, tolerance in (("hue", 0.1), ("brightness", 0.08), ("radius", 0.4), ("centre", 0.1)):
        error = (getattr(reading.scenes, name)[:, 0] - getattr(scenes, name)[:, 0]).abs().max()
        assert float(error) < tolerance, name
    torch.testing.assert_close(reading.scenes.background_brightness, scenes.background_brightness, rtol=0, atol=1e-3)
    assert float(reading.residual.max()) < 0.06
    # control: neither a picture of noise nor the factors of other scenes are within these tolerances
    assert float(read(torch.rand(5, 3, 32, 32, generator=rng())).residual.min()) > 0.2
    _, others = drawn_from("one", 300, seed=1)
    assert float((others.hue[:, 0] - scenes.hue[:, 0]).abs().max()) > 5


WHOLE = Stated((Thing(0, 0), Thing(3, 1)), None, 0, 1)


@pytest.mark.parametrize(
    ("attribute", "wrong"),
    [
        ("colour", WHOLE._replace(things=(Thing(1, 0), Thing(3, 1)))),
        ("shape", WHOLE._replace(things=(Thing(0, 2), Thing(3, 1)))),
        ("background", WHOLE._replace(background=0)),
        ("relation", WHOLE._replace(relation=1)),
        ("relation", WHOLE._replace(relation=2)),
        ("relation", WHOLE._replace(things=WHOLE.things[::-1])),
    ],
)
def test_each_wrong_attribute_is_found(attribute, wrong):
    pictures = render(lay_out([WHOLE] * 20, rng()))
    right = judge(pictures, [caption_of(WHOLE)] * 20)
    assert bool(right.all.all())
    verdicts = judge(pictures, [caption_of(wrong)] * 20)
    assert not bool(getattr(verdicts, attribute).any())
    assert not bool(verdicts.all.any())
    others = [name for name in ("colour", "shape", "size", "background") if name != attribute]
    assert all(bool(getattr(verdicts, name).all()) for name in others)


def test_one_object_too_many_or_too_few_is_found():
    two, one = caption_of(WHOLE), "a red circle on a dark background"
    pictures = render(lay_out([WHOLE] * 20 + [Stated((Thing(0, 0),), 0, None, 1)] * 20, rng()))
    for caption, expected in ((two, [True] * 20 + [False] * 20), (one, [False] * 20 + [True] * 20)):
        verdicts = judge(pictures, [caption] * 40)
        assert verdicts.number.tolist() == verdicts.all.tolist() == expected


def test_a_wrong_size_is_found_and_an_open_one_is_not():
    small = Stated((Thing(2, 1),), 0, None, 0)
    pictures = render(lay_out([small] * 20, rng()))
    assert not bool(judge(pictures, [caption_of(small._replace(size=1))] * 20).size.any())
    assert bool(judge(pictures, ["a green square"] * 20).all.all())


def test_pictures_without_objects_are_no_scene():
    verdicts = judge(torch.full((2, 3, 32, 32), 0.1), ["a red circle", "a red circle left of a blue square"])
    assert not bool(verdicts.all.any())
    noise = torch.rand(20, 3, 32, 32, generator=rng())
    assert not bool(judge(noise, ["a red circle"] * 20).all.any())


@pytest.mark.parametrize(
    ("pictures", "why"),
    [
        (torch.zeros(2, 3, 16, 16), r"got \[2, 3, 16, 16\]"),
        (torch.zeros(3, 32, 32), r"got \[3, 32, 32\]"),
        (torch.full((1, 3, 32, 32), 1.2), "values from 1.2 to 1.2"),
        (torch.full((1, 3, 32, 32), -0.1), "must lie in"),
    ],
)
def test_what_is_no_picture_is_refused(pictures, why):
    with pytest.raises(ValueError, match=why):
        read(pictures)
    with pytest.raises(NonFiniteError, match="what drew them has diverged"):
        read(torch.full((1, 3, 32, 32), float("nan")))


def test_a_blur_such_as_an_autoencoders_is_read_through():
    stated, scenes = drawn_from("two", 400)
    pictures = torch.nn.functional.avg_pool2d(render(scenes), 3, stride=1, padding=1, count_include_pad=False)
    assert int((~compare(read(pictures), stated).all).sum()) <= 4
    # control: a blur that nobody could read through is not
    pictures = torch.nn.functional.avg_pool2d(render(scenes), 9, stride=1, padding=4, count_include_pad=False)
    assert int((~compare(read(pictures), stated).all).sum()) > 100
