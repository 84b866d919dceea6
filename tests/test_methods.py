"""The table of methods: names, variants, refused values, and a method of one's own without touching the loop."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distar_core import METHODS, Method, find_method, post_train
from distar_core.losses import Noised, PseudoHuber, Scores, SquaredL2, inner, integral_kl, score_divergence
from distar_core.methods import ALIASES, LARGEST_SCALE

ROWS = [
    "reward-only",
    "diff-instruct",
    "diff-instruct++",
    "sim",
    "diff-instruct*",
    "diff-instruct*-out",
    "dmd",
    "didr",
]


def test_the_table_has_the_rows_of_the_family_under_their_names() -> None:
    assert set(ROWS) <= set(METHODS)
    assert all(name == method.name for name, method in METHODS.items())


@pytest.mark.parametrize("name", METHODS)
def test_every_name_finds_its_row(name: str) -> None:
    assert find_method(name) is METHODS[name]


@pytest.mark.parametrize("alias", ALIASES)
def test_every_alias_finds_a_row(alias: str) -> None:
    assert find_method(alias) is METHODS[ALIASES[alias]]
    assert alias not in METHODS


@pytest.mark.parametrize("name", [name for name in METHODS if "*" in name])
def test_names_that_a_shell_would_read_have_an_alias_that_it_would_not(name: str) -> None:
    aliases = [alias for alias, target in ALIASES.items() if target == name]
    assert any(alias.replace("-", "").isalnum() for alias in aliases)


@pytest.mark.parametrize("name", ["di-instruct", "", "SIM", "diff_instruct*"])
def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match="is unknown; known are") as error:
        find_method(name)
    message = str(error.value)
    assert repr(name) in message
    assert all(known in message for known in [*METHODS, *ALIASES])


def test_rows_state_what_the_papers_say_about_them() -> None:
    assert METHODS["sim"].exact
    assert METHODS["sim"].regularizer is METHODS["diff-instruct*"].regularizer is score_divergence
    assert METHODS["diff-instruct"].regularizer is METHODS["didr"].regularizer is integral_kl
    assert METHODS["reward-only"].regularizer is None
    assert METHODS["diff-instruct*"].guidance == "inside"
    assert METHODS["diff-instruct*-out"].guidance == "outside"
    rewarded = {name for name, method in METHODS.items() if method.reward_scale}
    assert rewarded == set(METHODS) - {"diff-instruct", "sim", "dmd"}
    assert not any(method.guides for method in METHODS.values())


def test_variants_by_replace_leave_the_table_alone() -> None:
    variant = replace(METHODS["sim"], distance=SquaredL2(), unit="score", cfg_scale=2.0)
    assert (variant.distance, variant.unit, variant.cfg_scale) == (SquaredL2(), "score", 2.0)
    assert variant.guides
    assert METHODS["sim"].distance == PseudoHuber(0.05)
    with pytest.raises(FrozenInstanceError):
        variant.unit = "eps"  # type: ignore[misc]


@pytest.mark.parametrize("guidance", ["inside", "outside"])
def test_the_largest_scale_still_pulls_in_float32(guidance: Any) -> None:
    """Control: from some scale on, squares leave float32 and pseudo-Huber's pull, y/inf, is zero."""
    y = torch.tensor([[0.3, -0.2]])
    assert float(PseudoHuber(0.05).grad(LARGEST_SCALE * y).norm()) == pytest.approx(1, rel=1e-6)
    assert float(PseudoHuber(0.05).grad(1e30 * y).norm()) == 0
    assert replace(METHODS["sim"], guidance=guidance, cfg_scale=LARGEST_SCALE).guides


def test_a_scale_may_be_a_number_of_numpy(toy: SimpleNamespace) -> None:
    scaled = [
        run(replace(METHODS["diff-instruct*"], cfg_scale=kind(1.5), reward_scale=kind(0.5)), toy)
        for kind in (float, np.float32)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*scaled, strict=True))


@pytest.mark.parametrize("guidance", ["none", "inside", "outside"])
def test_cfg_scale_zero_is_off(guidance: Any) -> None:
    assert not replace(METHODS["sim"], guidance=guidance, cfg_scale=0.0).guides


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"guidance": "both"}, "guidance 'both' of method 'sim' is not one of none, inside, outside; use one"),
        ({"guidance": None}, "guidance None of method 'sim' is not one of"),
        (
            {"reward_at": "pixels"},
            "reward_at 'pixels' of method 'sim' is not one of nowhere, sample, every_level, every_level_by_proxy",
        ),
        (
            {"guidance": "none", "cfg_scale": 7.5},
            "method 'sim' has cfg_scale 7.5 but guidance 'none'; change guidance, or set cfg_scale to 0",
        ),
        ({"cfg_scale": 1e30}, r"cfg_scale of method 'sim' must be a number of at most 1e\+12 in size, got 1e\+30"),
        ({"cfg_scale": float("nan")}, "cfg_scale of method 'sim' must be .* got nan"),
        ({"reward_at": "sample", "reward_scale": "0.3"}, "reward_scale of method 'sim' must be a number .* got '0.3'"),
        ({"reward_at": "sample", "reward_scale": -float("inf")}, "reward_scale of method 'sim' must be .* got -inf"),
    ],
)
def test_bad_values_are_refused_with_value_and_remedy(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(METHODS["sim"], **changes)


def test_a_loss_without_a_regularizer_is_refused() -> None:
    empty = torch.zeros(1, 2)
    noised = Noised(empty, empty, empty, torch.ones(1), torch.ones(1, 1), torch.ones(1, 1))
    with pytest.raises(ValueError, match="'reward-only' has no regularizer; set regularizer="):
        METHODS["reward-only"].loss(noised, Scores(empty, empty))


def reverse_kl_by_hand(noised: Noised, scores: Scores) -> Tensor:
    """A regularizer that the library does not have by this name: the KL pull, written as a user would."""
    return inner((scores.assistant - scores.reference).detach(), noised.x_t)


def fourth_power(noised: Noised, scores: Scores, *, unit: str) -> Tensor:
    """Another one, with one of the options, that differentiates through the scores."""
    assert unit == "eps"
    return (noised.sigma * (scores.assistant - scores.reference)).flatten(1).pow(4).sum(1)


def run(method: Method, toy: SimpleNamespace) -> list[Tensor]:
    state = toy.state()
    records = list(post_train(state, method, toy.conditions, steps=3, seed=1, batch=4, warmup=1))
    assert all(bool(record.losses["regularizer"].isfinite().all()) for record in records[1:])
    return [p.detach().clone() for p in state.roles.generator.module.parameters()]


def test_a_regularizer_of_ones_own_runs_without_touching_the_loop(toy: SimpleNamespace) -> None:
    own = run(replace(METHODS["diff-instruct"], name="mine", regularizer=reverse_kl_by_hand), toy)
    library = run(METHODS["diff-instruct"], toy)
    assert all(torch.equal(a, b) for a, b in zip(own, library, strict=True))
    other = run(Method("quartic", regularizer=fourth_power, exact=True, unit="eps"), toy)
    assert not any(torch.equal(a, b) for a, b in zip(other, library, strict=True))


def test_options_reach_the_regularizer_only_if_the_row_sets_them() -> None:
    seen = {}

    def spy(noised: Noised, scores: Scores, **options: Any) -> Tensor:
        seen.update(options)
        return noised.x_t.sum(1)

    empty = torch.zeros(1, 2)
    noised = Noised(empty, empty, empty, torch.ones(1), torch.ones(1, 1), torch.ones(1, 1))
    Method("spy", regularizer=spy, unit="score").loss(noised, Scores(empty, empty))
    assert seen == {"unit": "score"}
    Method("spy", regularizer=spy, distance=SquaredL2(), law="frozen").loss(noised, Scores(empty, empty))
    assert seen == {"unit": "score", "distance": SquaredL2(), "law": "frozen"}
