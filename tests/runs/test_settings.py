"""Settings as people write them: what a recipe sets, what it refuses, and its description as JSON."""

from __future__ import annotations

import json
import math
import re
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

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
from distar_core.runs.settings import complete, describe, fill, read_method, read_yaml, write_yaml


@pytest.mark.parametrize("name", [*METHODS, *ALIASES])
def test_a_recipe_with_a_name_alone_is_the_row(name: str) -> None:
    assert (
        read_method({"method": name}) is METHODS[ALIASES.get(name, name)]
        or read_method({"method": name}) == METHODS[ALIASES.get(name, name)]
    )


def test_an_unknown_method_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="method 'di-starr' is unknown; known are") as error:
        read_method({"method": "di-starr"})
    assert all(name in str(error.value) for name in [*METHODS, *ALIASES])


def test_a_recipe_without_a_method_is_refused_with_an_example() -> None:
    with pytest.raises(ValueError, match="names no method; add a line such as method: di-star"):
        read_method({"reward_scale": 1.0})


@pytest.mark.parametrize("key", ["reward_scales", "huber", "cfg", "Method", "learning_rate", "name"])
def test_an_unknown_key_is_refused_with_value_and_known_keys(key: str) -> None:
    with pytest.raises(ValueError, match=rf"recipe key '{key}' \(value 7.25\) is unknown; known are") as error:
        read_method({"method": "di-star", key: 7.25})
    known = {field.name for field in fields(Method)} - {"name"} | {"huber_c", "guidance_scale"}
    assert all(one in str(error.value) for one in known)


def test_both_spellings_of_guidance_are_refused() -> None:
    with pytest.raises(ValueError, match=r"guidance twice, cfg_scale 6.5 and guidance_scale 7.5; keep one"):
        read_method({"method": "di-star", "cfg_scale": 6.5, "guidance_scale": 7.5})


@pytest.mark.parametrize(("guidance_scale", "cfg_scale"), [(7.5, 6.5), (1.0, 0.0), (0.0, -1.0)])
def test_guidance_scale_is_translated_to_the_additive_form(guidance_scale: float, cfg_scale: float) -> None:
    method = read_method({"method": "di-star", "guidance_scale": guidance_scale})
    assert method.cfg_scale == cfg_scale
    assert method == replace(METHODS["diff-instruct*"], cfg_scale=cfg_scale)
    assert method.guides is (cfg_scale != 0)
    # Control: the other spelling taken at its word would be another method.
    assert method != read_method({"method": "di-star", "cfg_scale": guidance_scale})


def test_guidance_for_a_row_without_it_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cfg_scale 6.5 but guidance 'none'"):
        read_method({"method": "reward-only", "guidance_scale": 7.5})


def test_huber_c_sets_the_distance() -> None:
    assert read_method({"method": "di-star", "huber_c": 0.3}).distance == PseudoHuber(0.3)
    assert read_method({"method": "di-star"}).distance == PseudoHuber(0.05)


@pytest.mark.parametrize("huber_c", [0, -0.1])
def test_a_huber_c_that_is_not_positive_is_refused(huber_c: float) -> None:
    with pytest.raises(ValueError, match=rf"huber_c .*got {huber_c}; use SquaredL2"):
        read_method({"method": "di-star", "huber_c": huber_c})


def test_a_distance_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="distance"):
        read_method({"method": "di-star", "distance": SquaredL2(), "huber_c": 0.3})


def test_huber_c_for_a_method_without_a_distance_is_refused() -> None:
    with pytest.raises(ValueError, match="distance"):
        read_method({"method": "diff-instruct", "huber_c": 0.3})


def test_every_field_can_be_set_and_the_recipe_is_left_alone() -> None:
    recipe = {"method": "sim", "reward_at": "sample", "reward_scale": 2.0, "guidance": "outside", "huber_c": 0.1}
    kept = dict(recipe)
    method = read_method(recipe)
    assert recipe == kept
    assert (method.reward_at, method.reward_scale, method.guidance) == ("sample", 2.0, "outside")
    assert METHODS["sim"].reward_at == "nowhere"


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
    # What has no default, and what was not a field, stays as it was.
    del described["method"]["name"], described["method"]["distance"]["PseudoHuber"]["c"], described["seed"]
    described["method"]["old"] = 3
    completed = complete(described, {"method": method, "seed": 1})
    assert "name" not in completed["method"]
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
