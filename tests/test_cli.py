"""The command line: what it prints, and how it refuses."""

import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from distar_core import bench, cli, doctor, toy
from distar_core.cli import app


@pytest.fixture
def distar(monkeypatch):
    """Run a command with a distillation of a few steps."""
    whole = toy.distilled
    monkeypatch.setattr(toy, "distilled", lambda mixture, **options: whole(mixture, steps=4))
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def said(result):
    return " ".join((result.output + result.stderr).split())


def test_doctor_lists_what_is_there():
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    for word in ("torch", "matplotlib", "free disk", "accelerator"):
        assert word in result.output


def test_doctor_says_how_to_mend_and_keeps_its_brackets(monkeypatch):
    monkeypatch.setitem(doctor.PACKAGES, "no-such-package", "models")
    monkeypatch.setattr(cli, "console", Console(width=200))
    result = CliRunner().invoke(app, ["doctor"])
    assert 'pip install -e ".[models]"' in result.output
    assert result.exit_code == 0, "extras are not fatal"
    monkeypatch.setitem(doctor.PACKAGES, "no-such-package", "")
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 1


def test_an_unknown_profile_benchmark_method_or_reward_is_one_sentence(distar, tmp_path):
    for words, expected in (
        (("demo", "--profile", "huge"), "profile 'huge' is unknown; known are ci, demo, full"),
        (("bench", "sdxl"), "benchmark 'sdxl' is unknown; known is toy"),
        (("train", tmp_path / "a", "--method", "ppo"), "method 'ppo' is unknown; known are reward-only"),
        (("train", tmp_path / "a", "--reward", "nice"), "reward 'nice' is unknown; known are mode"),
    ):
        result = distar(*words)
        assert result.exit_code == 1
        assert expected in said(result)
        assert "Traceback" not in said(result)
    assert list(tmp_path.iterdir()) == []


def test_train_stops_at_its_steps_and_resumes_only_what_exists(distar, tmp_path):
    words = ("train", tmp_path / "run", "--steps", 4, "--save-every", 2)
    assert distar(*words).exit_code == 0
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"checkpoint.safetensors", "config.json", "log.csv"}
    again = distar(*words)
    assert again.exit_code == 1
    assert "already holds a run" in said(again)
    assert distar(*words, "--resume").exit_code == 0
    missing = distar("train", tmp_path / "typo", "--resume")
    assert missing.exit_code == 1
    assert "there is no checkpoint" in said(missing)
    assert not (tmp_path / "typo").exists()


def test_a_reward_that_is_not_used_is_said(distar, tmp_path):
    result = distar("train", tmp_path / "run", "--method", "sim", "--steps", 2)
    assert result.exit_code == 0
    assert "--reward-scale are not used" in said(result)


def test_bench_prints_ratios_as_json(monkeypatch, tmp_path):
    whole = bench.bench_toy
    monkeypatch.setattr(bench, "import_seconds", lambda module: 1.0)
    monkeypatch.setattr(bench, "bench_toy", lambda: whole(steps=2, batch=8, rounds=1))
    result = CliRunner().invoke(app, ["bench", "toy", "--out", str(tmp_path / "bench.json")])
    numbers = json.loads(result.output)
    assert numbers == json.loads((tmp_path / "bench.json").read_text())
    assert numbers["post_train_over_bare"] > 0
    assert numbers["import_distar_core_over_torch"] == 1.0


def test_a_folder_with_brackets_is_named_as_it_is(distar, monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "console", Console(width=500))
    result = distar("train", tmp_path / "run[red]", "--steps", 2)
    assert result.exit_code == 0
    assert "run[red]" in said(result)


def test_a_resume_that_cannot_work_is_refused(distar, tmp_path):
    words = ("train", tmp_path / "run", "--steps", 2)
    assert distar(*words).exit_code == 0
    other = distar("train", tmp_path / "run", "--steps", 2, "--seed", 5, "--resume")
    assert other.exit_code == 1
    assert "seed is 5 here but 0 in checkpoint" in said(other)
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"garbage")
    broken = distar(*words, "--resume")
    assert broken.exit_code == 1
    assert "truncated or no safetensors file" in said(broken)
    (tmp_path / "file").write_text("mine")
    unwritable = distar("train", tmp_path / "file" / "run", "--steps", 2)
    assert unwritable.exit_code == 1
    assert "cannot be written" in said(unwritable)
    for result in (other, broken, unwritable):
        assert "Traceback" not in said(result)
        assert result.stderr.count("distar:") == 1


@pytest.mark.parametrize("option", ["--steps", "--save-every"])
def test_counts_below_one_are_refused(option, distar, tmp_path):
    result = distar("train", tmp_path / "run", option, 0)
    assert result.exit_code == 2
    assert option in said(result)
    assert list(tmp_path.iterdir()) == []
