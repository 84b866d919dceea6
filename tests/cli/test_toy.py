"""The commands of the plane: what a run leaves, how it stops and resumes, and what it refuses before any work."""

import io
import os
import shlex
import shutil
import signal
from importlib.resources import files

import pytest
from rich.console import Console
from rich.text import Text
from typer.testing import CliRunner

from distar_core.cli import terminal
from distar_core.cli import toy as cli_toy
from distar_core.cli.main import app
from distar_core.methods import ALIASES, METHODS
from distar_core.runs.progress import Progress
from distar_core.toy import demo, recipe, ring


def test_train_stops_at_its_steps_and_resumes_only_what_exists(distar, tmp_path):
    words = ("train", "toy", tmp_path / "run", "--steps", 4, "--save-every", 2)
    assert distar(*words).exit_code == 0
    left = {path.name for path in (tmp_path / "run").glob("[!.]*")}
    assert left == {"checkpoint.safetensors", "config.json", "log.csv", "recipe.yaml", "samples.png"}
    again = distar(*words)
    assert again.exit_code == 1
    assert "already holds a run" in again.output
    finished = distar(*words, "--resume")
    assert finished.exit_code == 0
    assert "is finished: all 4 steps are done; the learning rate decays over --steps" in finished.output
    missing = distar("train", "toy", tmp_path / "typo", "--resume")
    assert missing.exit_code == 1
    assert "there is no run" in missing.output
    assert not (tmp_path / "typo").exists()


def test_a_scale_without_a_reward_is_refused(distar, tmp_path):
    result = distar("train", "toy", tmp_path / "run", "--method", "sim", "--reward-scale", 0.5)
    assert result.exit_code == 1
    assert "'reward_scale' is 0.5" in result.output
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_command_is_not_resumed(distar, tmp_path):
    (tmp_path / "recipe.yaml").write_text("reward: mode\nroles: full\n")
    result = distar("train", "toy", tmp_path, "--resume")
    assert result.exit_code == 1
    assert "'roles' is 'full'" in result.output
    assert "by the command that started it" in result.output


def test_a_folder_with_brackets_is_named_as_it_is(distar, monkeypatch, tmp_path):
    monkeypatch.setattr(terminal, "console", Console(width=500))
    result = distar("train", "toy", tmp_path / "run[red]", "--steps", 2)
    assert result.exit_code == 0
    assert "run[red]" in result.output


def test_what_cannot_work_is_refused_before_the_distillation(distar, monkeypatch, tmp_path):
    run = tmp_path / "run"
    assert distar("train", "toy", run, "--steps", 2).exit_code == 0
    shutil.copytree(run, tmp_path / "broken")
    (tmp_path / "broken" / "checkpoint.safetensors").write_bytes(b"garbage")
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(ring, "distil", lambda mixture, **_: pytest.fail("the distillation came first"))
    for words, expected in (
        ((run, "--steps", 2), "already holds a run; add --resume"),
        ((run, "--steps", 3, "--seed", 5, "--resume"), "has seed 0, not 5"),
        ((run, "--steps", 2, "--method", "dmd", "--resume"), "has method diff-instruct*, not dmd"),
        ((tmp_path / "broken", "--steps", 2, "--resume"), "truncated or no safetensors file"),
        ((tmp_path / "typo", "--resume"), "there is no run"),
        ((tmp_path / "file" / "run", "--steps", 2), "cannot be written"),
    ):
        refused = distar("train", "toy", *words)
        assert refused.exit_code == 1
        assert expected in refused.output
        assert "Traceback" not in refused.output
        assert refused.stderr.count("distar: ") == 1


def test_a_run_from_before_runs_had_a_recipe_resumes(distar, tmp_path):
    words = ("train", "toy", tmp_path / "run", "--steps", 2, "--seed", 3, "--method", "di++", "--reward-scale", 0.5)
    assert distar(*words).exit_code == 0
    (tmp_path / "run" / "recipe.yaml").unlink()
    assert distar(*words, "--resume").exit_code == 0
    assert distar("train", "toy", tmp_path / "run", "--resume").exit_code == 0
    assert "has seed 3, not 5" in distar("train", "toy", tmp_path / "run", "--seed", 5, "--resume").output
    (tmp_path / "run" / "config.json").write_text("{}")
    assert "is not that of a run in the plane" in distar(*words, "--resume").output


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_names_the_command_that_goes_on(distar, monkeypatch, tmp_path, number, code):
    words = ("--method", "diff-instruct*", "--reward-scale", 0.3, "--steps", 4, "--seed", 4)
    assert distar("train", "toy", tmp_path / "whole", *words).exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "no_conditions", lambda step, rows: os.kill(os.getpid(), number) if step == 1 else None)
        stopped = distar("train", "toy", tmp_path / "a run", *words)
    assert stopped.exit_code == code
    sentence, command = stopped.stderr.rstrip().split(" with: ")
    assert f"stopped by {number.name} after step 1;" in sentence
    assert "--method" not in command, "the folder has the settings"
    resumed = distar(*shlex.split(command)[1:])
    assert resumed.exit_code == 0, resumed.output
    end, expected = ((tmp_path / name / "checkpoint.safetensors").read_bytes() for name in ("a run", "whole"))
    assert end == expected


def test_a_stop_outside_the_loop_is_one_sentence(distar, monkeypatch, tmp_path):
    def stop(*_, **__):
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(cli_toy, "draw_samples", stop)
    drawing = distar("train", "toy", tmp_path / "run", "--steps", 2)
    monkeypatch.setattr(ring, "distil", stop)
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
        ("exact", "no page is kept"),
        ("distil", "index.html shows the exact generators"),
        ("networks", "of which none is kept"),
        ("draw", "runs.csv is kept"),
    ],
)
def test_a_stopped_demo_says_what_is_kept(monkeypatch, tmp_path, stage, expected, number, code):
    def stop(folder, profile, tell, causes):
        tell(Progress(stage, 1, 4))
        os.kill(os.getpid(), number)

    monkeypatch.setattr(demo, "run_demo", stop)
    result = CliRunner().invoke(app, ["demo", "--folder", str(tmp_path)])
    assert result.exit_code == code
    assert result.stderr.startswith(f"distar: stopped by {number.name} while ")
    assert expected in result.stderr
    assert result.stderr.count("\n") == 1


STAGES = {"exact": 108, "distil": 2500, "networks": 480, "draw": 4}


def test_the_tables_and_bars_of_the_demo_fit_80_columns(monkeypatch, tmp_path):
    def finished(folder, profile, tell, causes):
        for stage, total in STAGES.items():
            tell(Progress(stage, total, total))
        for table in ("exact", "runs"):
            shutil.copy(str(files("distar_core.toy") / "data" / "runs_full.csv"), folder / f"{table}.csv")
        return folder / "index.html"

    monkeypatch.setattr(demo, "run_demo", finished)
    shown = io.StringIO()
    monkeypatch.setattr(terminal, "console", Console(width=80, force_terminal=True, color_system=None, file=shown))
    result = CliRunner().invoke(app, ["demo", "--folder", str(tmp_path)])
    assert result.exit_code == 0, result.output
    output = Text.from_ansi(shown.getvalue()).plain
    rows = [line.split("│")[1:-1] for line in output.splitlines() if line.startswith("│")]
    assert len(rows) > 40
    assert all(len(row) == 7 and all(cell.strip() for cell in row) for row in rows), "a row was wrapped"
    assert "…" not in output
    for stage in STAGES:
        bars = [line for line in output.splitlines() if line.strip().startswith(stage)]
        assert bars
        assert all(bar.rstrip().endswith("left") for bar in bars)


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
    assert option in result.output
    assert list(tmp_path.iterdir()) == []


def test_the_picture_is_there_before_the_table(distar, monkeypatch, tmp_path):
    def broken(*_):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(cli_toy, "print_table", broken)
    result = distar("train", "toy", tmp_path / "run", "--steps", 2)
    assert result.exit_code == 1
    assert (tmp_path / "run" / "samples.png").is_file()
