"""Evaluation of generators whose worth is known: scenes as rendered, one picture for all, wrong captions."""

import math
import re

import pytest
import torch
from typer.testing import CliRunner

from distar_core.cli.main import app
from distar_core.runs.settings import RECIPE
from distar_core.world.evaluation import WORDS_FOR, differences, evaluate, held_out_captions, scorers, table
from distar_core.world.judges import load_judges, swapped
from distar_core.world.recipe import WorldRecipe
from distar_core.world.scenes import BACKGROUNDS, GROUPS, SIZES, lay_out, read_caption, render


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


def test_the_command_is_evaluate_in_the_miniature(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("distar_core.cli.evaluate.evaluate", lambda *words, **options: asked.append((words, options)))
    own = tmp_path / "weights"
    result = CliRunner().invoke(
        app, ["world", "evaluate", str(tmp_path / "out"), "--weights", str(own), "--seeds", "2"]
    )
    assert result.exit_code == 0, result.output
    (folder, models, prompts, rewards), options = asked.pop()
    assert folder == tmp_path / "out"
    assert (models, prompts) == ([f"world-reference,base={own}", f"world,base={own}"], ["world"])
    assert set(rewards) == {scorer.name for scorer in scorers().values()}
    assert options == {"seeds": 2, "hacking": ""}

    runs = []
    for name, reward in (("a", "preference"), ("b", "clip")):
        runs.append(tmp_path / name)
        runs[-1].mkdir()
        WorldRecipe.read({"reward": reward, "reward_scale": 1.0}).write(runs[-1] / RECIPE)
    result = CliRunner().invoke(app, ["world", "evaluate", str(tmp_path / "out"), str(runs[0])])
    assert result.exit_code == 0, result.output
    (_, models, _, _), options = asked.pop()
    assert (models, options["hacking"]) == (["world", f"a={runs[0]}"], "world:preference")
    twin = tmp_path / "twin" / "a"
    twin.mkdir(parents=True)
    WorldRecipe.read({"reward_scale": 1.0}).write(twin / RECIPE)
    result = CliRunner().invoke(app, ["world", "evaluate", str(tmp_path / "out"), str(runs[0]), str(twin)])
    assert result.exit_code == 0, result.output
    named = [model.partition("=")[0] for model in asked.pop()[0][1]]
    assert named == ["world", f"{tmp_path.name}-a", "twin-a"]
    free = tmp_path / "free"
    free.mkdir()
    WorldRecipe.read({"method": "sim"}).write(free / RECIPE)
    for words, told in (
        ([*map(str, runs)], "different rewards"),
        ([str(free)], "no reward"),
        ([str(twin), str(twin)], "one folder"),
        ([str(runs[0]), "--weights", str(own)], "--weights"),
        ([str(tmp_path / "nothing")], "nothing"),
    ):
        result = CliRunner().invoke(app, ["world", "evaluate", str(tmp_path / "out"), *words])
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
        assert told in re.sub(r"\s+", " ", result.stderr)
    assert not asked


def test_the_judges_score_as_they_are_and_only_what_nobody_has_stands_beside():
    found, judges = scorers(), load_judges()
    assert {name for name, one in found.items() if one.beside} == {"gold", "faithful"}
    assert found["preference"].family == found["preference-2"].family != found["clip"].family
    assert len({one.identity for name, one in found.items() if name not in ("gold", "faithful")}) == 4
    said = ["a red circle", "a blue square above a green circle"]
    pictures = renders(said, [0, 1])
    wrong = [swapped(caption) for caption in said]
    for name in ("gold", "preference", "clip"):
        expected = getattr(judges, name)(images=pictures, prompts=said)
        assert torch.equal(found[name].load()(images=pictures, prompts=said), expected)
    faithful = found["faithful"].load()
    assert faithful(images=pictures, prompts=said).tolist() == [1, 1]
    assert faithful(images=pictures, prompts=wrong).tolist() == [0, 0]


def test_the_captions_are_held_out_in_two_groups():
    found = held_out_captions()
    assert len(found.entries) == len({entry.prompt for entry in found.entries}) == 140
    assert {entry.category for entry in found.entries} == set(GROUPS.values())
