"""Settings as people write them: what a recipe sets, what it refuses, and its description as JSON."""

from __future__ import annotations

import json
import math
import pickle
import re
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError

from distar_core import METHODS, LinearReward, Method, TimeLaw
from distar_core.losses import (
    PseudoHuber,
    SquaredL2,
    integral_kl,
    score_divergence,
    score_divergence_detached,
    weight_one,
    weight_sigma,
    weight_sigma_squared,
    weight_x0,
)
from distar_core.methods import ALIASES
from distar_core.runs.settings import (
    RECIPE,
    Count,
    Defaults,
    Rate,
    Recipe,
    RecipeError,
    complete,
    describe,
    fill,
    read_yaml,
    write_yaml,
)


class Plain(Recipe):
    """The least that a kind of model adds."""

    DEFAULTS = Defaults({"taste": {name: row.reward_scale for name, row in METHODS.items()}, "other": {}})
    FILES = ("seeds",)

    reward: str = "taste"
    steps: Count = 10
    batch: Count = 4
    lr: Rate = 1e-3
    assistant_lr: Rate = 1e-3
    seeds: int | str = 1


NAMES = [name for name in (*METHODS, *ALIASES) if name != "didr"]


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_with_a_name_alone_is_the_row_and_comes_back_from_its_file(name: str, tmp_path: Path) -> None:
    recipe = Plain.read({"method": name})
    assert recipe.method == METHODS[ALIASES.get(name, name)]
    recipe.write(tmp_path / RECIPE)
    assert Plain.read(tmp_path / RECIPE) == Plain.of_run(tmp_path) == Plain.read(recipe.written) == recipe
    assert recipe.replace(seed=1) != recipe, "control"
    assert recipe.replace(seed=1).loop == {"steps": 10, "batch": 4, "warmup": 50, "assistant_updates": 1, "seed": 1}


def refused(written: dict[str, Any], kind: type[Recipe] = Plain) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        kind.read(written)
    assert str(caught.value).count("\n") == len(caught.value.problems) - 1, "one line per wrong key"
    assert repr(caught.value.key) in str(caught.value)
    return caught.value


WRONG: list[tuple[dict[str, Any], str, Any]] = [
    ({"methd": "di-star"}, "methd", "di-star"),
    ({"method": "ppo"}, "method", "ppo"),
    ({"method": ["di-star"]}, "method", ["di-star"]),
    ({"method": "didr"}, "method", "didr"),
    ({"reward": "beauty"}, "reward", "beauty"),
    ({"reward": ["taste"]}, "reward", ["taste"]),
    ({"reward": "other"}, "reward_scale", None),
    ({"reward_scale": "1"}, "reward_scale", "1"),
    ({"reward_scale": True}, "reward_scale", True),
    ({"reward_scale": -5}, "reward_scale", -5),
    ({"reward_scale": 1e13}, "reward_scale", 1e13),
    ({"reward_scale": 10**401}, "reward_scale", 10**401),
    ({"method": "sim", "reward_scale": 1.0}, "reward_scale", 1.0),
    ({"cfg_scale": -1.5}, "cfg_scale", -1.5),
    ({"method": "reward-only", "cfg_scale": 2.0}, "cfg_scale", 2.0),
    ({"method": "reward-only", "guidance_scale": 3.0}, "guidance_scale", 3.0),
    ({"cfg_scale": 6.5, "guidance_scale": 7.5}, "guidance_scale", 7.5),
    ({"guidance_scale": "7.5"}, "guidance_scale", "7.5"),
    ({"guidance_scale": True}, "guidance_scale", True),
    ({"guidance_scale": -0.5}, "guidance_scale", -0.5),
    ({"huber_c": 0}, "huber_c", 0),
    ({"huber_c": -0.1}, "huber_c", -0.1),
    ({"method": "diff-instruct", "huber_c": 0.3}, "huber_c", 0.3),
    ({"method": "diff-instruct", "huber_c": 0}, "huber_c", 0),
    ({"steps": "300"}, "steps", "300"),
    ({"steps": 3.0}, "steps", 3.0),
    ({"steps": 0}, "steps", 0),
    ({"steps": None}, "steps", None),
    ({"batch": True}, "batch", True),
    ({"warmup": -1}, "warmup", -1),
    ({"seed": 2**64}, "seed", 2**64),
    ({"lr": 0.0}, "lr", 0.0),
    ({"lr": math.inf}, "lr", math.inf),
    ({"lr": "1_000"}, "lr", "1_000"),
    ({"seeds": 2.5}, "seeds", 2.5),
]


@pytest.mark.parametrize(("written", "key", "value"), WRONG, ids=[str(wrong[0])[:40] for wrong in WRONG])
def test_a_wrong_recipe_names_the_key_and_the_value(written: dict[str, Any], key: str, value: Any) -> None:
    error = refused(written)
    assert (error.key, type(error.value), error.value) == (key, type(value), value)
    assert [problem.key for problem in error.problems] == [key]
    assert len(str(error)) < 400, "a long value is cut"


def test_what_is_not_a_number_is_none_of_a_scale_either() -> None:
    assert refused({"cfg_scale": math.nan}).key == "cfg_scale"


def test_every_wrong_key_is_told_at_once_and_the_known_ones_with_an_unknown_one() -> None:
    error = refused({"steps": "3", "lr": -1, "nope": 3})
    assert {problem.key: problem.value for problem in error.problems} == {"steps": "3", "lr": -1, "nope": 3}
    assert all(key in str(error) for key in Plain.known_keys())
    assert {"method", "guidance_scale", "seeds"} < set(Plain.known_keys())
    assert pickle.loads(pickle.dumps(error)).problems == error.problems, "as a process hands it back"


def test_a_missing_key_is_named() -> None:
    class Bare(Plain):
        steps: Count

    assert (refused({}, Bare).key, refused({}, Bare).value) == ("steps", None)


@pytest.mark.parametrize(
    ("method", "written"),
    [("sim", {"reward_scale": 0}), ("reward-only", {"cfg_scale": 0.0}), ("reward-only", {"guidance_scale": 1})],
)
def test_a_key_that_says_it_is_off_fits_every_method(method: str, written: dict[str, Any]) -> None:
    assert Plain.read({"method": method, **written}) == Plain.read({"method": method})


@pytest.mark.parametrize(("guidance_scale", "cfg_scale"), [(7.5, 6.5), (1.0, 0.0), (0.5, -0.5), (0.0, -1.0)])
def test_guidance_scale_is_translated_to_the_additive_form(
    guidance_scale: float, cfg_scale: float, tmp_path: Path
) -> None:
    recipe = Plain.read({"guidance_scale": guidance_scale})
    assert recipe.method == replace(METHODS["diff-instruct*"], cfg_scale=cfg_scale)
    assert recipe.method.guides is (cfg_scale != 0)
    assert Plain.read(recipe.written) == recipe == Plain.read({"cfg_scale": cfg_scale})
    # Control: the other spelling taken at its word would be another method.
    assert recipe != Plain.read({"cfg_scale": guidance_scale})
    assert Plain.read({"guidance_scale": guidance_scale}, cfg_scale=3.0) == Plain.read({"cfg_scale": 3.0})


def test_huber_c_sets_the_distance() -> None:
    assert Plain.read({"huber_c": 0.3}).method.distance == PseudoHuber(0.3)
    assert Plain.read({}).method.distance == PseudoHuber(0.05)


def test_a_model_gives_its_own_defaults_where_the_method_has_the_key() -> None:
    class Tuned(Plain):
        DEFAULTS = Defaults({"taste": {"diff-instruct*": 0.3}}, huber_c=2.0, cfg_scale=1.5)
        TIMES = TimeLaw.levels([1, 2])

    method = Tuned.read({}).method
    assert (method.reward_scale, method.cfg_scale, method.distance) == (0.3, 1.5, PseudoHuber(2.0))
    assert method.time_law == method.assistant_time_law == Tuned.TIMES
    assert Tuned.read({"cfg_scale": 0.0}).method.cfg_scale == 0.0
    assert Tuned.read({"method": "dmd"}).written.keys().isdisjoint({"huber_c", "reward_scale"})
    assert refused({"method": "reward-only"}, Tuned).key == "reward_scale"


def test_a_recipe_is_left_alone_and_cannot_be_changed() -> None:
    written = {"method": "di-star", "guidance_scale": 2.0}
    kept = dict(written)
    recipe = Plain.read(written)
    assert written == kept
    with pytest.raises(ValidationError):
        recipe.steps = 3  # type: ignore[misc]


def test_a_path_in_a_file_is_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "r.yaml").write_text("seeds: s.txt\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    assert Plain.read("a/r.yaml").seeds == str(tmp_path / "a" / "s.txt")
    assert (
        Plain.read({"seeds": "s.txt"}).seeds == Plain.read("a/r.yaml", seeds="s.txt").seeds == str(tmp_path / "s.txt")
    )
    assert Plain.read({"seeds": 3}).seeds == 3


def test_a_file_is_named_with_what_is_wrong_in_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "none.yaml"))):
        Plain.read(tmp_path / "none.yaml")
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path))):
        Plain.of_run(tmp_path)
    (tmp_path / RECIPE).write_text("steps: 0\n", "utf-8")
    with pytest.raises(RecipeError, match=re.escape(str(tmp_path / RECIPE))) as caught:
        Plain.of_run(tmp_path)
    assert (caught.value.key, caught.value.value) == ("steps", 0)


def test_other_settings_than_those_of_the_run_are_refused_by_key(tmp_path: Path) -> None:
    recipe = Plain.read({"steps": 3, "method": "di-star"})
    recipe.refuse_other(tmp_path, method="di-star", steps=3)
    with pytest.raises(RecipeError) as caught:
        recipe.refuse_other(tmp_path, method="sim", steps=3, seed=5)
    assert {problem.key: problem.value for problem in caught.value.problems} == {"method": "sim", "seed": 5}


# Descriptions.


@pytest.mark.parametrize("name", METHODS)
def test_a_description_is_json_and_equal_for_equal_settings(name: str) -> None:
    method = METHODS[name]
    described = describe(method)
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert describe(replace(method)) == described
    assert set(described) == {field.name for field in fields(Method)}


def test_rows_of_the_table_have_different_descriptions() -> None:
    assert len({json.dumps(describe(method)) for method in METHODS.values()}) == len(METHODS)


BASE = Method(
    "base",
    regularizer=score_divergence,
    exact=True,
    distance=SquaredL2(),
    unit="eps",
    law="frozen",
    guidance="inside",
    reward_at="every_level",
)
CHANGES: dict[str, Any] = {
    "name": "other",
    "regularizer": score_divergence_detached,
    "exact": False,
    "distance": PseudoHuber(0.05),
    "unit": "score",
    "law": "differentiated",
    "weight": weight_x0,
    "time_law": TimeLaw.uniform(0.1, 4.0),
    "assistant_weight": weight_sigma,
    "assistant_time_law": TimeLaw.log_uniform(0.1, 4.1),
    "guidance": "outside",
    "cfg_scale": 1e-9,
    "reward_at": "sample",
    "reward_scale": 0.1,
}


@pytest.mark.parametrize("field", [field.name for field in fields(Method)])
def test_a_description_tells_every_field_apart(field: str) -> None:
    changed = replace(BASE, **{field: CHANGES[field]})
    assert describe(changed) != describe(BASE)
    assert {key for key in describe(BASE) if describe(changed)[key] != describe(BASE)[key]} == {field}


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (PseudoHuber(0.05), PseudoHuber(0.06)),
        (PseudoHuber(0.05), SquaredL2()),
        (TimeLaw.uniform(0.1, 4.0), TimeLaw.log_uniform(0.1, 4.0)),
        (weight_one, weight_sigma_squared),
        ([1, 2], [2, 1]),
        ({"a": 1}, {"b": 1}),
        (None, 0),
        ("1", 1),
    ],
)
def test_different_settings_have_different_descriptions(a: Any, b: Any) -> None:
    assert describe(a) != describe(b)


def test_containers_are_described_inside_out() -> None:
    described = describe({"laws": (TimeLaw.levels([1, 2]), None), "f": integral_kl, "x": True})
    assert described == {
        "laws": [{"TimeLaw": {"name": "levels", "values": [1, 2]}}, None],
        "f": "integral_kl",
        "x": True,
    }
    assert json.loads(json.dumps(described)) == described


def test_tensors_in_settings_are_told_apart() -> None:
    a, b = LinearReward(torch.tensor([0.5, 0.0])), LinearReward(torch.tensor([0.50001, 0.0]))
    assert describe({"reward": a}) != describe({"reward": b})


def test_descriptions_hold_no_memory_addresses() -> None:
    assert "0x" not in json.dumps(describe(replace(BASE, weight=partial(weight_x0))))


class OwnReward:
    def __call__(self, x0: torch.Tensor, condition: Any) -> torch.Tensor:
        return x0.sum(1)


def test_an_object_of_ones_own_has_the_same_description_in_every_process() -> None:
    assert "0x" not in json.dumps(describe({"reward": OwnReward()}))


# YAML.


def read(text: str, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "recipe.yaml").write_text(text, "utf-8")
    return read_yaml(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("300", 300),
        ("0300", 300),
        ("08", 8),
        ("-12", -12),
        ("0o17", 15),
        ("0x1F", 31),
        ("!!int 0300", 300),
        ("1e-4", 1e-4),
        ("1.0e-4", 1e-4),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-.inf", float("-inf")),
        ("!!float 3", 3.0),
        ("true", True),
        ("FALSE", False),
        ("", None),
        ("~", None),
        ("null", None),
        *(
            (text, text)
            for text in ("1_000", "1:30", "yes", "no", "on", "off", "0b11", "2026-01-31", "<<", "=", "tRUE")
        ),
        ("'300'", "300"),
        ('"1e-4"', "1e-4"),
        ("300 # steps", 300),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any, tmp_path: Path) -> None:
    found = read(f"key: {text}\n", tmp_path)["key"]
    assert (type(found), found) == (type(value), value)


def test_control_the_loader_of_yaml_1_1_reads_other_numbers() -> None:
    others = {"0300": 192, "1:30": 90, "1_000": 1000, "no": False, "1e-4": "1e-4"}
    assert {text: yaml.safe_load(text) for text in others} == others


def test_not_a_number_is_one(tmp_path: Path) -> None:
    assert math.isnan(read("key: .NaN\n", tmp_path)["key"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps: 1\nseed: 2\nsteps: 3\n", ["'steps'", "line 3"]),
        ("steps: 1\n'steps': 3\n", ["'steps'", "line 2"]),
        ("inside: {a: 1, a: 1}\n", ["'a'", "line 1"]),
        ("inside:\n- a: 1\n  a: 2\n", ["'a'", "line 3"]),
        ("1: 2\n", ["1"]),
        ("? [a]\n: 2\n", ["line 1"]),
        ("a: 1\n---\na: 2\n", ["line 2"]),
        ("a: !!int three\n", ["three", "line 1"]),
        ("a: !!bool yes\n", ["yes", "line 1"]),
        ("a: !!float 1_0\n", ["1_0", "line 1"]),
        ("a: !!python/name:os.remove\n", ["line 1"]),
        ("a: [1\n", ["line 2"]),
        ("- a\n", ["list"]),
        ("", ["NoneType"]),
    ],
)
def test_what_is_not_keys_with_values_is_refused(text: str, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "recipe.yaml"))) as error:
        read(text, tmp_path)
    assert all(word in str(error.value) for word in words)


def test_what_is_written_is_read_and_yaml_1_1_reads_the_same(tmp_path: Path) -> None:
    texts = [
        "yes",
        "0300",
        "1e-4",
        "1:30",
        "1_000",
        "0o17",
        "null",
        "~",
        "",
        "true",
        "a: b",
        "#",
        " x",
        "ä",
        "\U0001f600",
    ]
    settings = {
        "texts": texts,
        "floats": [1e-4, 1e-5, 1e20, -0.0, 0.1 + 0.2, float("inf")],
        "ints": [0, -8, 2**62],
        "others": [None, True, False],
        "yes": {"0300": 1},
    }
    text = write_yaml(settings)
    assert read(text, tmp_path) == settings
    assert yaml.safe_load(text) == settings
    assert list(read(text, tmp_path)) == list(settings), "in the order given"


def test_a_description_from_earlier_is_completed_by_the_fields_that_it_did_not_know() -> None:
    method = replace(BASE, distance=PseudoHuber(0.2))
    described = describe({"method": method, "seed": 1})
    del described["method"]["cfg_scale"], described["method"]["reward_scale"]
    completed = complete(described, {"method": method, "seed": 1})
    assert completed["method"]["cfg_scale"] == 0.0
    assert completed["method"]["reward_scale"] == 0.0
    # A name is what logs and figures say: a method that was called otherwise is the same one.
    described["method"]["name"] = "as it was called then"
    assert complete(described, {"method": method, "seed": 1})["method"]["name"] == method.name
    # What has no default, and what was not a field, stays as it was.
    del described["method"]["distance"]["PseudoHuber"]["c"], described["seed"]
    described["method"]["old"] = 3
    completed = complete(described, {"method": method, "seed": 1})
    assert completed["method"]["old"] == 3
    assert completed["method"]["distance"] == {"PseudoHuber": {}}
    assert "seed" not in completed
    assert complete(describe(method), replace(method, distance=SquaredL2())) == describe(method)


def test_filling_keeps_what_is_there() -> None:
    assert fill({"a": 1, "b": {"c": None}}, {"a": 2, "b": {"c": 3, "d": 4}, "e": {"f": 5}}) == {
        "a": 1,
        "b": {"c": None, "d": 4},
        "e": {"f": 5},
    }
    assert fill("Adam", {"Adam": 1}) == "Adam"


def test_another_method_takes_the_keys_with_it_that_have_no_place_in_it() -> None:
    written = {"method": "di-star", "reward_scale": 2.0, "guidance_scale": 3.0, "huber_c": 0.5}
    assert Plain.read(written, method="di++") == Plain.read({"method": "di++", "reward_scale": 2.0, "cfg_scale": 2.0})
    assert Plain.read(written, method="reward-only") == Plain.read({"method": "reward-only", "reward_scale": 2.0})
    assert Plain.read(written, method="dmd") == Plain.read({"method": "dmd", "cfg_scale": 2.0})
    with pytest.raises(RecipeError) as caught:
        Plain.read(written, method="dmd", huber_c=0.5)
    assert caught.value.key == "huber_c", "what is asked for with it has to have a place"
    assert refused(written | {"method": "dmd"}).key in ("reward_scale", "huber_c"), (
        "control: in one file they contradict"
    )
