"""The commands that are not of one room, and what all commands refuse alike."""

import json

import pytest
from typer.testing import CliRunner

from distar_core.cli.main import app
from distar_core.lab import bench_toy


@pytest.mark.parametrize(
    ("words", "value", "remedy"),
    [
        (("demo", "--profile", "huge"), "'huge'", "full"),
        (("world", "build", "a", "--profile", "huge"), "'huge'", "full"),
        (("lab", "theorem"), "'theorem'", "stability"),
        (("lab", "stability", "--profile", "huge"), "'huge'", "fast"),
        (("bench", "flux"), "'flux'", "inference"),
        (("train", "toy", "a", "--method", "ppo"), "'ppo'", "reward-only"),
        (("train", "toy", "a", "--reward", "nice"), "'nice'", "mode"),
        (("train", "toy", "a", "--reward-scale", "inf"), "inf", "finite"),
        (("train", "toy", "a", "--method", "didr"), "didr", "didr-proxy"),
        (("train", "world", "a", "--method", "ppo"), "'ppo'", "reward-only"),
        (("export", "nothing", "a"), "nothing", "world"),
        (("world", "evaluate", "a", "nothing"), "nothing", "start a new one"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_what_can(distar, monkeypatch, tmp_path, words, value, remedy):
    monkeypatch.chdir(tmp_path)
    result = distar(*words)
    assert result.exit_code == 1
    assert result.stderr.startswith("distar: ")
    assert result.stderr.count("\n") == 1
    assert value in result.stderr
    assert remedy in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_bench_prints_ratios_as_json(monkeypatch, tmp_path):
    whole = bench_toy.bench_toy
    monkeypatch.setattr(bench_toy, "import_seconds", lambda module: 1.0)
    monkeypatch.setattr(bench_toy, "bench_toy", lambda: whole(steps=2, batch=8, rounds=1))
    result = CliRunner().invoke(app, ["bench", "toy", "--out", str(tmp_path / "bench.json")])
    numbers = json.loads(result.stdout)
    assert numbers == json.loads((tmp_path / "bench.json").read_text())
    assert numbers["post_train_over_bare"] > 0
    assert numbers["import_distar_core_over_torch"] == 1.0


def test_a_benchmark_that_cannot_be_written_is_not_run(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_toy, "bench_toy", lambda: pytest.fail("ran"))
    (tmp_path / "file").write_text("mine")
    result = CliRunner().invoke(app, ["bench", "toy", "--out", str(tmp_path / "file" / "bench.json")])
    assert result.exit_code == 1
    assert str(tmp_path / "file") in result.output


def test_a_folder_of_somebody_else_is_left_alone(distar, tmp_path):
    (tmp_path / "notes.txt").write_text("mine", "utf-8")
    (tmp_path / "config.json").write_text("mine", "utf-8")  # every model of Hugging Face has one
    for words in (
        ("train", "toy", tmp_path),
        ("train", "world", tmp_path),
        ("demo", "--profile", "ci", "--folder", tmp_path),
        ("world", "build", tmp_path, "--profile", "ci"),
    ):
        result = distar(*words)
        assert result.exit_code == 1
        assert "holds other files; choose a new or empty one" in result.output
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"notes.txt": "mine", "config.json": "mine"}
