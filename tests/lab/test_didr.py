"""The experiment didr: the distance to the best, and facts that follow the numbers."""

import math

import pytest
import torch

from distar_core.errors import NonFiniteError
from distar_core.lab import didr
from distar_core.lab.matched import found_in
from distar_core.lab.study import fact
from distar_core.toy.ring import reference


def test_the_tilt_itself_has_no_excess_and_the_reference_moved_has() -> None:
    def excess(points: torch.Tensor) -> float:
        return found_in(points, "linear", reference())["excess_kl"]

    rng = torch.Generator().manual_seed(0)
    assert excess(reference().tilt(didr.roles_reward("linear"), 1.0).sample(40_000, rng)) < 0.02
    moved = reference().sample(40_000, rng) + torch.tensor([0.9, 0.0])
    assert excess(moved) > 0.3
    assert math.isinf(excess(moved + 10))


@pytest.mark.parametrize("reward", ["linear", "mode"])
@pytest.mark.parametrize("method", [didr.EXACT, didr.PROXY])
def test_a_short_run_gives_the_columns_that_are_used(reward: str, method: str) -> None:
    setting = {"reward_name": reward, "method": method, "reward_scale": 1.0, "seed": 0, "steps": 3}
    found = didr.measure(setting)
    assert {"reward", "excess_kl", "modes", "off_support"} <= set(found)


def test_a_run_that_diverges_is_a_row_without_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object, **__: object) -> None:
        raise NonFiniteError("lost")

    monkeypatch.setattr(didr, "train", lost)
    setting = {"reward_name": "mode", "method": "kl-one", "reward_scale": 1.0, "seed": 0, "steps": 3}
    found = didr.measure(setting)
    assert all(math.isnan(value) for value in found.values())
    assert {"reward", "excess_kl", "modes", "off_support"} <= set(found)


def made_up(excess: dict[str, float]) -> list[dict]:
    return [
        setting
        | {"reward": 0.5 + 0.01 * setting["seed"], "excess_kl": excess[setting["method"]] + 0.01 * setting["seed"]}
        for setting in didr.settings("full")
    ]


def test_the_facts_follow_the_numbers() -> None:
    names = list(didr.ROWS)
    rows = made_up({name: 0.1 * (k + 1) for k, name in enumerate(names)})
    found = didr.facts(rows)
    for k, name in enumerate(names):
        for reward in didr.SCALES:
            for strength in range(3):
                assert found[fact(reward, name, strength)] == pytest.approx(0.1 * (k + 1) + 0.02)
    assert found["linear_kl_x0_0_low"] < found["linear_kl_x0_0"] < found["linear_kl_x0_0_high"]
    assert found["start"] == didr.start_kl()
    far = didr.facts([row | {"excess_kl": math.inf} if row["method"] == names[0] else row for row in rows])
    assert math.isinf(far[fact("mode", names[0], 2)])
    assert didr.picture(rows).png()
