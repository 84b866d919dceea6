"""A run of two processes is the run of one: the same bytes, the same refusals, and nothing that hangs.

One launch by torchrun plays all scenes of two_processes.py; the tests look at what it left.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors import safe_open
from torch import Tensor

from distar_core.runs.folders import claim
from distar_core.runs.processes import ALONE, OtherProcessError, launched
from distar_core.runs.run import CHECKPOINT, run
from distar_core.sdxl.ledger import count_step
from distar_core.world.models import load_world
from distar_core.world.recipe import training_prompts
from tests.runs import two_processes as scenes
from tests.runs.test_run import METHOD, STEPS, WARMUP, contents, log_rows, no_conditions
from tests.sdxl.test_ledger import Brightness

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = f"""
import sys, types
from pathlib import Path
sys.modules["tests"] = tests = types.ModuleType("tests")  # some distribution has brought a package of this name
tests.__path__ = [{str(ROOT / "tests")!r}]
from tests.runs.two_processes import main
main(Path(sys.argv[1]))
"""
DEADLINE = 500  # only so long is waited for the processes; nothing else depends on time
ONE = scenes.TOY | {"micro_batch": scenes.TOY["batch"] // 2}
NUMBERS = (0, 1)


def toy_run(folder: Path, *, resume: bool = False, count: int | None = None, **options: Any) -> None:
    """The run of one process, with the rows of each of two as micro-batches; all of it, or `count` records."""
    records = run(scenes.toy(ALONE), METHOD, no_conditions, folder, resume=resume, **(ONE | options))
    assert list(islice(records, count))
    records.close()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the launch left."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root  # one launch for all of pytest's own processes
    with FileLock(root / "two processes.lock"):
        if not (folder := root / "two processes").exists():
            folder.mkdir()
            launch(folder)
    return folder


def launch(folder: Path) -> None:
    """Let one process prepare what two go on with, and then two play their scenes."""
    toy_run(folder / "saved by one", count=5, save_every=1)
    list(islice(scenes.Miniature("full").run(folder / "full by one", save_every=1, micro_batch=2), 2))
    (folder / "foreign").mkdir()  # somebody else's
    (folder / "foreign" / "note.txt").write_text("mine")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [*command, "--no-python", sys.executable, "-c", SCRIPT, str(folder)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert (folder / "killed-0.json").exists(), ended.stderr[-4000:]
    assert ended.returncode != 0, "one process was killed"


def told(folder: Path, scene: str) -> list[dict[str, Any]]:
    """What each process said of a scene."""
    return [json.loads((folder / f"{scene}-{number}.json").read_text("utf-8")) for number in NUMBERS]


def saved(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118


def farthest(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest relative difference of a tensor."""
    assert found.keys() == wanted.keys()
    return max(float((found[name] - value).norm() / (value.norm() + 1e-300)) for name, value in wanted.items())


def test_two_processes_have_really_started(folder: Path) -> None:
    """`accelerate launch --cpu --num_processes 2` starts one, and says nothing."""
    started = told(folder, "started")
    assert [one["count"] for one in started] == [2, 2]
    assert len({one["pid"] for one in started} | {os.getpid()}) == 3


def test_whole_roles_in_two_processes_are_one_process_with_micro_batches_to_the_byte(
    folder: Path, tmp_path: Path
) -> None:
    assert [one["error"] for one in told(folder, "whole")] == [None, None]
    assert [one["step"] for one in told(folder, "whole")] == [STEPS, STEPS]
    toy_run(tmp_path, save_every=4, keep=2, best="reward", also_log=["jsonl"])
    ours, theirs = contents(tmp_path), contents(folder / "whole")
    assert ours.keys() == theirs.keys()
    assert {CHECKPOINT, "checkpoint_at_4.safetensors", "checkpoint_best.safetensors"} < ours.keys()
    assert [name for name in ours if not name.startswith("log") and ours[name] != theirs[name]] == []
    assert log_rows(tmp_path) == log_rows(folder / "whole")
    lines = [[json.loads(line) | {"seconds": 0} for line in one["log.jsonl"].splitlines()] for one in (ours, theirs)]
    assert lines[0] == lines[1]


def test_what_two_saved_one_resumes_and_the_reverse(folder: Path, tmp_path: Path) -> None:
    """Two stopped after 5 records, and one goes on here; one had stopped after 5, and two went on."""
    toy_run(tmp_path, save_every=4)
    assert [one["last"] for one in told(folder, "saved by two")] == [4 - WARMUP] * 2
    toy_run(folder / "saved by two", resume=True, save_every=1)
    assert [one["first"] for one in told(folder, "saved by one")] == [5 - WARMUP] * 2
    for name in ("saved by two", "saved by one"):
        assert (folder / name / CHECKPOINT).read_bytes() == (tmp_path / CHECKPOINT).read_bytes()
        assert log_rows(folder / name) == log_rows(tmp_path)


def test_a_nan_in_one_process_stops_both_at_the_same_step(folder: Path, tmp_path: Path) -> None:
    for one in told(folder, "broken"):
        assert one["error"] == "NonFiniteError"
        assert f"loss of the reward became nan at step {scenes.BROKEN_AT}" in one["text"]
        assert one["step"] == scenes.BROKEN_AT + 1
    assert [row["step"] for row in log_rows(folder / "broken")][-1] == str(scenes.BROKEN_AT - 1)
    toy_run(folder / "broken", resume=True, save_every=2)
    toy_run(tmp_path)
    assert saved(folder / "broken" / CHECKPOINT).keys() == saved(tmp_path / CHECKPOINT).keys()
    assert farthest(saved(folder / "broken" / CHECKPOINT), saved(tmp_path / CHECKPOINT)) == 0


def test_a_signal_to_one_process_stops_both_with_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    for one in told(folder, "stopped"):
        assert one["error"] == "Interrupted"
        assert f"SIGTERM after step {scenes.STOPPED_AT}" in one["text"]
    toy_run(folder / "stopped", resume=True, save_every=1000)
    toy_run(tmp_path)
    assert (folder / "stopped" / CHECKPOINT).read_bytes() == (tmp_path / CHECKPOINT).read_bytes()
    assert log_rows(folder / "stopped") == log_rows(tmp_path)


def test_the_lock_keeps_others_out_and_not_the_second_process(folder: Path) -> None:
    for one in told(folder, "locked"):
        assert one["samples"] == scenes.TOY["batch"], "the record of the whole batch"
        assert "another process is at work" in one["refused"]


@pytest.mark.parametrize(
    ("scene", "error", "words"),
    [
        ("unaveraged", "ValueError", ["'s weights", "process 1", "Replicated"]),
        ("other start", "ValueError", ["'s weights", "process 1"]),
        ("other seed", "ValueError", ["seed is 3 in process 0 but 4 in process 1"]),
        ("indivisible", "ValueError", ["batch 7", "2 processes"]),
    ],
)
def test_what_cannot_be_is_refused_in_both_processes(scene: str, error: str, words: list[str], folder: Path) -> None:
    """Control: with gradients that nobody averages, the processes go different ways, and their checkpoint is refused."""
    for one in told(folder, scene):
        assert one["error"] == error
        assert all(word in one["text"] for word in words)
    assert not (folder / scene / CHECKPOINT).exists()


def test_what_fails_in_the_first_process_is_told_in_the_other(folder: Path) -> None:
    first, second = told(folder, "foreign")
    assert first["error"] == "FileExistsError"
    assert second["error"] == "OtherProcessError"
    assert first["text"] in second["text"]
    assert contents(folder / "foreign") == {"note.txt": b"mine"}


def test_when_one_process_is_killed_the_other_ends_with_a_sentence(folder: Path) -> None:
    ended = json.loads((folder / "killed-0.json").read_text("utf-8"))
    assert not (folder / "killed-1.json").exists()
    assert ended["error"] == "OtherProcessError"
    assert "process 0 of 2 cannot reach the others" in ended["text"]
    assert "resume" in ended["text"]
    toy_run(folder / "killed", resume=True)
    assert [int(row["step"]) for row in log_rows(folder / "killed")] == list(range(-WARMUP, STEPS))


def test_adapters_in_two_processes_are_one_process_with_micro_batches_to_the_byte(folder: Path, tmp_path: Path) -> None:
    assert [one["error"] for one in told(folder, "lora")] == [None, None]
    list(scenes.Miniature("lora").run(tmp_path, micro_batch=2))
    assert (folder / "lora" / CHECKPOINT).read_bytes() == (tmp_path / CHECKPOINT).read_bytes()
    assert log_rows(folder / "lora") == log_rows(tmp_path)


def test_full_copies_spread_over_two_processes_are_those_of_one(folder: Path, tmp_path: Path) -> None:
    """In float64, with averages, recomputed blocks and half of the weights in each process; the bound is 1e-12."""
    one = scenes.Miniature("full")
    list(one.run(tmp_path / "one", save_every=1, keep=9, micro_batch=2))
    weights = sum(p.numel() for p in one.state.roles.generator.parameters().values())
    spread = told(folder, "full")
    for found in spread:
        assert (found["error"], found["kinds"], found["as before"]) == (None, ["DTensor"], True)
        assert found["own"] < 0.6 * weights
    assert sum(found["own"] for found in spread) == weights
    names = {CHECKPOINT, *(f"checkpoint_at_{step}.safetensors" for step in (0, 1))}
    for name in names:
        assert farthest(saved(folder / "full" / name), saved(tmp_path / "one" / name)) < 1e-12
    wanted = one.drawn()
    for number in NUMBERS:
        assert farthest(torch.load(folder / f"full-{number}.pt"), wanted) < 1e-12
    assert float((wanted["averaged"] - wanted["last"]).norm() / wanted["last"].norm()) > 1e-6, "control"
    # resumed: by one what two have saved after the first step, and by two what one had saved
    folder_by_one = tmp_path / "resumed"
    claim(folder_by_one, "run")
    (folder_by_one / CHECKPOINT).write_bytes((folder / "full" / "checkpoint_at_1.safetensors").read_bytes())
    list(scenes.Miniature("full").run(folder_by_one, resume=True, micro_batch=2))
    assert [found["first"] for found in told(folder, "full by one")] == [1, 1]
    for resumed in (folder_by_one, folder / "full by one"):
        assert farthest(saved(resumed / CHECKPOINT), saved(tmp_path / "one" / CHECKPOINT)) < 1e-12


def test_the_ledger_counts_the_parts_of_the_first_process_to_the_byte(folder: Path) -> None:
    """On the meta device, where there are no processes; against what the two have held."""
    world = load_world()
    pipeline = world.pipeline
    for part in (world.unet, pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        part.double().to("meta")
    recipe = scenes.recipe_of("full")

    def held(processes: int) -> dict[str, int]:
        found = count_step(
            recipe, world, Brightness().to("meta"), training_prompts(recipe), processes=processes, grain=1
        )
        return {name: found.held[name] for name in ("learning weights", "averages", "optimizer state")}

    first, second = (one["held"] for one in told(folder, "full"))
    assert held(2) == first
    assert first["learning weights"] == second["learning weights"], "padding is held, too"
    assert all(size < 0.6 * held(1)[name] for name, size in first.items())


def test_weights_that_are_spread_and_cast_have_the_gradients_of_compute_in(folder: Path) -> None:
    """float64 in place of float32, and float32 in place of bfloat16; equal up to its rounding. Control: computed in float64
    they would be others.
    """
    wanted, wide = scenes.narrow_gradients(ALONE), scenes.narrow_gradients(ALONE, wide=True)
    for number in NUMBERS:
        found = torch.load(folder / f"narrow-{number}.pt")
        assert {value.dtype for value in found.values()} == {torch.float64}
        assert farthest(found, wanted) < 1e-5
        assert farthest(found, wide) > 1e-9


# The environment.

COMPLETE = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("there", "words"),
    [
        *(({key: value for key, value in COMPLETE.items() if key != name}, [name]) for name in COMPLETE),
        ({"WORLD_SIZE": "2"}, ["WORLD_SIZE but not RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"]),
        (COMPLETE | {"RANK": "2"}, ["RANK is 2", "WORLD_SIZE 2"]),
        (COMPLETE | {"RANK": "-1"}, ["RANK is '-1'"]),
        (COMPLETE | {"WORLD_SIZE": "two"}, ["WORLD_SIZE is 'two'"]),
        (COMPLETE | {"LOCAL_RANK": ""}, ["not LOCAL_RANK"]),
    ],
)
def test_an_environment_that_is_half_set_is_refused(
    there: dict[str, str], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in COMPLETE:
        monkeypatch.delenv(name, raising=False)
    for name, value in there.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="environment") as error, launched():
        pass
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("there", [{}, {"MASTER_PORT": "29500"}, COMPLETE | {"RANK": "0", "WORLD_SIZE": "1"}])
def test_a_single_process_is_alone(there: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in COMPLETE:
        monkeypatch.delenv(name, raising=False)
    for name, value in there.items():
        monkeypatch.setenv(name, value)
    with launched() as processes:
        assert processes is ALONE
    assert not torch.distributed.is_initialized()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without accelerators")
def test_more_processes_than_accelerators_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in COMPLETE.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="LOCAL_RANK is 1, but this machine has 0 accelerators"), launched("cuda"):
        pass


def test_processes_that_do_not_meet_say_where(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (COMPLETE | {"MASTER_ADDR": "no.such.machine.invalid"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("distar_core.runs.processes.TIMEOUT", timedelta(seconds=1))
    with pytest.raises(OtherProcessError, match=r"no\.such\.machine\.invalid:29500"), launched():
        pass
