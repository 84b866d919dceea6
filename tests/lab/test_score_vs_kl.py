"""The study behind “score against KL, fairly”: settings, measures, facts and picture that follow the numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from distar_core.lab import matched
from distar_core.lab import score_vs_kl as study
from distar_core.lab.score_vs_kl import EXACT, FIXED, HUBER, HUBER_MOVING, L2, L2_MOVING, LONG, NETWORK
from distar_core.toy.frontier import aims
from distar_core.toy.records import START
from distar_core.toy.ring import REWARDS, reference
from distar_core.toy.summary import KL_SIGMA, WINDOW, summarise
from distar_core.truth.grid import kl_at_level, tilt_on_grid

METRICS = {
    "reward": 0.6,
    "modes": 5.0,
    "spread": 0.24,
    "off_support": 0.03,
    "kl": 0.5,
    "excess_kl": 0.1,
    "residual": 0.0,
}
RING_SIDE = {"world": "ring", "reward_name": "side"}


def run(kind: str, name: str, seed: float, *, aim: str = "middle", scale: float = 0.66, **found: float) -> dict:
    keys = {"kind": kind, **RING_SIDE, "regularizer": name, "aim": aim, "reward_scale": scale, "seed": seed}
    return keys | METRICS | found


def test_the_full_profile_has_five_seeds_of_every_kind_that_is_trained():
    full = study.settings("full")
    for kind, rows in (
        (kind, [row for row in full if row["kind"] == kind and row["regularizer"] != START])
        for kind in (NETWORK, EXACT, LONG)
    ):
        settings = {(r["world"], r["reward_name"], r["regularizer"], r["reward_scale"]) for r in rows}
        assert len(rows) == 5 * len(settings), kind
        assert {row["seed"] for row in rows} == set(range(5))
    assert {row["regularizer"] for row in full if row["kind"] in (EXACT, LONG)} == set(study.FOUR)


def test_the_targets_lie_their_shares_of_the_way_to_the_best():
    for reward_name in ("mode", "side"):
        assert list(study.TARGETS["ring", reward_name].values()) == aims(reward_name, tuple(study.SHARES.values()))
    points = matched.uneven().sample(100_000, torch.Generator().manual_seed(0))
    start = float(REWARDS["side"](points).mean())
    for aim, share in study.SHARES.items():
        assert study.TARGETS["uneven", "side"][aim] == pytest.approx(start + share * (1 - start), abs=1e-3)


def test_a_differentiated_row_changes_the_law_alone():
    moving, frozen = study.METHODS[L2_MOVING], study.METHODS[L2]
    assert (moving.law, frozen.law) == ("differentiated", "frozen")
    assert replace(moving, name=frozen.name, law=frozen.law) == frozen


def test_the_affine_maps_start_close_to_their_world():
    """64 maps: the KL of their mixture to the reference is below 0.2, where one map a mode moved by one deviation has more."""
    for mixture in (reference(), matched.uneven()):
        law = study.affine_start(mixture, seed=0).mixture()
        points = law.sample(20_000, torch.Generator().manual_seed(0)).detach()
        assert summarise(points, points[:, 0], mixture).kl < 0.2
        shifted = points + torch.tensor([0.25, 0.0])
        assert summarise(shifted, shifted[:, 0], mixture).kl > 0.25


@pytest.mark.parametrize(
    ("kind", "name", "steps"), [(EXACT, "kl-one", 3), (FIXED, HUBER_MOVING, 2), (NETWORK, HUBER, 2)]
)
def test_measure_returns_what_picture_and_facts_use(kind, name, steps):
    setting = {"kind": kind, **RING_SIDE, "regularizer": name, "aim": "middle", "reward_scale": 0.3, "seed": 0.0}
    found = study.measure(setting | {"steps": float(steps)})
    assert set(METRICS) <= set(found)
    assert all(math.isfinite(value) for value in found.values())


def test_excess_is_zero_for_a_tilt_and_the_difference_of_two_kls_elsewhere():
    """A tilt has no excess (1e-9). For another mass KL to the tilt of equal reward is the KL to the reference less that of
    the tilt: exact on clean masses, and to 0.01 with both blurred."""
    mixture, values = reference(), REWARDS["side"](WINDOW.points)
    own = WINDOW.mass(mixture.to(torch.float64).log_density)
    values = values.reshape(own.shape)
    tilt = tilt_on_grid(own, values, 0.9)
    assert abs(matched.excess_kl(tilt, WINDOW, "side", mixture)) < 1e-9
    other = tilt_on_grid(own, values + 0.5 * WINDOW.points[:, 1].reshape(own.shape), 0.9)
    direct = matched.excess_kl(other, WINDOW, "side", mixture)
    kl = kl_at_level(other, mixture, WINDOW, KL_SIGMA)
    difference = matched.excess_by_difference("ring", "side", float((other * values).sum()), kl)
    assert direct > 0.15
    assert difference == pytest.approx(direct, abs=0.01)


def test_the_facts_have_the_excess_of_networks_and_fixed_points():
    def found(excess: float) -> float:
        rows = [
            run(NETWORK, L2_MOVING, seed, aim=aim, reward=reward, excess_kl=excess)
            for seed in range(3)
            for aim, reward in (("middle", 0.49), ("high", 0.7))
        ]
        return study.facts(rows)["excess_ring_side_l2_differentiated"]

    assert (found(0.01), found(5.0)) == pytest.approx((0.01, 5.0))
    recorded = study.facts([])
    assert recorded["known_ring_mode_kl_x0"] > recorded["known_ring_mode_l2"] + 0.5
    assert recorded["step_ring_mode_l2_star"] == pytest.approx(
        recorded["known_ring_mode_star"] - recorded["known_ring_mode_l2"]
    )


def test_the_verdict_on_longer_runs_follows_the_numbers():
    """KL with w = 1 under “side” misses its fixed point at the middle aim in the recorded runs."""
    near, far = (study.facts([run(LONG, "kl-one", seed, reward=reward) for seed in range(3)]) for reward in (0.5, 0.3))
    assert (near["tried_long"], near["closed_long"], near["tried_exact"]) == (1, 1, 0)
    assert (far["tried_long"], far["closed_long"]) == (1, 0)


def test_the_picture_has_a_line_of_five_panels_for_each_band():
    rows = [run(kind, "kl-one", seed) for kind in (LONG, EXACT) for seed in range(2)]
    picture = study.picture(rows, [("ring", "side")])
    assert len(picture.figure.axes) == 5
    assert "ring “side”" in picture.alt
