"""The frame of the experiments: runs are kept, gone on with, and never mixed with those of another experiment."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from distar_core.figures import charts
from distar_core.figures.picture import Picture
from distar_core.lab import STUDIES, Row, Study, over_seeds, perform, read_rows, values_of, where
from distar_core.lab.study import curve, fact
from distar_core.runs.progress import Progress


def settings(profile: str) -> list[Row]:
    return [
        {"method": name, "lr": rate, "seed": seed}
        for name in ("one, with a comma", "two")
        for rate in (0.1, 1 / 3)
        for seed in range({"ci": 2, "fast": 3, "full": 5}[profile])
    ]


def measure(setting: Row) -> Mapping[str, float]:
    with open(os.environ["COUNTED_RUNS"], "a", encoding="utf-8") as file:
        file.write("run\n")
    return {"reward": setting["lr"] + setting["seed"], "kl": math.inf if setting["lr"] > 0.2 else 0.0}


def picture(rows: Sequence[Row]) -> Picture:
    return charts.lines(
        {"": [curve("two", where(rows, method="two"), "lr", "reward")]},
        alt="Reward against the learning rate.",
        xlabel="lr",
        ylabel="reward",
    )


STUDY = Study("small", "What?", "This.", settings, measure, picture, lambda rows: {"runs": len(rows)})


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "counted"
    path.touch()
    monkeypatch.setenv("COUNTED_RUNS", str(path))
    monkeypatch.setattr(
        "distar_core.lab.study.in_parallel", lambda function, arguments: (function(argument) for argument in arguments)
    )
    return lambda: len(path.read_text().splitlines())


def test_a_study_leaves_csv_and_figure_and_runs_nothing_twice(tmp_path, counted) -> None:
    told = []
    rows = perform(STUDY, "fast", tmp_path, tell=told.append)
    assert (tmp_path / "small.png").read_bytes()[:4] == b"\x89PNG"
    assert told == [Progress("runs", done, 12) for done in range(13)]
    assert len(rows) == counted() == 12
    assert read_rows("small", tmp_path / "small.csv") == rows
    assert perform(STUDY, "fast", tmp_path) == rows
    assert counted() == 12


def test_an_interrupted_study_goes_on_and_another_profile_loses_nothing(tmp_path, counted) -> None:
    perform(STUDY, "ci", tmp_path)
    assert counted() == 8
    rows = perform(STUDY, "full", tmp_path)
    assert (counted(), len(rows)) == (20, 20)
    assert len(perform(STUDY, "ci", tmp_path)) == 8
    assert len(read_rows("small", tmp_path / "small.csv")) == counted() == 20


def test_runs_of_another_experiment_are_refused(tmp_path, counted) -> None:
    (tmp_path / "small.csv").write_text("colour,seed,reward\nred,0,1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"columns.*choose another folder"):
        perform(STUDY, "ci", tmp_path)
    assert "red" in (tmp_path / "small.csv").read_text(encoding="utf-8")
    assert counted() == 0


def test_an_unknown_profile_lists_the_known(tmp_path) -> None:
    with pytest.raises(ValueError, match="ci, fast, full"):
        perform(STUDY, "huge", tmp_path)


def test_an_interval_over_seeds_needs_finite_values() -> None:
    rows = [{"kl": value} for value in (1.0, 2.0, 3.0)]
    interval = over_seeds(rows, "kl")
    assert interval.low < interval.mean == 2.0 < interval.high
    assert math.isnan(over_seeds([*rows, {"kl": math.inf}], "kl").mean)


def test_rows_by_value() -> None:
    rows = [{"a": "x", "b": 1.0}, {"a": "y", "b": 2.0}, {"a": "x", "b": 2.0}]
    assert where(rows, a="x", b=2.0) == [rows[2]]
    assert values_of(rows, "a") == ["x", "y"]


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_enough_seeds_and_different_settings(name: str) -> None:
    study = STUDIES[name]
    assert study.name == name
    for profile in ("ci", "fast", "full"):
        runs = study.settings(profile)
        assert len({tuple(run) for run in runs}) == 1, "every run has the same columns"
        assert len({tuple(run.values()) for run in runs}) == len(runs)
    assert all(len(prose) > 20 for prose in (study.question, study.prediction))
    # a run in the miniature world takes minutes, one on the toy seconds
    assert fewest_seeds(study) >= (3 if name in ("world", "world-cross", "hacking") else 5)


def fewest_seeds(study: Study) -> int:
    """The smallest number of seeds of a setting of the full profile, but for the kinds that have no randomness."""
    seeds: dict[tuple, set] = {}
    for run in study.settings("full"):
        rest = tuple(value for key, value in run.items() if key != "seed")
        seeds.setdefault(rest, set()).add(run["seed"])
    deterministic = {"fixed-point", "distilled"}
    return min(len(found) for rest, found in seeds.items() if not deterministic & set(rest))


def test_control_of_the_seeds() -> None:
    """One setting with two seeds among settings with five is found."""
    one = {"method": "three", "lr": 0.1}
    mixed = replace(STUDY, settings=lambda profile: [*settings(profile), one | {"seed": 0}, one | {"seed": 1}])
    assert (fewest_seeds(STUDY), fewest_seeds(mixed)) == (5, 2)


def test_the_name_of_a_fact_is_an_identifier_and_tells_numbers_apart() -> None:
    assert fact("gold", "star-0.3", 7.5) == "gold_star_0p3_7p5"
    assert fact("at", 0.3) != fact("at", 0, 3)
    assert fact("a", "off-data", 0.5).isidentifier()
