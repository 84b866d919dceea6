"""Evaluation of generators whose worth is known: scenes as rendered, one picture for all, wrong captions."""

import math

import pytest
import torch
from typer.testing import CliRunner

from distar_core.cli.main import app
from distar_core.world.evaluation import WORDS_FOR, differences, evaluate, table
from distar_core.world.judges import load_judges, swapped
from distar_core.world.scenes import BACKGROUNDS, SIZES, lay_out, read_caption, render


def renders(captions, seeds):
    """Faithful and diverse: what a caption leaves open is drawn at random."""
    pictures = []
    for caption, seed in zip(captions, seeds, strict=True):
        rng = torch.Generator().manual_seed(seed)
        stated = read_caption(caption)
        size, background = (int(torch.randint(len(kinds), (), generator=rng)) for kinds in (SIZES, BACKGROUNDS))
        whole = stated._replace(
            size=stated.size if stated.size is not None or stated.relation is not None else size,
            background=background if stated.background is None else stated.background,
        )
        pictures.append(render(lay_out([whole], rng)))
    return torch.cat(pictures)


def collapsed(captions, seeds):
    return renders(captions, [0] * len(captions))


def unfaithful(captions, seeds):
    return renders([swapped(caption) for caption in captions], seeds)


def grey(captions, seeds):
    pictures = renders(captions, seeds)
    return pictures.mean(1, keepdim=True).expand(-1, 3, -1, -1)


@pytest.fixture(scope="module")
def found():
    judges = load_judges()
    return {f.__name__: evaluate(f, judges, count=40, samples=4) for f in (renders, collapsed, unfaithful, grey)}


def test_each_fault_shows_where_it_should(found):
    good = found["renders"]
    assert float(good.faithful.mean()) == 1.0
    assert float(good.open_entropy.mean()) > 0.8 * math.log(4)
    assert good.frechet < 0.1
    flat = differences(good, found["collapsed"])
    assert flat["diversity"].high < -0.005
    assert flat["open_entropy"].mean == pytest.approx(-float(good.open_entropy.mean()), abs=1e-6)
    assert float(found["collapsed"].diversity.max()) < 1e-5
    assert flat["faithful"].mean == 0
    wrong = differences(good, found["unfaithful"])
    assert wrong["faithful"].mean == -1
    assert wrong["gold"].high < -0.8
    assert wrong["clip"].high < 0
    assert wrong["preference"].high < 0
    without_colour = differences(good, found["grey"])
    assert without_colour["saturation"].mean == pytest.approx(-float(good.saturation.mean()), abs=1e-6)
    assert found["grey"].frechet > 3 * good.frechet


def test_the_table_has_both_and_their_difference(found):
    head, *rows = table({"a": found["renders"], "b": found["unfaithful"]})
    assert head == ["", "a", "b", "difference"]
    assert rows[0] == [WORDS_FOR["faithful"], "1.000 [1.000, 1.000]", "0.000 [0.000, 0.000]", "-1.000 [-1.000, -1.000]"]
    assert [row[0] for row in rows] == [*WORDS_FOR.values(), "Fréchet distance to renders"]


def test_the_command_evaluates_the_shipped_world(tmp_path):
    result = CliRunner().invoke(app, ["world", "evaluate", "--count", "4"])
    assert result.exit_code == 0, result.output
    assert "gold preference" in result.output
    assert "8 draws of held-out captions" in result.output
    result = CliRunner().invoke(app, ["world", "evaluate", str(tmp_path)])
    assert result.exit_code == 1
    assert "generator/config.json" in result.output
