"""What is said of a run from its files, on logs of real runs: healthy ones are fine, and each failure is an alarm.

The recorded runs are in the plane, of 200 steps after 100 of warm-up, from a generator that `ring.distilled(reference(), steps=600)`
made: ToyRecipe.read({"steps": 200, "warmup": 100, "assistant_updates": 2, **KEYS}), with KEYS as in TOY.
"""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from distar_core.cli.main import app
from distar_core.cli.watch import ALARMED, duration
from distar_core.runs.watch import look_at, read_log, read_panels

RECORDED = Path(__file__).parent / "recorded"
TOY = {
    "healthy": {},
    "reward-only": {"method": "reward-only"},
    "loud": {"reward_scale": 8.0},
    "slow": {"assistant_lr": 1e-5},
    "frozen": {"assistant_lr": 1e-9},
}
STALE, RUNAWAY, ALIKE, COLLAPSE = "stale assistant", "runaway reward", "all rewards alike", "collapse"
STRONG = "strong reward"
SATURATION, CLIPPED = "saturation", "clipped"


def states(folder):
    return {sign.name: sign.state for sign in look_at(folder).signs}


@pytest.mark.parametrize("name", TOY)
def test_a_recorded_run_is_whole(name):
    report = look_at(RECORDED / name)
    assert report.finished
    assert report.steps == 200
    assert report.left == 0
    assert report.seconds > 0


def test_a_healthy_run_is_fine():
    found = states(RECORDED / "healthy")
    assert {found[name] for name in (STALE, STRONG, RUNAWAY, ALIKE)} == {"fine"}
    assert {found[name] for name in (COLLAPSE, SATURATION, CLIPPED)} == {"not known yet"}, "the plane has no panels"
    assert look_at(RECORDED / "healthy").worst == "fine"


@pytest.mark.parametrize(
    ("name", "alarms"),
    [
        ("slow", {STALE, RUNAWAY, ALIKE}),
        ("frozen", {STALE, STRONG, RUNAWAY, ALIKE}),
        ("loud", {RUNAWAY, ALIKE}),
        ("reward-only", {RUNAWAY, ALIKE}),
    ],
)
def test_a_failure_is_an_alarm(name, alarms):
    """A stale assistant holds nothing, so that its reward runs away as that of reward-only; one that never moves sees no gap, and
    its regularizer has no pull."""
    assert {sign for sign, state in states(RECORDED / name).items() if state == "alarm"} == alarms
    assert look_at(RECORDED / name).worst == "alarm"


def test_of_an_assistant_nothing_is_said_where_none_learns():
    assert states(RECORDED / "reward-only")[STALE] == "not known yet"


# On logs that are changed.


def rewrite(folder, change, rows=None):
    """Change every row of a folder's log, change(number, row) -> other values; keep so many rows."""
    with open(folder / "log.csv", newline="") as file:
        reader = csv.DictReader(file)
        found, names = list(reader)[:rows], reader.fieldnames
    with open(folder / "log.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(row | change(number, row) for number, row in enumerate(found))


@pytest.fixture
def changed(tmp_path):
    """changed(gap_floor=1.0): a copy of a recorded run with other values in its columns; None leaves them empty."""

    def copy(rows=None, name="healthy", **columns):
        folder = tmp_path / "run"
        shutil.copytree(RECORDED / name, folder)
        written = {key: "" if value is None else value for key, value in columns.items()}
        rewrite(folder, lambda number, row: written, rows)
        return folder

    return copy


def sign_of(folder, name):
    return next(sign for sign in look_at(folder).signs if sign.name == name)


def test_an_assistant_that_is_the_reference_is_stale(changed):
    sign = sign_of(changed(gap_norm=0.0, lag=None), STALE)
    assert (sign.measured, sign.state) == (math.inf, "alarm")


def test_pulls_are_compared_and_a_regularizer_without_one_holds_nothing(changed):
    folder = changed()
    for reward, regularizer, wanted, state in (
        (4.0, 1.0, 4.0, "fine"),
        (6.0, 1.0, 6.0, "look"),
        (10.0, 0.5, 20.0, "alarm"),
        (1.0, 0.0, math.inf, "alarm"),
        (1.0, "", None, "not known yet"),
    ):
        pulls = {"pull_reward": reward, "pull_regularizer": regularizer}
        rewrite(folder, lambda number, row, pulls=pulls: pulls)
        sign = sign_of(folder, STRONG)
        assert (sign.measured, sign.state) == (wanted, state)


def test_a_lag_that_chance_explains_is_fine_and_one_within_rounding_is_not_judged(changed):
    assert sign_of(RECORDED / "slow", STALE).state == "alarm"
    folder = changed(name="slow", gap_floor=1.0)
    sign = sign_of(folder, STALE)
    assert (sign.measured, sign.state) == (None, "not known yet")
    assert "gap_floor" in sign.advice


def test_a_lag_is_judged_on_what_is_sure_of_it(changed):
    """A mean of 1.2 with a spread of 2 in 50 steps is 1.2 ± 0.28, and at least 0.35; with a spread of 0 it is an alarm."""
    folder = changed()
    for spread, wanted in ((2.0, 1.2 - 3 * 2.0 * math.sqrt(50 / 49) / math.sqrt(50)), (0.0, 1.2)):
        rewrite(folder, lambda number, row, spread=spread: {"lag": 1.2 + spread * (-1) ** number})
        assert sign_of(folder, STALE).measured == pytest.approx(wanted, rel=1e-6)


def test_before_there_are_steps_enough_nothing_is_known(changed):
    report = look_at(changed(rows=100 + 19))
    assert {sign.state for sign in report.signs} == {"not known yet"}
    assert (report.step, report.finished) == (18, False)
    assert report.left == pytest.approx(181 * report.seconds)
    assert report.values == ()


def test_numbers_of_panels_are_compared_with_the_first(changed):
    folder = changed()
    (folder / "panels").mkdir()
    first = {"step": 0, "diversity": 0.2, "saturation": 0.2, "clipped": 0.01, "gap": {"140": 0.1}, "seconds": {}}
    cases = [
        ({"diversity": 0.19, "saturation": 0.19, "clipped": 0.02}, ["fine", "fine", "fine"]),
        ({"diversity": 0.09, "saturation": 0.25, "clipped": 0.08}, ["look", "look", "look"]),
        ({"diversity": 0.03, "saturation": 0.31, "clipped": 0.31}, ["alarm", "alarm", "alarm"]),
    ]
    for last, wanted in cases:
        rows = [first, first | {"step": 100, "diversity": 1.0}, first | {"step": 200} | last]
        (folder / "panels" / "panels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = {sign.name: sign for sign in look_at(folder).signs}
        assert found[COLLAPSE].measured == pytest.approx(1 - last["diversity"] / 0.2)
        assert found[CLIPPED].measured == pytest.approx(last["clipped"] - 0.01)
        assert [found[name].state for name in (COLLAPSE, SATURATION, CLIPPED)] == wanted
    (folder / "panels" / "panels.jsonl").write_text(json.dumps(first) + "\n")
    assert {states(folder)[name] for name in (COLLAPSE, SATURATION, CLIPPED)} == {"not known yet"}


# While a run is at work, and where there is none.


def test_a_row_that_is_being_written_is_left_out(changed):
    folder = changed()
    whole = read_log(folder)
    with open(folder / "log.csv", "a") as file:
        file.write("200,0.0")
    assert read_log(folder) == whole


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("nothing", None, "log.csv"),
        ("begun", "step,seconds\n", "no step yet"),
        ("foreign", "step,seconds,price\n0,1,2\n", "price"),
        ("torn", "step,seconds\n0,one\n", "line 2"),
    ],
)
def test_what_is_no_log_is_refused_in_a_sentence(tmp_path, name, text, named):
    folder = tmp_path / name
    folder.mkdir()
    if text is not None:
        (folder / "log.csv").write_text(text)
    result = CliRunner().invoke(app, ["watch", str(folder)])
    assert result.exit_code == 1
    assert str(folder) in result.stderr
    assert named in result.stderr
    assert result.stderr.count("\n") == 1


def test_panels_that_are_none_are_refused(tmp_path):
    (tmp_path / "panels").mkdir()
    (tmp_path / "panels" / "panels.jsonl").write_text('{"step": 0}\n{"steps": 1}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_panels(tmp_path)


# The command.


def test_watch_tells_numbers_signs_and_what_to_do():
    result = CliRunner().invoke(app, ["watch", str(RECORDED / "slow")])
    assert result.exit_code == ALARMED
    for word in ("200 of 200 steps", "finished", STALE, "alarm", "assistant_lr", "gap_norm"):
        assert word in result.stdout
    calm = CliRunner().invoke(app, ["watch", str(RECORDED / "healthy")])
    assert calm.exit_code == 0
    assert "assistant_lr" not in calm.stdout


def test_json_is_an_object_with_every_number():
    result = CliRunner().invoke(app, ["watch", str(RECORDED / "frozen"), "--json"])
    assert result.exit_code == ALARMED
    found = json.loads(result.stdout)
    assert (found["step"], found["steps"], found["worst"]) == (199, 200, "alarm")
    assert [sign["name"] for sign in found["signs"]] == [STALE, STRONG, RUNAWAY, ALIKE, COLLAPSE, SATURATION, CLIPPED]
    assert set(found["values"]["reward"]) == {"start", "now"}


def test_following_ends_with_the_run(monkeypatch, changed):
    folder = changed(rows=250)
    waited = []

    def sleep(seconds):
        waited.append(seconds)
        shutil.copy(RECORDED / "healthy" / "log.csv", folder / "log.csv")

    monkeypatch.setattr("distar_core.cli.watch.time.sleep", sleep)
    result = CliRunner().invoke(app, ["watch", str(folder), "--every", "30", "--json"])
    assert waited == [30]
    assert [json.loads(line)["step"] for line in result.stdout.splitlines()] == [149, 199]


def test_nothing_is_written(tmp_path):
    shutil.copytree(RECORDED / "healthy", tmp_path / "run")
    before = {path: os.stat(path).st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    CliRunner().invoke(app, ["watch", str(tmp_path / "run")])
    assert {path: os.stat(path).st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_durations():
    assert [duration(seconds) for seconds in (5.2, 119, 150, 9000)] == ["5 s", "119 s", "2.5 min", "2.5 h"]
