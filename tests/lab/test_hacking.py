"""The study of the panel's alarms: whose runs it takes, what it counts, one measured run."""

from __future__ import annotations

import math
from typing import Any

import pytest

from distar_core.evaluation.hacking import CHANGES, EVIDENCE, NUMBERS
from distar_core.lab import hacking as study
from distar_core.lab import world


def run(
    method: str, scale: float, seed: int, *, gain: float, gold: float, evidence: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A run with a change of proxy and gold, ± 0.1, and some evidence."""
    row: dict[str, Any] = {"method": method, "weight": "", "reward_scale": scale, "seed": seed}
    row |= {f"evidence_{one}": float(one in evidence) for one in EVIDENCE}
    for line in (*study.SHOWN, *CHANGES):
        mean = {"proxy": gain, study.GOLD: gold, "shift": 0.8 * gain, "jpeg": gain, "blur": gain}.get(line, 0.0)
        row |= {line: mean, f"{line}_low": mean - 0.1, f"{line}_high": mean + 0.1}
    return row


ROWS = [
    *(run("reward-only", 1.0, seed, gain=2.0, gold=-0.3, evidence=("falls", "style")) for seed in range(2)),
    run("diff-instruct*", 3.0, 0, gain=1.5, gold=0.05, evidence=("falls", "style", "detail")),
    run("diff-instruct*", 3.0, 1, gain=1.5, gold=-0.2, evidence=("falls",)),
    run("sim", 0.0, 0, gain=0.05, gold=0.2),
    run("sim", 0.0, 1, gain=0.05, gold=-0.2, evidence=("falls", "conflict")),
]


def test_the_panel_is_tried_on_the_runs_of_the_study_world() -> None:
    keys = ("method", "weight", "reward_scale", "cfg_scale", "seed", "steps", "batch")
    for profile in ("ci", "fast", "full"):
        found, expected = study.settings(profile), world.settings(profile)
        assert [[row[key] for key in keys] for row in found] == [[row[key] for key in keys] for row in expected]


def test_verdicts_are_those_of_the_rule() -> None:
    assert [study.verdict(row) for row in ROWS] == ["hacked", "hacked", "hacked", "doubtful", "no sign", "worse"]


def test_alarms_are_right_where_gold_fell_with_its_interval() -> None:
    found = study.facts(ROWS)
    assert (found["runs"], found["hacked"]) == (6, 4)
    assert (found["right_alarms"], found["wrong_alarms"], found["missed"], found["right_silence"]) == (3, 1, 1, 1)
    assert (found["doubtful"], found["doubtful_hacked"], found["worse_sim"]) == (1, 1, 1)
    assert found["kept_least"] == pytest.approx(0.8)
    assert (found["right_falls"], found["wrong_falls"]) == (4, 1)
    assert (found["right_detail"], found["wrong_detail"]) == (0, 1)
    assert (found["hacked_star_3"], found["alarms_star_3"], found["style_star_3"]) == (1, 1, 1)
    assert [found[f"gold_star_3{end}"] for end in ("", "_low", "_high")] == pytest.approx([-0.075, -0.2, 0.05])


def test_the_figure_has_an_arm_per_row_and_a_panel_per_seed() -> None:
    picture = study.picture(ROWS)
    axes = picture.figure.axes
    assert [panel.get_title() for panel in axes[:2]] == ["seed 0", "seed 1"]
    labels = [label.get_text() for label in axes[0].get_yticklabels()]
    assert labels == ["reward only", "DI*, guidance inside, scale 3", "SIM (no reward)"]


def test_a_run_is_trained_and_has_every_line() -> None:
    found = study.measure(study.settings("ci")[0])
    lines = ["proxy", *study.JUDGES[1:], "conflict", "wrong-prompt", "margin", *CHANGES, *NUMBERS]
    for line in (
        *(f"world:{one}" if one in study.JUDGES else one for one in lines),
        "diversity",
        "path-length",
        "distance",
    ):
        assert found[f"{line}_low"] <= found[line] <= found[f"{line}_high"]
    assert found["proxy_now"] - found["proxy_start"] == pytest.approx(found["proxy"])
    assert found["distance"] > 0
    assert not any(math.isnan(value) for value in found.values())
    assert {name for name in found if name.startswith("evidence_")} == {f"evidence_{one}" for one in EVIDENCE}
