"""Runs on disk: resume bit for bit, kills at any byte, signals, non-finite values, and what a resume refuses.

Run as a script, this file is the process that the tests of real signals send them to.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor, nn

from distar_core import METHODS, Method, PushForward, Record, State, Trainable, post_train
from distar_core.draws import draw
from distar_core.errors import NonFiniteError
from distar_core.losses import integral_kl
from distar_core.runs import folders
from distar_core.runs import run as runs
from distar_core.runs.folders import claim
from distar_core.runs.run import CHECKPOINT, load_checkpoint, run, save_checkpoint
from distar_core.runs.signals import Interrupted
from distar_core.toy import ring as toy
from distar_core.toy.networks import MLP

METHOD = replace(toy.TOY_METHODS["star"], reward_scale=0.8)
WARMUP, STEPS = 3, 6
OPTIONS: dict[str, Any] = {
    "steps": STEPS,
    "seed": 3,
    "batch": 8,
    "warmup": WARMUP,
    "assistant_updates": 2,
    "micro_batch": 4,
}
# Long enough that a process is always still at work when a signal reaches it.
ENDLESS = OPTIONS | {"steps": 1_000_000}
# Only this long does a test wait for another process; under it nothing depends on time.
DEADLINE = 120


def no_conditions(step: int, rows: slice) -> None:
    return None


def build(seed: int = 0, *, width: int = 8, steps: int = STEPS, reward: Any = toy.REWARDS["mode"]) -> State:
    """A run of a few hundred weights: both roles with averages, with Adam and with rates that decay over the steps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5 + seed)
        generator = PushForward(MLP(2, 2, width=width), (2,))
    state = toy.toy_state(generator, toy.reference(), reward, seed=seed, steps=steps, lr=1e-2, width=width)
    old = state.roles.assistant
    assistant = Trainable(old.module, old.optimizer, lr=old.lr, ema_decay=0.9)
    return State(state.roles._replace(assistant=assistant), state.schedule)


def everything(state: State) -> dict[str, Tensor]:
    """A copy of all that a run learns, gathered without runs/run.py: weights, averages, optimizer slots, the step."""
    found = {"step": torch.tensor(-999 if state.step is None else state.step)}
    for name, role in (("generator", state.roles.generator), ("assistant", state.roles.assistant)):
        found |= {f"{name} {key}": value for key, value in role.module.state_dict().items()}
        found |= {f"{name} average {key}": value for key, value in role.ema.items()}
        if role.optimizer is not None:
            for index, slots in role.optimizer.state_dict()["state"].items():
                found |= {f"{name} {index} {slot}": torch.as_tensor(value) for slot, value in slots.items()}
    return {key: value.detach().clone() for key, value in found.items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]) for key in a)


def log_rows(folder: Path) -> list[dict[str, str]]:
    """The rows of the log without the column that is wall time."""
    with open(folder / "log.csv", newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change what a checkpoint says about itself, as a version of ours would have written it."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        meta = change(json.loads(file.metadata()["distar_core"]))
    save_file(tensors, path, metadata={"distar_core": json.dumps(meta | {"seal": runs._seal(meta)})})


def as_format_1(path: Path, state: State) -> None:
    """Write a checkpoint anew as it was before digests, with optimizer state by the position of its parameter."""
    numbers = {
        f"{name}.optimizer.{parameter}.": f"{name}.optimizer.{number}."
        for name, role in (("generator", state.roles.generator), ("assistant", state.roles.assistant))
        for number, parameter in enumerate(name for name, _ in role.module.named_parameters())
    }
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        meta = json.loads(file.metadata()["distar_core"])
    for new, old in numbers.items():
        tensors = {name.replace(new, old): value for name, value in tensors.items()}
        meta["optimizer"] = {name.replace(new, old): value for name, value in meta["optimizer"].items()}
    del meta["config"]["learners"]
    old_meta = {"format": "distar_core checkpoint 1"} | {key: meta[key] for key in ("step", "config", "optimizer")}
    save_file(tensors, path, metadata={"distar_core": json.dumps(old_meta)})


def finish(state: State, folder: Path, *, method: Method = METHOD, **options: Any) -> list[Record]:
    return list(run(state, method, no_conditions, folder, **(OPTIONS | options)))


def stop_after(count: int, state: State, folder: Path, **options: Any) -> None:
    """Take `count` records and then drop the run, as a crash between two steps would."""
    records = run(state, METHOD, no_conditions, folder, **(OPTIONS | options))
    assert len(list(islice(records, count))) == count
    records.close()  # type: ignore[attr-defined]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], list[dict[str, str]]]:
    """The run that nothing interrupts: what it learnt, and its log."""
    folder, state = tmp_path_factory.mktemp("whole"), build()
    assert len(finish(state, folder)) == WARMUP + STEPS
    return everything(state), log_rows(folder)


# Resume.


@pytest.mark.parametrize("save_every", [1, 4])
@pytest.mark.parametrize("k", range(1, WARMUP + STEPS))
def test_k_steps_and_the_rest_equal_all_at_once(k: int, save_every: int, whole: Any, tmp_path: Path) -> None:
    options = {"save_every": save_every}
    stop_after(k, build(), tmp_path, **options)
    if not (tmp_path / CHECKPOINT).exists():
        # With save_every 4 the first checkpoint comes with step −1, the third record.
        assert save_every == 4
        assert k < 3
        resumed = build()
        finish(resumed, tmp_path, **options)
    else:
        # Other weights to begin with: whatever was not saved would show.
        resumed = build(seed=1)
        finish(resumed, tmp_path, resume=True, **options)
    assert same(everything(resumed), whole[0])
    assert log_rows(tmp_path) == whole[1]


def test_the_log_says_beside_each_gap_below_which_it_is_rounding(tmp_path):
    for floor in (None, 0.125):
        folder = tmp_path / str(floor)
        assert len(list(run(build(), METHOD, no_conditions, folder, gap_floor=floor, **OPTIONS))) == WARMUP + STEPS
        rows = log_rows(folder)
        assert [row["gap_norm"] != "" for row in rows] == [False] * WARMUP + [True] * STEPS
        assert [row["gap_floor"] for row in rows] == [""] * WARMUP + ["" if floor is None else "0.125"] * STEPS


def test_the_log_has_the_memory_that_somebody_counts(tmp_path: Path) -> None:
    for name, count in (("counted", lambda: 1.5), ("plain", None)):
        list(run(build(), METHOD, no_conditions, tmp_path / name, peak_gib=count, **OPTIONS))
        with open(tmp_path / name / "log.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["peak_gib"] for row in rows] == ["" if count is None else "1.5"] * (WARMUP + STEPS)


def test_a_run_may_stop_after_every_step(whole: Any, tmp_path: Path) -> None:
    stop_after(1, build(), tmp_path, save_every=1)
    for _ in range(WARMUP + STEPS - 2):
        stop_after(1, build(seed=2), tmp_path, save_every=1, resume=True)
    last = build(seed=3)
    assert len(finish(last, tmp_path, save_every=1, resume=True)) == 1
    assert same(everything(last), whole[0])
    assert log_rows(tmp_path) == whole[1]
    # A finished run has nothing left to do and stays as it is.
    again = build(seed=4)
    assert finish(again, tmp_path, resume=True) == []
    assert same(everything(again), whole[0])
    assert log_rows(tmp_path) == whole[1]


def test_the_log_has_the_numbers_of_the_records(tmp_path: Path) -> None:
    records, rows = finish(build(), tmp_path), log_rows(tmp_path)
    assert [int(row["step"]) for row in rows] == [r.step for r in records] == list(range(-WARMUP, STEPS))
    for record, row in zip(records, rows, strict=True):
        for term in ("assistant", "regularizer", "reward", "cfg"):
            expected = float(record.losses[term].mean()) if term in record.losses else None
            assert (float(row[f"loss_{term}"]) if row[f"loss_{term}"] else None) == expected
        assert (float(row["reward"]) if row["reward"] else None) == (
            None if record.reward is None else float(record.reward.mean())
        )


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (torch.optim.SGD, {"lr": 1e-2}),
        (torch.optim.SGD, {"lr": 1e-2, "momentum": 0.9, "nesterov": True}),
        (torch.optim.AdamW, {"lr": 1e-2, "amsgrad": True}),
        (torch.optim.RMSprop, {"lr": 1e-3, "momentum": 0.5, "centered": True}),
        (torch.optim.Adam, {"lr": 1e-2, "foreach": False}),
    ],
)
def test_other_optimizers_resume_as_well(kind: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    def with_optimizer(seed: int) -> State:
        state = build(seed)
        roles = [Trainable(r.module, kind(r.module.parameters(), **settings)) for r in (state.roles[0], state.roles[2])]
        return State(state.roles._replace(generator=roles[0], assistant=roles[1]), state.schedule)

    reference = with_optimizer(0)
    finish(reference, tmp_path / "whole")
    stop_after(5, with_optimizer(0), tmp_path / "part", save_every=1)
    resumed = with_optimizer(1)
    finish(resumed, tmp_path / "part", save_every=1, resume=True)
    assert same(everything(resumed), everything(reference))


def test_control_a_resume_without_the_optimizers_differs(whole: Any, tmp_path: Path) -> None:
    stop_after(5, build(), tmp_path, save_every=1)
    resumed = build()
    load_checkpoint(resumed, tmp_path, {"method": METHOD, **OPTIONS})
    for role in (resumed.roles.generator, resumed.roles.assistant):
        role.optimizer.state.clear()  # type: ignore[union-attr]
    list(post_train(resumed, METHOD, no_conditions, **OPTIONS))
    learnt = everything(resumed)
    assert largest_relative(learnt, whole[0], "generator network") > 1e-2


def test_control_a_resume_with_another_seed_differs(whole: Any, tmp_path: Path) -> None:
    stop_after(5, build(), tmp_path, save_every=1)
    for seed, equal in ((OPTIONS["seed"], True), (OPTIONS["seed"] + 1, False)):
        state = build()
        load_checkpoint(state, tmp_path, {"method": METHOD, **OPTIONS})
        assert len(list(post_train(state, METHOD, no_conditions, **(OPTIONS | {"seed": seed})))) == WARMUP + STEPS - 5
        assert same(everything(state), whole[0]) is equal
    assert largest_relative(everything(state), whole[0], "generator network") > 1e-2


def largest_relative(a: dict[str, Tensor], b: dict[str, Tensor], prefix: str) -> float:
    keys = [key for key in b if key.startswith(prefix)]
    assert keys
    return max(float((a[key] - b[key]).norm() / b[key].norm()) for key in keys)


def test_an_exact_assistant_that_reads_the_generator_resumes(tmp_path: Path) -> None:
    """An assistant without optimizer may hold the generator itself; a file cannot hold one tensor under two names."""

    class Reader(nn.Module):
        def __init__(self, generator: nn.Module) -> None:
            super().__init__()
            self.generator = generator

        def forward(self, x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
            mean = self.generator(x_t.new_zeros(64, 2), None).mean(0).detach()
            return (mean - x_t) / (1 + t[:, None] ** 2)

    def with_reader(seed: int) -> State:
        state = build(seed)
        assistant = Trainable(Reader(state.roles.generator.module))
        return State(state.roles._replace(assistant=assistant), state.schedule)

    reference = with_reader(0)
    finish(reference, tmp_path / "whole")
    stop_after(5, with_reader(0), tmp_path / "part", save_every=1)
    resumed = with_reader(1)
    finish(resumed, tmp_path / "part", save_every=1, resume=True)
    assert same(everything(resumed), everything(reference))


def test_roles_that_share_a_buffer_are_saved(tmp_path: Path) -> None:
    """Tied clones hold one tensor between them: frozen weights are not saved, buffers are."""
    state, shared = build(), torch.ones(3)
    for role in (state.roles.generator, state.roles.assistant):
        role.module.register_buffer("shared", shared)
    finish(state, tmp_path)
    saved = saved_tensors(tmp_path)
    assert all(torch.equal(saved[f"{role}.buffer.shared"], shared) for role in ("generator", "assistant"))


def test_buffers_that_are_not_persistent_are_not_saved(tmp_path: Path) -> None:
    """A causal mask of minus infinity is rebuilt with its module; as a persistent buffer it is no state of a run."""
    state = build()
    mask = torch.full((2, 2), -torch.inf)
    state.roles.assistant.module.register_buffer("mask", mask, persistent=False)
    save_checkpoint(state, tmp_path, {})
    assert "assistant.buffer.mask" not in saved_tensors(tmp_path)
    state.roles.assistant.module.register_buffer("mask", mask)
    with pytest.raises(NonFiniteError, match=r"assistant\.buffer\.mask is not finite"):
        save_checkpoint(state, tmp_path, {})


# Kills.


class Killed(BaseException):
    """Stands for SIGKILL in this process: no `except Exception` may stop it."""


def dying_writer(count: int) -> Callable[..., None]:
    """A save_file that gets `count` bytes onto the disk and dies."""

    def write(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
        Path(path).write_bytes(save(tensors, metadata)[:count])
        raise Killed

    return write


def die(*_: Any, **__: Any) -> None:
    raise Killed


def size_of_a_checkpoint(folder: Path) -> int:
    state = build()
    stop_after(2, state, folder, save_every=1)
    return (folder / CHECKPOINT).stat().st_size


def test_a_kill_at_any_byte_of_a_write_loses_nothing(
    whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = size_of_a_checkpoint(tmp_path / "size")
    stop_after(4, build(), tmp_path / "run", save_every=1)
    before = build(seed=1)
    config = {"method": METHOD, **OPTIONS}
    load_checkpoint(before, tmp_path / "run", config)
    # Bytes of the header's length, of the header and of the tensors, and the whole file that was never renamed.
    for count in [0, 1, 7, 8, 9, *range(50, size, size // 12), size - 1, size, 2 * size]:
        with monkeypatch.context() as patch:
            patch.setattr(runs, "save_file", dying_writer(count))
            with pytest.raises(Killed):
                stop_after(1, build(), tmp_path / "run", save_every=1, resume=True)
        assert contents(tmp_path / "run").keys() > {CHECKPOINT, "config.json", "log.csv"}
        found = build(seed=2)
        load_checkpoint(found, tmp_path / "run", config)
        assert same(everything(found), everything(before))
    resumed = build(seed=3)
    finish(resumed, tmp_path / "run", save_every=1, resume=True)
    assert same(everything(resumed), whole[0])
    assert log_rows(tmp_path / "run") == whole[1]


@pytest.mark.parametrize("place", ["fsync", "replace"])
def test_a_kill_between_the_write_and_the_rename_loses_nothing(
    place: str, whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(4, build(), tmp_path, save_every=1)
    before = (tmp_path / CHECKPOINT).read_bytes()
    state = build()
    records = run(state, METHOD, no_conditions, tmp_path, resume=True, save_every=1, **OPTIONS)
    # The log is in place before the first step, so only the checkpoint's rename is hit.
    conditions_seen = next(records)
    assert conditions_seen.step == 1
    after_one = (tmp_path / CHECKPOINT).read_bytes()
    assert after_one != before
    with monkeypatch.context() as patch:
        patch.setattr(os, place, die)
        with pytest.raises(Killed):
            next(records)
    assert (tmp_path / CHECKPOINT).read_bytes() == after_one
    resumed = build(seed=1)
    finish(resumed, tmp_path, save_every=1, resume=True)
    assert same(everything(resumed), whole[0])
    assert log_rows(tmp_path) == whole[1]


def test_control_a_writer_that_overwrites_in_place_loses_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(4, build(), tmp_path, save_every=1)
    (tmp_path / CHECKPOINT).write_bytes((tmp_path / CHECKPOINT).read_bytes()[:3000])
    with pytest.raises(ValueError, match="truncated"):
        finish(build(), tmp_path, save_every=1, resume=True)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("writer failed")])
def test_a_failed_write_keeps_the_old_checkpoint(
    error: Exception, whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    stop_after(4, build(), tmp_path, save_every=1)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(runs, "save_file", fail)
        with pytest.raises(type(error)):
            finish(build(), tmp_path, save_every=1, resume=True)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    resumed = build(seed=1)
    finish(resumed, tmp_path, save_every=1, resume=True)
    assert same(everything(resumed), whole[0])


def test_leftovers_of_kills_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors writes beside the target under a name of its own (.tmpXXXXXX) that a kill leaves behind."""

    def write(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
        (Path(path).parent / f".tmp{next(counter):06d}").write_bytes(save(tensors, metadata)[:100])
        raise Killed

    counter = itertools.count()
    stop_after(2, build(), tmp_path, save_every=1)
    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(runs, "save_file", write)
            with pytest.raises(Killed):
                stop_after(1, build(), tmp_path, save_every=1, resume=True)
    finish(build(), tmp_path, save_every=1, resume=True)
    assert set(contents(tmp_path)) == {CHECKPOINT, "config.json", "log.csv", ".distar_core", ".distar_core.lock"}


def test_what_is_not_a_leftover_stays(tmp_path: Path) -> None:
    claim(tmp_path, "run")
    (tmp_path / ".tmp-notes").mkdir()
    (tmp_path / ".tmp-notes" / "mine").write_text("mine")
    finish(build(), tmp_path)
    assert (tmp_path / ".tmp-notes" / "mine").read_text() == "mine"


def test_a_torn_log_harms_nothing(whole: Any, tmp_path: Path) -> None:
    """Rows after the checkpoint may end at any byte: in a crash the log is ahead of the checkpoint."""
    stop_after(WARMUP + 4, build(), tmp_path, save_every=4)
    with safe_open(tmp_path / CHECKPOINT, framework="pt") as file:
        next_step = json.loads(file.metadata()["distar_core"])["step"]
    assert next_step == 4
    text = (tmp_path / "log.csv").read_bytes()
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(file)
    # Tear the last row that is not yet in a checkpoint: put in one more row and cut it anywhere.
    ahead = text + rows[-1].replace("3,", "4,", 1).encode()
    saved = (tmp_path / CHECKPOINT).read_bytes()
    for end in range(len(text), len(ahead) + 1):
        (tmp_path / "log.csv").write_bytes(ahead[:end])
        stop_after(1, build(), tmp_path, save_every=4, resume=True)
        assert log_rows(tmp_path) == whole[1][: WARMUP + 5], end
        assert (tmp_path / CHECKPOINT).read_bytes() == saved
    (tmp_path / "log.csv").unlink()
    resumed = build(seed=1)
    finish(resumed, tmp_path, save_every=4, resume=True)
    # Without a log the run goes on; only the old rows are gone.
    assert same(everything(resumed), whole[0])
    assert log_rows(tmp_path) == whole[1][-2:]


def test_a_run_that_died_before_its_first_checkpoint_starts_anew(whole: Any, tmp_path: Path) -> None:
    stop_after(2, build(), tmp_path, save_every=100)
    assert not (tmp_path / CHECKPOINT).exists()
    assert len(log_rows(tmp_path)) == 2
    state = build()
    finish(state, tmp_path)
    assert same(everything(state), whole[0])
    assert log_rows(tmp_path) == whole[1]


# Signals, in this process.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("at", [-2, 0, 3])
def test_a_signal_leaves_a_resumable_run(number: signal.Signals, at: int, whole: Any, tmp_path: Path) -> None:
    """The signal comes in the middle of a step, of the warm-up or after it; the step is finished, saved and logged."""

    def conditions(step: int, rows: slice) -> None:
        if step == at and rows.start == 4:
            signal.raise_signal(number)

    handlers = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(Interrupted) as error:
        list(run(build(), METHOD, conditions, tmp_path, save_every=1000, **OPTIONS))
    where = f"after step {at}" + (" (the warm-up ends before step 0)" if at < 0 else "")
    assert str(error.value) == f"stopped by {number.name} {where}; resume from {tmp_path / CHECKPOINT}"
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert log_rows(tmp_path) == whole[1][: at + WARMUP + 1]
    resumed = build(seed=1)
    finish(resumed, tmp_path, resume=True, save_every=1000)
    assert same(everything(resumed), whole[0])
    assert log_rows(tmp_path) == whole[1]


def test_a_signal_between_the_save_and_the_stop_still_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler may run between any two bytecodes: who stops must have saved."""

    class LateSignal(list):
        asked = 0

        def __bool__(self) -> bool:
            self.asked += 1
            if self.asked == 2:
                self.append(signal.SIGTERM)
            return len(self) > 0

    @contextmanager
    def stop_requests() -> Iterator[list[signal.Signals]]:
        yield LateSignal()

    monkeypatch.setattr(runs, "stop_requests", stop_requests)
    with pytest.raises(Interrupted):
        finish(build(), tmp_path, save_every=1000)
    assert (tmp_path / CHECKPOINT).exists()
    assert len(log_rows(tmp_path)) == int(log_rows(tmp_path)[-1]["step"]) + WARMUP + 1
    monkeypatch.undo()
    finish(build(), tmp_path, save_every=1000, resume=True)


def test_handlers_come_back_however_a_run_ends(tmp_path: Path) -> None:
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    records = run(build(), METHOD, no_conditions, tmp_path, **OPTIONS)
    next(records)
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] != before
    records.close()  # type: ignore[attr-defined]
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == before
    with pytest.raises(ValueError, match="does not divide"):
        finish(build(), tmp_path, micro_batch=3)
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_run_works_in_a_thread(whole: Any, tmp_path: Path) -> None:
    """Python sets signal handlers in the main thread only."""
    state = build()
    thread = threading.Thread(target=finish, args=(state, tmp_path))
    thread.start()
    thread.join()
    assert same(everything(state), whole[0])


# Signals, from outside.


def progress(folder: Path) -> int:
    """How many whole rows another process has logged so far."""
    try:
        return max((folder / "log.csv").read_bytes().count(b"\n") - 1, 0)
    except FileNotFoundError:
        return 0


def signalled(folder: Path, number: signal.Signals, *, save_every: int, after: int) -> subprocess.CompletedProcess[str]:
    """A process at work on an endless run gets a signal once it has logged `after` steps."""
    child = subprocess.Popen(
        [sys.executable, __file__, str(folder), str(save_every)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        waited = 0.0
        while progress(folder) < after:
            try:
                child.wait(0.02)
            except subprocess.TimeoutExpired:
                waited += 0.02
                assert waited < DEADLINE, f"no progress in {folder} within {DEADLINE} s"
            else:
                raise AssertionError(f"the process ended by itself: {child.communicate()[1]}")
        child.send_signal(number)
        _, errors = child.communicate(timeout=DEADLINE)
        return subprocess.CompletedProcess(child.args, child.returncode, "", errors)
    finally:
        child.kill()
        child.wait()


def resume_and_compare(folder: Path, save_every: int) -> None:
    """A few more steps from the checkpoint equal a run that was never stopped, log included."""
    resumed = build(seed=1, steps=ENDLESS["steps"])
    options = ENDLESS | {"save_every": save_every}
    records = run(resumed, METHOD, no_conditions, folder, resume=True, **options)
    first = next(records).step
    last = [record.step for record in islice(records, 5)][-1]
    assert last == first + 5
    straight = build(steps=ENDLESS["steps"])
    other = run(straight, METHOD, no_conditions, folder / "straight", **options)
    assert [record.step for record in islice(other, WARMUP + last + 1)][-1] == last
    assert same(everything(resumed), everything(straight))
    for opened in (records, other):
        opened.close()  # type: ignore[attr-defined]
    assert log_rows(folder) == log_rows(folder / "straight")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_from_outside_leaves_a_resumable_run(number: signal.Signals, tmp_path: Path) -> None:
    ended = signalled(tmp_path, number, save_every=10**9, after=9)
    assert ended.returncode == 1
    assert f"Interrupted: stopped by {number.name} after step" in ended.stderr
    # The checkpoint holds the very last step of the log.
    resumed = build(steps=ENDLESS["steps"])
    load_checkpoint(resumed, tmp_path, {"method": METHOD, **ENDLESS})
    assert resumed.step == int(log_rows(tmp_path)[-1]["step"]) + 1
    resume_and_compare(tmp_path, 10**9)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_sigkill_amid_saves_loses_nothing(tmp_path: Path) -> None:
    """It saves after every step, so most of its time goes into writes."""
    ended = signalled(tmp_path, signal.SIGKILL, save_every=1, after=9)
    assert ended.returncode == -signal.SIGKILL
    resume_and_compare(tmp_path, 1)


# Non-finite values.


class BreaksAt:
    """A reward whose value at one row of one step's global batch is not finite; micro-batches come in order."""

    def __init__(self, step: int, row: int, value: float) -> None:
        self.call, self.row, self.value = 2 * step + row // 4, row % 4, value
        self.calls = -1

    def __call__(self, x0: Tensor, condition: Any) -> Tensor:
        self.calls += 1
        good = toy.REWARDS["mode"](x0)
        if self.calls != self.call:
            return good
        broken = torch.zeros(len(x0))
        broken[self.row] = self.value
        return good + broken


@pytest.mark.parametrize(("step", "row", "value"), [(2, 6, float("nan")), (3, 1, float("inf"))])
def test_a_reward_that_is_not_finite_stops_the_run(
    step: int, row: int, value: float, whole: Any, tmp_path: Path
) -> None:
    with pytest.raises(NonFiniteError) as error:
        finish(build(reward=BreaksAt(step, row, value)), tmp_path, save_every=2)
    u = draw(OPTIONS["seed"], step, "generator/t", (8,), slice(0, 8), uniform=True)
    level = float(METHOD.time_law.quantile(u)[row])
    shown = "nan" if value != value else "-inf"
    assert f"the loss of the reward became {shown} at step {step} for a sample at t = {level:.4g}" in str(error.value)
    assert "resume from the last checkpoint" in str(error.value)
    # Neither log nor checkpoint know of the step, and the run goes on from the step before.
    assert log_rows(tmp_path) == whole[1][: WARMUP + step]
    assert all(bool(value.isfinite().all()) for value in saved_tensors(tmp_path).values())
    resumed = build(seed=1)
    finish(resumed, tmp_path, save_every=2, resume=True)
    assert same(everything(resumed), whole[0])
    assert log_rows(tmp_path) == whole[1]


def saved_tensors(folder: Path) -> dict[str, Tensor]:
    with safe_open(folder / CHECKPOINT, framework="pt") as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118


def regularizer_that_breaks(call: int) -> Callable[..., Tensor]:
    """Integral KL until its `call`-th evaluation, whose third sample has an infinite loss and a finite pull."""
    calls = iter(range(10**6))

    def own_regularizer(noised: Any, scores: Any) -> Tensor:
        loss = integral_kl(noised, scores)
        if next(calls) == call:
            loss = loss + torch.tensor([0.0, 0.0, torch.inf, 0.0])
        return loss

    return own_regularizer


def test_a_regularizer_that_is_infinite_stops_the_run(tmp_path: Path) -> None:
    def method(call: int) -> Method:
        return replace(toy.TOY_METHODS["kl-one"], name="mine", regularizer=regularizer_that_breaks(call))

    reference = build()
    finish(reference, tmp_path / "whole", method=method(-1))
    with pytest.raises(NonFiniteError) as error:
        finish(build(), tmp_path / "run", method=method(2 * 4 + 1), save_every=3)
    u = draw(OPTIONS["seed"], 4, "generator/t", (8,), slice(0, 8), uniform=True)
    level = float(METHOD.time_law.quantile(u)[4 + 2])
    assert f"the loss of the regularizer became inf at step 4 for a sample at t = {level:.4g}" in str(error.value)
    resumed = build(seed=1)
    finish(resumed, tmp_path / "run", method=method(-1), save_every=3, resume=True)
    assert same(everything(resumed), everything(reference))
    assert log_rows(tmp_path / "run") == log_rows(tmp_path / "whole")


def break_gradient(state: State, role: str, call: int) -> State:
    """Make the gradient of a role's last bias not finite at its `call`-th backward pass; the record stays finite."""
    calls = iter(range(10**6))
    parameter = list(getattr(state.roles, role).module.parameters())[-1]
    parameter.register_hook(lambda grad: grad * torch.nan if next(calls) == call else grad)
    return state


@pytest.mark.parametrize("save_every", [1, 3])
def test_weights_that_are_not_finite_never_reach_a_checkpoint(save_every: int, whole: Any, tmp_path: Path) -> None:
    # The second half of step 1's batch: with save_every 1 the save refuses, else the next step's record tells.
    with pytest.raises(NonFiniteError) as error:
        finish(break_gradient(build(), "generator", 3), tmp_path, save_every=save_every)
    if save_every == 1:
        assert "generator.parameter.network.layers.6.bias is not finite after step 2" in str(error.value)
        assert "no checkpoint is written" in str(error.value)
    else:
        assert "the loss of the assistant became nan at step 2 for a sample at t = " in str(error.value)
    assert all(bool(value.isfinite().all()) for value in saved_tensors(tmp_path).values())
    resumed = build(seed=1)
    finish(resumed, tmp_path, save_every=save_every, resume=True)
    assert same(everything(resumed), whole[0])
    assert log_rows(tmp_path) == whole[1]


def test_the_last_step_is_checked_too(whole: Any, tmp_path: Path) -> None:
    """Nobody looks at a record after it: the save has to."""
    with pytest.raises(NonFiniteError, match="is not finite after step 6"):
        finish(break_gradient(build(), "generator", 2 * STEPS - 1), tmp_path, save_every=1000)
    # The checkpoint is the one from the end of the warm-up.
    resumed = build(seed=1)
    finish(resumed, tmp_path, save_every=1000, resume=True)
    assert same(everything(resumed), whole[0])


def test_the_assistant_in_the_warm_up_names_its_own_noise_level(tmp_path: Path) -> None:
    # Two updates of two micro-batches a step: call 3 ends step −3, so that step −2 sees weights that are not finite.
    with pytest.raises(NonFiniteError) as error:
        finish(break_gradient(build(), "assistant", 3), tmp_path, save_every=1000)
    u = draw(OPTIONS["seed"], -2, "assistant/1/t", (8,), slice(0, 8), uniform=True)
    level = float(METHOD.assistant_time_law.quantile(u)[0])
    assert f"the loss of the assistant became nan at step -2 for a sample at t = {level:.4g}" in str(error.value)


def test_a_saved_state_must_be_finite_throughout(tmp_path: Path) -> None:
    """Averages and optimizer slots count as much as weights."""
    state = build()
    finish(state, tmp_path)
    before = contents(tmp_path)
    for holder in (
        state.roles.generator.ema["network.layers.0.bias"],
        next(iter(state.roles.assistant.optimizer.state.values()))["exp_avg_sq"],  # type: ignore[union-attr]
    ):
        kept = holder.clone()
        holder.view(-1)[-1] = torch.inf
        with pytest.raises(NonFiniteError, match="is not finite"):
            save_checkpoint(state, tmp_path, {})
        holder.copy_(kept)
    assert contents(tmp_path) == before


# Fail closed.


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def overwrite(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 40)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_file(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path, metadata={"format": "pt"})


def other_format(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path, metadata={"distar_core": json.dumps({"format": "checkpoint 7"})})


def pickled(path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, path)


def remove(path: Path) -> None:
    path.unlink()


def with_less(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        kept = {name: file.get_tensor(name).clone() for name in file.keys() if not name.endswith("bias.exp_avg")}  # noqa: SIM118
        save_file(kept, path, metadata=file.metadata())


def newer(path: Path) -> None:
    rewrite(path, lambda meta: meta | {"format": "distar_core checkpoint 3"})


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (truncate, ValueError, ["truncated", "restore"]),
        (overwrite, ValueError, ["no safetensors file", "restore"]),
        (empty, ValueError, ["no safetensors file", "restore"]),
        (pickled, ValueError, ["no safetensors file", "restore"]),
        (other_file, ValueError, ["not written by distar_core", "needs"]),
        (other_format, ValueError, ["not written by distar_core", "needs"]),
        (with_less, ValueError, ["layers.0.bias.exp_avg is missing", "restore"]),
        (newer, ValueError, ["format 3", "update"]),
        (remove, FileNotFoundError, ["there is no checkpoint", "start a new run"]),
        (directory, FileNotFoundError, ["there is no checkpoint", "start a new run"]),
    ],
)
def test_a_bad_checkpoint_is_refused_and_nothing_changes(
    damage: Callable[[Path], None], error: type[Exception], words: list[str], tmp_path: Path
) -> None:
    stop_after(4, build(), tmp_path, save_every=1)
    damage(tmp_path / CHECKPOINT)
    state, before = build(seed=1), contents(tmp_path)
    learnt = everything(state)
    with pytest.raises(error) as caught:
        finish(state, tmp_path, save_every=1, resume=True)
    assert all(word in str(caught.value) for word in [*words, str(tmp_path / CHECKPOINT)])
    assert same(everything(state), learnt)
    assert state.step is None
    assert contents(tmp_path) == before


def test_a_checkpoint_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    stop_after(4, build(), tmp_path, save_every=1)
    text = (tmp_path / CHECKPOINT).read_bytes()
    config = {"method": METHOD, **OPTIONS}
    state = build(seed=1)
    learnt = everything(state)
    for end in [0, 1, 7, 8, *range(9, len(text), len(text) // 40), len(text) - 1]:
        (tmp_path / CHECKPOINT).write_bytes(text[:end])
        with pytest.raises(ValueError, match="truncated or no safetensors file"):
            load_checkpoint(state, tmp_path, config)
    assert same(everything(state), learnt)
    # Control: the whole file loads.
    (tmp_path / CHECKPOINT).write_bytes(text)
    load_checkpoint(state, tmp_path, config)
    assert not same(everything(state), learnt)


@pytest.mark.parametrize(
    ("changes", "method", "key", "values"),
    [
        ({"seed": 4}, METHOD, "seed", ["4", "3"]),
        ({"steps": 9}, METHOD, "steps", ["9", "6"]),
        ({"warmup": 2}, METHOD, "warmup", ["2", "3"]),
        ({"settings": {"reward": "side"}}, METHOD, "reward", ["'side'", "None"]),
        ({}, replace(METHOD, reward_scale=0.9), "reward_scale", ["0.9", "0.8"]),
        ({}, replace(METHOD, distance=toy.PseudoHuber(0.06)), "distance", ["0.06", "0.05"]),
        ({}, METHODS["diff-instruct*"], "method.assistant_time_law", ["log_uniform", "levels"]),
    ],
)
def test_another_configuration_is_refused_with_key_and_values(
    changes: dict[str, Any], method: Method, key: str, values: list[str], tmp_path: Path
) -> None:
    stop_after(4, build(), tmp_path, save_every=1)
    state, before = build(seed=1), contents(tmp_path)
    learnt = everything(state)
    with pytest.raises(ValueError, match=r"is .* here but .* in checkpoint") as error:
        finish(state, tmp_path, method=method, save_every=1, resume=True, **changes)
    assert all(word in str(error.value) for word in [key, *values, str(tmp_path), "another folder"])
    assert same(everything(state), learnt)
    assert state.step is None
    assert contents(tmp_path) == before


def test_the_key_that_differs_is_named_inside_a_method(tmp_path: Path) -> None:
    stop_after(4, build(), tmp_path, save_every=1)
    with pytest.raises(ValueError, match="reward_scale") as error:
        finish(build(), tmp_path, method=replace(METHOD, reward_scale=0.9), save_every=1, resume=True)
    # One sentence about one number, not two whole methods side by side.
    assert "time_law" not in str(error.value)


def test_how_often_to_save_may_change(whole: Any, tmp_path: Path) -> None:
    stop_after(4, build(), tmp_path, save_every=1)
    resumed = build(seed=1)
    finish(resumed, tmp_path, save_every=5, resume=True)
    assert same(everything(resumed), whole[0])


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: build(width=9), ["(9,)", "(8,)"]),
        (lambda: build_double(), ["torch.float64", "torch.float32"]),
    ],
)
def test_other_networks_are_refused(other: Callable[[], State], words: list[str], tmp_path: Path) -> None:
    stop_after(4, build(), tmp_path, save_every=1)
    state, before = other(), contents(tmp_path)
    learnt = everything(state)
    with pytest.raises(ValueError, match=r"is .* here but .* in checkpoint") as error:
        finish(state, tmp_path, save_every=1, resume=True)
    assert all(word in str(error.value) for word in [*words, str(tmp_path), "build the networks of the run"])
    assert same(everything(state), learnt)
    assert state.step is None
    assert contents(tmp_path) == before


def build_double() -> State:
    state = build()
    for role in (state.roles.generator, state.roles.assistant):
        role.module.double()
    return state


def test_another_optimizer_is_refused(tmp_path: Path) -> None:
    """Adam cannot go on from RMSprop's slots: it would end in a KeyError, or worse, in silence."""
    stop_after(4, build(), tmp_path, save_every=1)
    state = build(seed=1)
    roles = [
        Trainable(r.module, torch.optim.SGD(r.module.parameters(), lr=0.1, momentum=0.9), r.lr, r.ema_decay)
        for r in (state.roles.generator, state.roles.assistant)
    ]
    other = State(state.roles._replace(generator=roles[0], assistant=roles[1]), state.schedule)
    learnt = everything(other)
    with pytest.raises(ValueError, match="optimizer"):
        finish(other, tmp_path, save_every=1, resume=True)
    assert same(everything(other), learnt)


def test_a_folder_with_a_run_is_not_overwritten(tmp_path: Path) -> None:
    stop_after(4, build(), tmp_path, save_every=1)
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match=r"already holds a run; resume it, or choose another folder") as error:
        finish(build(), tmp_path)
    assert str(tmp_path) in str(error.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("below", ["", "run", "deep/run"])
def test_a_folder_that_cannot_be_written_is_refused(below: str, resume: bool, tmp_path: Path) -> None:
    """Below a regular file not even root can write."""
    (tmp_path / "file").write_text("mine")
    folder = tmp_path / "file" / below if below else tmp_path / "file"
    with pytest.raises((PermissionError, FileNotFoundError)) as error:
        finish(build(), folder, resume=resume)
    assert str(folder) in str(error.value)
    assert "folder" in str(error.value)
    assert contents(tmp_path) == {"file": b"mine"}


def test_a_failed_resume_creates_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        finish(build(), tmp_path / "typo", resume=True)
    assert list(tmp_path.iterdir()) == []


def test_the_configuration_is_written_as_json(tmp_path: Path) -> None:
    finish(build(), tmp_path, settings={"reward": "mode"})
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["reward"] == "mode"
    assert config["seed"] == OPTIONS["seed"]
    assert config["method"]["distance"] == {"PseudoHuber": {"c": 0.05}}
    with safe_open(tmp_path / CHECKPOINT, framework="pt") as file:
        assert json.loads(file.metadata()["distar_core"])["config"] == config


# Damage, and what a run outlives.


def header_of(text: bytes) -> tuple[int, dict[str, Any]]:
    """Where the tensors of a safetensors file begin, and its header."""
    length = int.from_bytes(text[:8], "little")
    return 8 + length, json.loads(text[8 : 8 + length])


def flipped(text: bytes, bit: int) -> bytes:
    changed = bytearray(text)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def some_bits(start: int, end: int, count: int) -> list[int]:
    """Bits of the bytes from start to end."""
    rng = torch.Generator().manual_seed(7)
    return (8 * start + torch.randint(8 * (end - start), (count,), generator=rng)).tolist()


def test_a_flipped_bit_of_a_tensor_is_refused_by_its_name(tmp_path: Path) -> None:
    stop_after(5, build(width=2), tmp_path, save_every=1)
    text = (tmp_path / CHECKPOINT).read_bytes()
    start, header = header_of(text)
    state, config = build(seed=1, width=2), {"method": METHOD, **OPTIONS}
    learnt = everything(state)
    del header["__metadata__"]
    for bit in some_bits(start, len(text), 60):
        (tmp_path / CHECKPOINT).write_bytes(flipped(text, bit))
        inside = bit // 8 - start
        (hit,) = (
            name for name, about in header.items() if about["data_offsets"][0] <= inside < about["data_offsets"][1]
        )
        for known in (config, None):
            with pytest.raises(ValueError, match=rf"^{hit} in checkpoint"):
                load_checkpoint(state, tmp_path, known)
    assert same(everything(state), learnt)


def test_control_without_digests_flipped_bits_are_loaded(tmp_path: Path) -> None:
    stop_after(5, build(width=2), tmp_path, save_every=1)
    as_format_1(tmp_path / CHECKPOINT, build(width=2))
    text = (tmp_path / CHECKPOINT).read_bytes()
    for bit in some_bits(header_of(text)[0], len(text), 10):
        (tmp_path / CHECKPOINT).write_bytes(flipped(text, bit))
        load_checkpoint(build(width=2), tmp_path, {"method": METHOD, **OPTIONS})


def test_a_flipped_bit_of_the_header_changes_nothing_that_is_loaded(tmp_path: Path) -> None:
    """Another spelling of a number, 1E-08 for 1e-08, is the same number; anything else is refused."""
    stop_after(5, build(width=2), tmp_path, save_every=1)
    text = (tmp_path / CHECKPOINT).read_bytes()
    right = build(seed=1, width=2)
    load_checkpoint(right, tmp_path, None)
    refused, bits = 0, some_bits(0, header_of(text)[0], 200)
    for bit in bits:
        (tmp_path / CHECKPOINT).write_bytes(flipped(text, bit))
        state = build(seed=1, width=2)
        try:
            load_checkpoint(state, tmp_path, None)
        except ValueError as error:
            assert str(tmp_path / CHECKPOINT) in str(error)  # noqa: PT017
            refused += 1
        else:
            assert same(everything(state), everything(right))
    assert refused > 0.9 * len(bits)


def test_what_is_loaded_does_not_hang_on_the_file(tmp_path: Path) -> None:
    """Tensors of an open safetensors file are views of it, and optimizers keep what they are handed."""
    stop_after(5, build(), tmp_path, save_every=1)
    state = build(seed=1)
    load_checkpoint(state, tmp_path, None)
    before = everything(state)
    with open(tmp_path / CHECKPOINT, "rb+") as file:
        file.write(b"\0" * (tmp_path / CHECKPOINT).stat().st_size)
    assert same(everything(state), before)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [(None, {}), (torch.optim.SGD, {"lr": 1e-2, "momentum": 0.9}), (torch.optim.SGD, {"lr": 1e-2})],
)
def test_a_checkpoint_of_the_first_format_resumes_bit_for_bit(kind: Any, settings: Any, tmp_path: Path) -> None:
    def made(seed: int) -> State:
        state = build(seed)
        if kind is None:
            return state
        roles = [Trainable(r.module, kind(r.module.parameters(), **settings)) for r in (state.roles[0], state.roles[2])]
        return State(state.roles._replace(generator=roles[0], assistant=roles[1]), state.schedule)

    reference = made(0)
    finish(reference, tmp_path / "whole")
    stop_after(5, made(0), tmp_path / "run", save_every=1)
    as_format_1(tmp_path / "run" / CHECKPOINT, made(0))
    resumed = made(1)
    finish(resumed, tmp_path / "run", save_every=1, resume=True)
    assert same(everything(resumed), everything(reference))
    assert log_rows(tmp_path / "run") == log_rows(tmp_path / "whole")
    with safe_open(tmp_path / "run" / CHECKPOINT, framework="pt") as file:
        assert json.loads(file.metadata()["distar_core"])["format"] == f"{runs.KIND} {runs.FORMAT}"


def test_a_run_that_the_first_format_kept_resumes(tmp_path: Path) -> None:
    """tests/runs/format_1 was written by the library of that time, after 5 of 9 steps; other machines round otherwise."""
    folder = tmp_path / "run"
    shutil.copytree(Path(__file__).parent / "format_1", folder)
    stop_after(5, build(width=2), tmp_path / "by_hand", save_every=1)
    as_format_1(tmp_path / "by_hand" / CHECKPOINT, build(width=2))
    old, by_hand = ({k: v.shape for k, v in saved_tensors(one).items()} for one in (folder, tmp_path / "by_hand"))
    assert old == by_hand, "what the test before writes by hand is the layout of that time"
    reference, resumed = build(width=2), build(seed=1, width=2)
    finish(reference, tmp_path / "whole")
    finish(resumed, folder, resume=True)
    assert [row["step"] for row in log_rows(folder)] == [row["step"] for row in log_rows(tmp_path / "whole")]
    expected = everything(reference)
    for name, value in everything(resumed).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5)


def reversed_optimizers(state: State) -> State:
    roles = []
    for role in (state.roles.generator, state.roles.assistant):
        parameters = list(role.module.parameters())[::-1]
        optimizer = type(role.optimizer)([{**role.optimizer.param_groups[0], "params": parameters}])  # type: ignore[union-attr, call-arg, misc]
        roles.append(Trainable(role.module, optimizer, lr=role.lr, ema_decay=role.ema_decay))
    return State(state.roles._replace(generator=roles[0], assistant=roles[1]), state.schedule)


@pytest.mark.parametrize("by_name", [True, False])
def test_optimizer_state_finds_its_parameter_by_name(by_name: bool, whole: Any, tmp_path: Path) -> None:
    """Control: by number, as the first format had it, it ends with others, here of another shape."""
    stop_after(5, build(), tmp_path, save_every=1)
    if not by_name:
        as_format_1(tmp_path / CHECKPOINT, build())
    resumed = reversed_optimizers(build(seed=1))
    if by_name:
        finish(resumed, tmp_path, save_every=1, resume=True)
        assert [name for name in whole[0] if "network" in name and "exp" not in name]
        learnt = everything(resumed)
        assert all(torch.equal(learnt[name], value) for name, value in whole[0].items() if "network" in name)
    else:
        with pytest.raises(RuntimeError, match="size"):
            finish(resumed, tmp_path, save_every=1, resume=True)


def test_an_optimizer_over_foreign_parameters_is_refused(tmp_path: Path) -> None:
    state = build()
    state.roles.generator.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(5))]})  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"generator's optimizer holds a parameter of shape \(5,\)"):
        save_checkpoint(state, tmp_path, {})


def forget(key: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The metadata of a run that did not know a key of its configuration yet."""

    def change(meta: dict[str, Any]) -> dict[str, Any]:
        *path, last = key.split(".")
        inside = meta["config"]
        for part in path:
            inside = inside[part]
        del inside[last]
        return meta

    return change


@pytest.mark.parametrize(
    ("key", "at_default"),
    [
        ("method.cfg_scale", True),
        ("method.weight", True),
        ("method.reward_scale", False),
        ("method.law", False),
        ("method.distance", False),
        ("assistant_updates", False),
        ("warmup", False),
        ("learners", True),
        ("learners.generator.ema_decay", True),
        ("learners.assistant.groups.0.betas", True),
        ("note", True),
        ("inside.depth", True),
        ("inside.width", False),
        ("seed", False),
    ],
)
def test_a_key_that_a_run_did_not_know_is_at_its_default(
    key: str, at_default: bool, whole: Any, tmp_path: Path
) -> None:
    """A setting that is new has to be at its default; then the run goes on, else it is refused by its name."""
    settings: dict[str, Any] = {"note": 1, "inside": {"depth": 2, "width": 3}}
    options: dict[str, Any] = {
        "settings": settings,
        "defaults": {"note": 1, "inside": {"depth": 2, "width": 4}, "other": 0},
    }
    stop_after(5, build(), tmp_path, save_every=1, **options)
    rewrite(tmp_path / CHECKPOINT, forget(key))
    resumed = build(seed=1)
    if at_default:
        finish(resumed, tmp_path, resume=True, **options)
        assert same(everything(resumed), whole[0])
    else:
        with pytest.raises(ValueError, match=rf"^{key}\b.* here but"):
            finish(resumed, tmp_path, resume=True, **options)


def test_an_option_of_the_loop_may_be_named_or_left_at_its_default(tmp_path: Path) -> None:
    bare = {key: value for key, value in OPTIONS.items() if key not in ("warmup", "assistant_updates", "micro_batch")}
    records = run(build(), METHOD, no_conditions, tmp_path, save_every=1, **bare)
    assert len(list(islice(records, 3))) == 3
    records.close()  # type: ignore[attr-defined]
    assert len(list(run(build(), METHOD, no_conditions, tmp_path, resume=True, warmup=0, **bare))) == STEPS - 3
    for key in ("warmup", "assistant_updates"):
        rewrite(tmp_path / CHECKPOINT, forget(key))
    assert list(run(build(), METHOD, no_conditions, tmp_path, resume=True, assistant_updates=1, **bare)) == []


def other_learner(change: str) -> State:
    state = build(seed=1)
    old = state.roles.generator
    betas = (0.5, 0.5) if change == "betas" else old.optimizer.param_groups[0]["betas"]  # type: ignore[union-attr]
    optimizer = torch.optim.Adam(old.module.parameters(), lr=1.0, betas=betas, foreach=change == "foreach")
    ema_decay = 0.5 if change == "ema_decay" else old.ema_decay
    norm = 1.0 if change == "max_grad_norm" else None
    lr = (lambda step: 0.5) if change == "learning rate" else old.lr
    learner = Trainable(old.module, optimizer, lr=lr, ema_decay=ema_decay, max_grad_norm=norm)
    return State(state.roles._replace(generator=learner), state.schedule)


@pytest.mark.parametrize("change", ["betas", "ema_decay", "max_grad_norm", "learning rate"])
def test_another_way_to_learn_is_refused(change: str, tmp_path: Path) -> None:
    stop_after(5, build(), tmp_path, save_every=1)
    state = other_learner(change)
    learnt = everything(state)
    with pytest.raises(ValueError, match=rf"generator.*{change}.* here but"):
        finish(state, tmp_path, resume=True)
    assert same(everything(state), learnt)


def test_how_an_optimizer_computes_may_change(tmp_path: Path) -> None:
    stop_after(5, build(), tmp_path, save_every=1)
    finish(other_learner("foreach"), tmp_path, resume=True)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_have_the_permissions_that_the_umask_leaves(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        finish(build(), tmp_path, texts={"note.txt": "mine"})
    finally:
        os.umask(before)
    found = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()}
    assert {CHECKPOINT, "config.json", "log.csv", "note.txt"} < found.keys()
    assert found == dict.fromkeys(found, oct(0o666 & ~umask))


@pytest.mark.parametrize(
    ("error", "kind"), [(PermissionError(13, "Permission denied"), PermissionError), (OSError(5, "I/O error"), OSError)]
)
def test_a_file_that_may_not_be_read_is_not_truncated(
    error: OSError, kind: type[OSError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    stop_after(5, build(), tmp_path, save_every=1)
    monkeypatch.setattr(runs, "open", refuse, raising=False)
    with pytest.raises(kind) as caught:
        load_checkpoint(build(), tmp_path, None)
    assert str(tmp_path / CHECKPOINT) in str(caught.value)
    assert "truncated" not in str(caught.value)
    assert error.strerror in str(caught.value)


# The log.


def as_excel(text: str) -> bytes:
    return b"\xef\xbb\xbf" + text.replace(",", ";").encode()


@pytest.mark.parametrize(
    "saved",
    [
        as_excel,
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.replace(",", ";").encode(),
        lambda text: text.replace(",", "\t").encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace("reward", "Prämie").encode("latin-1"),
        lambda text: "".join(f'"{line.rstrip()}"\r\n' for line in text.splitlines()).encode(),
        lambda text: text.replace("-2,0.", '-2,"0,').replace(",,,", '",,,', 2).encode(),
        lambda text: text.replace("-2,", "-2.0,").encode(),
        lambda text: text.replace("-2,", "minus two,").encode(),
        lambda text: "".join(sorted(text.splitlines(keepends=True), reverse=True)).encode(),
        lambda text: "".join(line for line in text.splitlines(keepends=True) if not line.startswith("-2,")).encode(),
        lambda text: text.replace("-2,", "-2,1,2,3,4,5,").encode(),
        lambda text: text.replace("step,", "").encode(),
        lambda text: b"",
        lambda text: b"\0" * 100,
    ],
)
def test_a_log_that_is_not_as_it_was_written_is_set_aside(
    saved: Callable[[str], bytes], whole: Any, tmp_path: Path
) -> None:
    stop_after(5, build(), tmp_path, save_every=1)
    changed = saved((tmp_path / "log.csv").read_text("utf-8"))
    (tmp_path / "log.csv").write_bytes(changed)
    (tmp_path / "log-aside.csv").write_text("an earlier one")
    resumed = build(seed=1)
    with pytest.warns(UserWarning, match=r"log-aside1\.csv"):
        finish(resumed, tmp_path, save_every=1, resume=True)
    assert same(everything(resumed), whole[0])
    assert (tmp_path / "log-aside1.csv").read_bytes() == changed
    assert (tmp_path / "log-aside.csv").read_text() == "an earlier one"
    assert log_rows(tmp_path) == whole[1][5:]


@pytest.mark.parametrize(
    "saved",
    [
        lambda text: text.replace("\r\n", "\n"),
        lambda text: "".join(
            ",".join(f'"{cell}"' for cell in line.split(",")) + "\n" for line in text.split("\r\n") if line
        ),
        lambda text: text + "3,0.01,2.5",
    ],
)
def test_a_log_that_says_the_same_is_kept(saved: Callable[[str], str], whole: Any, tmp_path: Path) -> None:
    stop_after(5, build(), tmp_path, save_every=1)
    (tmp_path / "log.csv").write_bytes(saved((tmp_path / "log.csv").read_bytes().decode()).encode())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finish(build(seed=1), tmp_path, save_every=1, resume=True)
    assert log_rows(tmp_path) == whole[1]


def test_a_log_without_a_column_that_came_later_is_kept(whole: Any, tmp_path: Path) -> None:
    stop_after(5, build(), tmp_path, save_every=1)
    with open(tmp_path / "log.csv", newline="") as file:
        rows = [{key: value for key, value in row.items() if key != "gap_norm"} for row in csv.DictReader(file)]
    with open(tmp_path / "log.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    finish(build(seed=1), tmp_path, save_every=1, resume=True)
    found = log_rows(tmp_path)
    assert [row | {"gap_norm": ""} for row in whole[1][:5]] == found[:5]
    assert whole[1][5:] == found[5:]


if __name__ == "__main__":
    torch.set_num_threads(1)
    endless = build(steps=ENDLESS["steps"])
    for _ in run(endless, METHOD, no_conditions, sys.argv[1], save_every=int(sys.argv[2]), **ENDLESS):
        pass


def test_one_run_at_a_time_works_in_a_folder(tmp_path: Path) -> None:
    first = run(build(), METHOD, no_conditions, tmp_path, **OPTIONS)
    next(first)
    log = (tmp_path / "log.csv").read_bytes()
    with pytest.raises(FileExistsError, match="another process is at work"):
        next(run(build(), METHOD, no_conditions, tmp_path, **OPTIONS))
    assert (tmp_path / "log.csv").read_bytes() == log
    first.close()  # type: ignore[attr-defined]
    finish(build(), tmp_path)


def test_files_of_others_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(FileExistsError, match="holds other files"):
        finish(build(), tmp_path)
    assert contents(tmp_path) == {"config.json": b"mine"}
    claim(tmp_path / "demo", "demo")
    with pytest.raises(FileExistsError, match="belongs to a demo"):
        finish(build(), tmp_path / "demo")


def test_a_signal_during_the_last_save_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save_and_signal(*arguments: Any) -> Path:
        signal.raise_signal(signal.SIGTERM)
        return save_checkpoint(*arguments)

    monkeypatch.setattr(runs, "save_checkpoint", save_and_signal)
    with pytest.raises(Interrupted) as stopped:
        finish(build(), tmp_path, save_every=1000)
    assert stopped.value.signal == signal.SIGTERM
    monkeypatch.undo()
    state = build(seed=5)
    finish(state, tmp_path, resume=True)
    assert state.step == STEPS


def test_a_full_disk_is_told_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(runs, "save_file", full)
    with pytest.raises(OSError, match=r"cannot be written .*No space left.*; free some space"):
        finish(build(), tmp_path)


def test_another_micro_batch_resumes(whole: Any, tmp_path: Path) -> None:
    stop_after(5, build(), tmp_path, save_every=1)
    state = build(seed=1)
    finish(state, tmp_path, resume=True, **{"micro_batch": OPTIONS["batch"]})
    assert largest_relative(everything(state), whole[0], "generator network") < 1e-4


def test_a_lock_of_somebody_else_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folders.FileLock, "acquire", refuse)
    with pytest.raises(PermissionError, match=r"\.distar_core\.lock"):
        finish(build(), tmp_path)
