"""The command line: what it prints, and how it refuses."""

import io
import json
import os
import shlex
import shutil
import signal
import sys
from importlib.resources import files

import pytest
from rich.console import Console
from typer.testing import CliRunner

from distar_core import extras
from distar_core.cli import main, terminal
from distar_core.cli import toy as cli_toy
from distar_core.cli.main import app
from distar_core.lab import bench_toy
from distar_core.methods import ALIASES, METHODS
from distar_core.toy import demo
from distar_core.toy import ring as toy


@pytest.fixture
def distar(monkeypatch):
    """Run a command with a distillation of a few steps."""
    whole = toy.distil
    monkeypatch.setattr(toy, "distil", lambda mixture, **options: whole(mixture, steps=4))
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def said(result):
    return " ".join((result.output + result.stderr).split())


def test_doctor_lists_what_is_there():
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    for word in ("torch", "matplotlib", "free disk", "accelerator"):
        assert word in result.output


def test_doctor_says_how_to_mend_and_keeps_its_brackets(monkeypatch):
    monkeypatch.setitem(extras.PACKAGES, "no-such-package", "models")
    monkeypatch.setattr(terminal, "console", Console(width=80))
    result = CliRunner().invoke(app, ["doctor"])
    assert ' -m pip install -e ".[models]"\n' in result.output
    (row,) = [line for line in result.output.splitlines() if "no-such-package" in line]
    assert "not needed yet" in row
    assert result.exit_code == 0, "extras are not fatal"
    monkeypatch.setitem(extras.PACKAGES, "no-such-package", "")
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert " -m pip install -e .\n" in result.output


def test_an_unknown_profile_benchmark_method_or_reward_is_one_sentence(distar, tmp_path):
    for words, expected in (
        (("demo", "--profile", "huge"), "profile 'huge' is unknown; known are ci, demo, full"),
        (("bench", "sdxl"), "benchmark 'sdxl' is unknown; known are toy and world"),
        (("train", "toy", tmp_path / "a", "--method", "ppo"), "method 'ppo' is unknown; known are reward-only"),
        (("train", "toy", tmp_path / "a", "--reward", "nice"), "reward 'nice' is unknown; known are mode"),
        (("train", "toy", tmp_path / "a", "--reward-scale", "inf"), "--reward-scale inf is negative or not finite"),
        (("train", "toy", tmp_path / "a", "--method", "didr"), "no toy reward has; use didr-proxy"),
    ):
        result = distar(*words)
        assert result.exit_code == 1
        assert expected in said(result)
        assert "Traceback" not in said(result)
    assert list(tmp_path.iterdir()) == []


def test_train_stops_at_its_steps_and_resumes_only_what_exists(distar, tmp_path):
    words = ("train", "toy", tmp_path / "run", "--steps", 4, "--save-every", 2)
    assert distar(*words).exit_code == 0
    left = {path.name for path in (tmp_path / "run").glob("[!.]*")}
    assert left == {"checkpoint.safetensors", "config.json", "log.csv", "samples.png"}
    again = distar(*words)
    assert again.exit_code == 1
    assert "already holds a run" in said(again)
    finished = distar(*words, "--resume")
    assert finished.exit_code == 0
    assert "is finished: all 4 steps are done; the learning rate decays over --steps" in said(finished)
    missing = distar("train", "toy", tmp_path / "typo", "--resume")
    assert missing.exit_code == 1
    assert "there is no checkpoint" in said(missing)
    assert not (tmp_path / "typo").exists()


def test_a_reward_that_is_not_used_is_said(distar, tmp_path):
    result = distar("train", "toy", tmp_path / "run", "--method", "sim", "--steps", 2)
    assert result.exit_code == 0
    assert "--reward-scale are not used" in said(result)


def test_bench_prints_ratios_as_json(monkeypatch, tmp_path):
    whole = bench_toy.bench_toy
    monkeypatch.setattr(bench_toy, "import_seconds", lambda module: 1.0)
    monkeypatch.setattr(bench_toy, "bench_toy", lambda: whole(steps=2, batch=8, rounds=1))
    result = CliRunner().invoke(app, ["bench", "toy", "--out", str(tmp_path / "bench.json")])
    numbers = json.loads(result.stdout)
    assert numbers == json.loads((tmp_path / "bench.json").read_text())
    assert numbers["post_train_over_bare"] > 0
    assert numbers["import_distar_core_over_torch"] == 1.0


def test_a_folder_with_brackets_is_named_as_it_is(distar, monkeypatch, tmp_path):
    monkeypatch.setattr(terminal, "console", Console(width=500))
    result = distar("train", "toy", tmp_path / "run[red]", "--steps", 2)
    assert result.exit_code == 0
    assert "run[red]" in said(result)


def test_what_cannot_work_is_refused_before_the_distillation(distar, monkeypatch, tmp_path):
    run = tmp_path / "run"
    assert distar("train", "toy", run, "--steps", 2).exit_code == 0
    shutil.copytree(run, tmp_path / "broken")
    (tmp_path / "broken" / "checkpoint.safetensors").write_bytes(b"garbage")
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(toy, "distil", lambda mixture, **_: pytest.fail("the distillation came first"))
    for words, expected in (
        ((run, "--steps", 2), "already holds a run; add --resume"),
        ((run, "--steps", 3, "--seed", 5, "--resume"), "has --steps 2, not 3 and --seed 0, not 5 (the learning rate"),
        ((run, "--steps", 2, "--method", "dmd", "--resume"), "has --method diff-instruct*, not dmd"),
        ((tmp_path / "broken", "--steps", 2, "--resume"), "truncated or no safetensors file"),
        ((tmp_path / "typo", "--resume"), "there is no checkpoint"),
        ((tmp_path / "file" / "run", "--steps", 2), "cannot be written"),
    ):
        refused = distar("train", "toy", *words)
        assert refused.exit_code == 1
        assert expected in said(refused)
        assert "Traceback" not in said(refused)
        assert refused.stderr.count("distar: ") == 1


def test_settings_that_the_folder_does_not_tell_are_left_to_the_checkpoint(distar, tmp_path):
    words = ("train", "toy", tmp_path / "run", "--steps", 2)
    assert distar(*words).exit_code == 0
    (tmp_path / "run" / "config.json").unlink()
    refused = distar(*words, "--seed", 5, "--resume")
    assert refused.exit_code == 1
    assert "seed is 5 here but 0 in checkpoint" in said(refused)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_names_the_command_that_goes_on(distar, monkeypatch, tmp_path, number, code):
    words = ("--method", "diff-instruct*", "--reward-scale", 0.3, "--steps", 4, "--seed", 4)
    assert distar("train", "toy", tmp_path / "whole", *words).exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr(toy, "no_conditions", lambda step, rows: os.kill(os.getpid(), number) if step == 1 else None)
        stopped = distar("train", "toy", tmp_path / "a run", *words)
    assert stopped.exit_code == code
    sentence, command = stopped.stderr.rstrip().split(" with: ")
    assert f"stopped by {number.name} after step 1;" in sentence
    assert "--method di-star" in command
    resumed = distar(*shlex.split(command)[1:])
    assert resumed.exit_code == 0, said(resumed)
    end, expected = ((tmp_path / name / "checkpoint.safetensors").read_bytes() for name in ("a run", "whole"))
    assert end == expected


def test_a_stop_outside_the_loop_is_one_sentence(distar, monkeypatch, tmp_path):
    def stop(*_, **__):
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(cli_toy, "draw_samples", stop)
    drawing = distar("train", "toy", tmp_path / "run", "--steps", 2)
    monkeypatch.setattr(toy, "distil", stop)
    distilling = distar("train", "toy", tmp_path / "other", "--steps", 2)
    for result, expected in ((drawing, "the run is finished"), (distilling, "nothing is kept")):
        assert result.exit_code == 130
        assert result.stderr.startswith("distar: stopped by SIGINT while ")
        assert expected in result.stderr
        assert result.stderr.count("\n") == 1
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("distil", "nothing is kept"),
        ("post-train", "after 1 of 4 runs; none of the runs is kept"),
        ("draw", "runs.csv is kept"),
    ],
)
def test_a_stopped_demo_says_what_is_kept(monkeypatch, tmp_path, stage, expected, number, code):
    def stop(folder, profile, tell):
        tell(demo.Progress(stage, 1, 4))
        os.kill(os.getpid(), number)

    monkeypatch.setattr(demo, "run_demo", stop)
    result = CliRunner().invoke(app, ["demo", "--folder", str(tmp_path)])
    assert result.exit_code == code
    assert result.stderr.startswith(f"distar: stopped by {number.name} while ")
    assert expected in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_tables_and_bars_of_the_demo_fit_80_columns(monkeypatch, tmp_path):
    def finished(folder, profile, tell):
        for stage, total in (("distil", 2500), ("post-train", 480), ("draw", 4)):
            tell(demo.Progress(stage, total, total))
        shutil.copy(str(files("distar_core.toy") / "data" / "runs_full.csv"), folder / "runs.csv")
        return folder / "index.html"

    monkeypatch.setattr(demo, "run_demo", finished)
    monkeypatch.setattr(terminal, "console", Console(width=80))
    result = CliRunner().invoke(app, ["demo", "--folder", str(tmp_path)])
    assert result.exit_code == 0, result.output
    rows = [line.split("│")[1:-1] for line in result.output.splitlines() if line.startswith("│")]
    assert len(rows) > 40
    assert all(len(row) == 7 and all(cell.strip() for cell in row) for row in rows), "a row was wrapped"
    assert "…" not in result.output
    for stage in ("distil", "post-train", "draw"):
        (bar,) = [line for line in result.output.splitlines() if line.strip().startswith(stage)]
        assert bar.rstrip().endswith("left")


def test_the_help_of_train_names_the_methods_and_their_quotes(monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    result = CliRunner().invoke(app, ["train", "toy", "--help"], terminal_width=400)
    for name in {*METHODS, *ALIASES} - {"didr"}:
        assert name in result.output
    assert "needs quotes" in result.output


def test_the_picture_of_a_run_says_what_it_shows(distar, tmp_path):
    assert distar("train", "toy", tmp_path / "run", "--steps", 2).exit_code == 0
    picture = (tmp_path / "run" / "samples.png").read_bytes()
    assert b"Samples of the distilled generator before and after 2 steps of diff-instruct*" in picture


@pytest.mark.parametrize("option", ["--steps", "--save-every"])
def test_counts_below_one_are_refused(option, distar, tmp_path):
    result = distar("train", "toy", tmp_path / "run", option, 0)
    assert result.exit_code == 2
    assert option in said(result)
    assert list(tmp_path.iterdir()) == []


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
        assert "holds other files; choose a new or empty one" in said(result)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"notes.txt": "mine", "config.json": "mine"}


def strict_stream(monkeypatch, encoding):
    """Put a stream in the place of the standard output that refuses what it cannot encode; gives what was written."""
    written = io.BytesIO()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(
            sys, name, io.TextIOWrapper(written, encoding=encoding, errors="strict", write_through=True)
        )
    return written


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize(
    "words",
    [
        ("lab",),
        ("doctor",),
        ("--help",),
        ("train", "toy", "--help"),
        ("train", "world", "--help"),
        ("train", "toy", "a−b"),
    ],
)
def test_what_a_stream_cannot_encode_is_replaced(words, encoding, distar, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    written = strict_stream(monkeypatch, encoding)
    with pytest.raises(SystemExit) as ended:
        app([*words, *(("--steps", "2") if words[-1] == "a−b" else ())])
    assert ended.value.code == 0
    text = written.getvalue().decode(encoding)
    assert len(text) > 100
    if words[-1] == "a−b":
        assert "a?b" in text
        assert (tmp_path / "a−b" / "samples.png").is_file()


def test_control_such_a_stream_refuses_by_itself(monkeypatch):
    strict_stream(monkeypatch, "ascii")
    with pytest.raises(UnicodeEncodeError):
        terminal.say("s − s")


def test_a_name_that_is_no_text_is_printed(monkeypatch):
    """A file name that is not UTF-8 comes from the system with half a character, which UTF-8 cannot encode either."""
    written = strict_stream(monkeypatch, "utf-8")
    with pytest.raises(SystemExit) as ended:
        app(["lab", os.fsdecode(b"caf\xe9")])
    assert ended.value.code == 1
    assert "caf" in written.getvalue().decode("utf-8")


def test_the_picture_is_there_before_the_table(distar, monkeypatch, tmp_path):
    def broken(*_):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(main, "print_table", broken)
    result = distar("train", "toy", tmp_path / "run", "--steps", 2)
    assert result.exit_code == 1
    assert (tmp_path / "run" / "samples.png").is_file()


def test_a_benchmark_that_cannot_be_written_is_not_run(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_toy, "bench_toy", lambda: pytest.fail("ran"))
    (tmp_path / "file").write_text("mine")
    result = CliRunner().invoke(app, ["bench", "toy", "--out", str(tmp_path / "file" / "bench.json")])
    assert result.exit_code == 1
    assert str(tmp_path / "file") in said(result)
