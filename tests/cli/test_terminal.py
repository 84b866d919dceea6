"""The boundary of the command line: errors, warnings, characters; and how progress is shown."""

import io
import math
import os
import signal
import sys
import warnings
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from distar_core.cli import terminal
from distar_core.cli.main import app
from distar_core.cli.terminal import Program, Shown, hint, look_up, stoppable
from distar_core.errors import DistarError, MissingPackagesError, NonFiniteError
from distar_core.losses import PseudoHuber
from distar_core.runs.progress import Progress
from distar_core.runs.signals import Interrupted


def outcome(action):
    """What a program leaves whose one command does this."""
    program = typer.Typer(cls=Program)
    program.command()(lambda: action())
    program.command("another")(lambda: None)  # with a single one typer would make no group
    program.registered_commands[0].name = "act"
    return CliRunner().invoke(program, ["act"])


def throw(error):
    raise error


REFUSALS = [
    (DistarError("a thing"), 1),
    (NonFiniteError("the loss"), 1),
    (MissingPackagesError("peft"), 1),
    (Interrupted(signal.SIGINT, "after step 3"), 130),
    (Interrupted(signal.SIGTERM, "after step 3"), 143),
    (FileExistsError("folder a"), 1),
]


@pytest.mark.parametrize(("error", "code"), REFUSALS, ids=lambda value: type(value).__name__)
def test_what_a_person_can_mend_is_one_sentence_and_a_code(error, code):
    result = outcome(lambda: throw(error))
    assert result.exit_code == code
    assert result.stderr == f"distar: {error}\n"
    assert result.stdout == ""


@pytest.mark.parametrize(("error", "code"), REFUSALS, ids=lambda value: type(value).__name__)
def test_a_run_that_sigterm_stopped_and_that_was_saved_may_leave_another_code(error, code, monkeypatch):
    """A person's Ctrl-C and anything that went wrong keep theirs."""
    monkeypatch.setenv("DISTAR_STOP_CODE", "0")
    assert outcome(lambda: throw(error)).exit_code == (0 if code == 143 else code)


@pytest.mark.parametrize("written", ["zero", "-1", "256", "1.5"])
def test_a_code_that_is_none_is_refused_before_anything_runs(written, monkeypatch):
    monkeypatch.setenv("DISTAR_STOP_CODE", written)
    result = outcome(lambda: throw(AssertionError()))
    assert result.exit_code == 1
    assert repr(written) in result.stderr
    assert result.stderr.count("\n") == 1


def test_what_this_package_refuses_is_a_sentence_and_what_python_raises_is_a_bug():
    refused = outcome(lambda: look_up("colour", "red", {"blue": 1}))
    assert refused.exit_code == 1
    assert refused.stderr.count("\n") == 1
    assert "'red'" in refused.stderr
    assert "blue" in refused.stderr
    assert outcome(lambda: PseudoHuber(-1.0)).stderr.count("\n") == 1, "raised deeper in the library"
    for bug in (
        lambda: int("three"),
        lambda: throw(ValueError("of another package")),
        lambda: look_up("colour", "red", None),  # TypeError inside the package, but from no raise statement of it
        lambda: {}["a"],
        lambda: throw(AssertionError()),
    ):
        result = outcome(bug)
        assert result.exit_code == 1
        assert not isinstance(result.exception, SystemExit)
        assert "distar:" not in result.stderr


def test_the_traceback_is_there_for_who_asks(monkeypatch):
    monkeypatch.setenv("DISTAR_TRACEBACK", "1")
    result = outcome(lambda: throw(DistarError("a thing")))
    assert isinstance(result.exception, DistarError)
    assert "distar:" not in result.stderr


def test_trouble_of_the_system_names_the_file_and_the_reason(tmp_path):
    result = outcome(lambda: (tmp_path / "nothing").read_text())
    assert result.exit_code == 1
    assert result.stderr == f"distar: {tmp_path / 'nothing'}: {os.strerror(2)}\n"


def test_a_hint_is_said_with_its_kind_of_error_only():
    def act(error):
        with hint(NonFiniteError, lambda: "(try less)"):
            throw(error)

    assert outcome(lambda: act(NonFiniteError("lost"))).stderr == "distar: lost (try less)\n"
    assert outcome(lambda: act(DistarError("lost"))).stderr == "distar: lost\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_one_sentence_and_its_code(number, code):
    def act():
        with stoppable(lambda: "while waiting"):
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    result = outcome(act)
    assert result.exit_code == code
    assert result.stderr == f"distar: stopped by {number.name} while waiting\n"
    assert signal.getsignal(number) == before


def test_a_warning_is_a_sentence_and_said_once():
    def act():
        for _ in range(2):
            warnings.warn("two words are cut", stacklevel=1)
        warnings.warn("two words are cut", stacklevel=2)
        warnings.warn("another", stacklevel=1)

    before = warnings.showwarning
    result = outcome(act)
    assert result.exit_code == 0
    assert result.stderr == "distar: warning: two words are cut\ndistar: warning: another\n"
    assert warnings.showwarning is before


def events(shown):
    with shown:
        for done in range(101):
            shown(Progress("build", done, 100, "loss 0.5"))
        shown(Progress("build", 100, 100, made=Path("first.png")))
        shown(Progress("draw", 0, 3))
        list(shown.each("abc", "draw", 3))


@pytest.mark.parametrize(("seconds", "builds", "draws"), [(0.0, 10, 3), (math.inf, 1, 1)])
def test_progress_in_a_pipe_is_a_few_plain_lines(monkeypatch, seconds, builds, draws):
    written = io.StringIO()
    monkeypatch.setattr(terminal, "console", Console(file=written, width=40))
    monkeypatch.setattr(terminal, "SECONDS_PER_LINE", seconds)
    events(Shown())
    lines = written.getvalue().splitlines()
    assert len(lines) == builds + 1 + draws
    assert lines[builds - 1].startswith("build: 100 of 100, loss 0.5, after ")
    assert lines[builds].endswith("first.png")
    assert lines[-1].startswith("draw: 3 of 3, after ")
    assert "\x1b" not in written.getvalue()


def test_progress_in_a_terminal_is_a_bar_for_each_stage(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(terminal, "console", Console(file=written, width=80, force_terminal=True, color_system=None))
    shown = Shown()
    events(shown)
    assert shown.latest == Progress("draw", 3, 3)
    for text in (" build ━", "100/100", "loss 0.5", "first.png", " draw ━", "3/3", "left"):
        assert text in written.getvalue()
    assert "build: " not in written.getvalue()


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
