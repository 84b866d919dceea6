"""What a run keeps: earlier checkpoints and the best one, a damaged one passed over, and logs for other programs."""

from __future__ import annotations

import errno
import json
import math
import os
import warnings
import weakref
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from distar_core import Trainable
from distar_core.cli.runs import chosen_recipe
from distar_core.errors import MissingPackagesError
from distar_core.runs import logs
from distar_core.runs import run as runs
from distar_core.runs.run import BEST, CHECKPOINT, load_checkpoint, run
from distar_core.toy.recipe import ToyRecipe
from tests.runs.test_run import (
    METHOD,
    OPTIONS,
    STEPS,
    WARMUP,
    Killed,
    build,
    die,
    everything,
    finish,
    log_rows,
    no_conditions,
    same,
    stop_after,
)


def step_in(path: Path) -> int:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["distar_core"])["step"]


def kept_in(folder: Path) -> dict[str, int]:
    """The step that comes next after each checkpoint."""
    return {path.name: step_in(path) for path in folder.iterdir() if path.name.startswith("checkpoint")}


def after(*steps: int) -> dict[str, int]:
    return {f"checkpoint_at_{step}.safetensors": step for step in steps}


@pytest.mark.parametrize(
    ("keep", "earlier"), [(1, ()), (3, (4, 5)), (8, (-1, 0, 1, 2, 3, 4, 5)), (50, (-2, -1, 0, 1, 2, 3, 4, 5))]
)
def test_the_latest_checkpoints_are_kept(keep: int, earlier: tuple[int, ...], tmp_path: Path) -> None:
    finish(build(), tmp_path, save_every=1, keep=keep)
    assert kept_in(tmp_path) == {CHECKPOINT: STEPS} | after(*earlier)


def test_each_of_them_is_the_run_as_it_was(tmp_path: Path) -> None:
    finish(build(), tmp_path / "run", save_every=1, keep=4)
    for count, name in ((WARMUP + 3, "checkpoint_at_3.safetensors"), (WARMUP + 5, "checkpoint_at_5.safetensors")):
        stop_after(count, build(), tmp_path / name, save_every=1)
        found, wanted = build(seed=1), build(seed=2)
        load_checkpoint(found, tmp_path / "run" / name, {"method": METHOD, **OPTIONS})
        load_checkpoint(wanted, tmp_path / name, {"method": METHOD, **OPTIONS})
        assert same(everything(found), everything(wanted))


def test_how_many_are_kept_may_change(tmp_path: Path) -> None:
    stop_after(WARMUP + 3, build(), tmp_path, save_every=1, keep=9)
    assert len(kept_in(tmp_path)) == WARMUP + 3
    stop_after(1, build(), tmp_path, save_every=1, keep=2, resume=True)
    assert kept_in(tmp_path) == {CHECKPOINT: 4} | after(3)
    finish(build(), tmp_path, save_every=1, resume=True)
    assert kept_in(tmp_path) == {CHECKPOINT: STEPS}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    text = bytearray(path.read_bytes())
    text[-1] ^= 1
    path.write_bytes(text)


def flip_in_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"learners", b"Learners", 1))


@pytest.mark.parametrize("damage", [truncate, flip, flip_in_the_header, Path.unlink])
def test_a_damaged_checkpoint_is_passed_over(damage: Any, tmp_path: Path) -> None:
    """The run goes on from the newest one that is whole, and ends as if nothing had happened."""
    reference = build()
    finish(reference, tmp_path / "whole")
    folder = tmp_path / "run"
    stop_after(WARMUP + 4, build(), folder, save_every=1, keep=3)
    damage(folder / CHECKPOINT)
    damage(folder / "checkpoint_at_3.safetensors")
    resumed = build(seed=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        records = run(resumed, METHOD, no_conditions, folder, resume=True, save_every=1, keep=3, **OPTIONS)
        assert next(records).step == 2
        # the damaged newest has no place among those that are kept
        assert [step_in(folder / name) for name in (CHECKPOINT, *after(2))] == [3, 2]
        list(records)
    said = [str(one.message) for one in caught if "goes on from" in str(one.message)]
    if damage is not Path.unlink:
        assert len(said) == 1
        assert str(folder / CHECKPOINT) in said[0]
        assert "checkpoint_at_2.safetensors" in said[0]
    assert same(everything(resumed), everything(reference))
    assert log_rows(folder) == log_rows(tmp_path / "whole")
    assert kept_in(folder) == {CHECKPOINT: STEPS} | after(4, 5)


def test_when_all_are_damaged_the_newest_is_named_and_nothing_changes(tmp_path: Path) -> None:
    stop_after(WARMUP + 4, build(), tmp_path, save_every=1, keep=2)
    for name in kept_in(tmp_path):
        truncate(tmp_path / name)
    state = build(seed=1)
    learnt = everything(state)
    with pytest.raises(runs.DamagedError, match="truncated") as error:
        finish(state, tmp_path, resume=True)
    assert str(tmp_path / CHECKPOINT) in str(error.value)
    assert same(everything(state), learnt)


def test_other_settings_are_no_damage(tmp_path: Path) -> None:
    stop_after(WARMUP + 4, build(), tmp_path, save_every=1, keep=2)
    with pytest.raises(ValueError, match="seed is 4 here but 3 in checkpoint") as error:
        finish(build(), tmp_path, resume=True, seed=4)
    assert not isinstance(error.value, runs.DamagedError)


@pytest.mark.parametrize("place", ["link", "replace", "unlink"])
def test_a_kill_while_it_makes_room_loses_nothing(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After every call of the system on the way: at its k-th the process is gone."""
    reference = build()
    finish(reference, tmp_path / "whole")
    options: dict[str, Any] = {"save_every": 1, "keep": 3, "best": "reward"}
    for k in range(4):
        folder = tmp_path / f"{place}{k}"
        stop_after(WARMUP + 3, build(), folder, **options)
        real, calls = getattr(os, place), iter(range(10**6))
        records = run(build(), METHOD, no_conditions, folder, resume=True, **(OPTIONS | options))
        next(records)
        with monkeypatch.context() as patch:
            patch.setattr(
                os, place, lambda *a, real=real, calls=calls, k=k, **o: die() if next(calls) == k else real(*a, **o)
            )
            try:
                list(records)
            except Killed:
                pass
            else:
                assert step_in(folder / CHECKPOINT) == STEPS
        resumed = build(seed=1)
        finish(resumed, folder, resume=True, **options)
        assert same(everything(resumed), everything(reference))
        assert log_rows(folder) == log_rows(tmp_path / "whole")
        assert not list(folder.glob("checkpoint_*.partial"))


def test_a_file_system_without_hard_links_gets_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    finish(build(), tmp_path, save_every=1, keep=3, best="reward")
    assert {CHECKPOINT: STEPS, **after(4, 5)}.items() <= kept_in(tmp_path).items()
    assert (tmp_path / BEST).stat().st_nlink == 1


def best_by_hand(folder: Path, column: str, save_every: int, *, largest: bool) -> int:
    """The step after the best stretch between two saves, from the log."""
    rows = {int(row["step"]): row[column] for row in log_rows(folder)}
    ends = [done for done in range(1 - WARMUP, STEPS + 1) if done % save_every == 0 or done == STEPS]
    means: dict[int, float] = {}
    start = -WARMUP
    for end in ends:
        values = [float(rows[step]) for step in range(start, end) if rows[step] != ""]
        start = end
        if values:
            means[end] = math.fsum(values) / len(values)
    assert len(set(means.values())) == len(means) > 1
    return (max if largest else min)(means, key=means.__getitem__)


@pytest.mark.parametrize("save_every", [1, 2])
@pytest.mark.parametrize(("column", "largest"), [("reward", True), ("gap_norm", False), ("loss_assistant", False)])
def test_the_best_is_kept(column: str, largest: bool, save_every: int, tmp_path: Path) -> None:
    finish(build(), tmp_path, save_every=save_every, best=column)
    wanted = best_by_hand(tmp_path, column, save_every, largest=largest)
    assert kept_in(tmp_path) == {CHECKPOINT: STEPS, BEST: wanted}
    assert best_by_hand(tmp_path, column, save_every, largest=not largest) != wanted, "control"


def test_a_resumed_run_remembers_its_best(tmp_path: Path) -> None:
    finish(build(), tmp_path / "whole", save_every=1, best="gap_norm")
    best = kept_in(tmp_path / "whole")[BEST]
    stop_after(1, build(), tmp_path / "run", save_every=1, best="gap_norm")
    for _ in range(WARMUP + STEPS - 1):
        stop_after(1, build(), tmp_path / "run", save_every=1, best="gap_norm", resume=True)
    assert kept_in(tmp_path / "run") == {CHECKPOINT: STEPS, BEST: best}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keep": 0}, ["keep", "0"]),
        ({"best": "FID"}, ["'FID'", "reward"]),
        ({"best": "seconds"}, ["'seconds'", "reward"]),
        ({"also_log": ["jsonl", "wandb"]}, ["'wandb'", "tensorboard"]),
    ],
)
def test_what_cannot_be_kept_is_refused_before_anything_is_written(
    options: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"choose|known|at least") as error:
        finish(build(), tmp_path / "run", **options)
    assert all(word in str(error.value) for word in words)
    assert not (tmp_path / "run").exists()


def test_a_column_that_the_method_does_not_have_is_refused_at_its_first_step(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'loss_cfg'") as error:
        finish(build(), tmp_path, best="loss_cfg")
    assert "reward" in str(error.value)
    assert "pull_cfg" not in str(error.value)


def test_a_folder_with_an_earlier_checkpoint_alone_holds_a_run(tmp_path: Path) -> None:
    """Somebody has deleted the newest: a new run would write over what is left."""
    stop_after(WARMUP + 3, build(), tmp_path, save_every=1, keep=2)
    (tmp_path / CHECKPOINT).unlink()
    with pytest.raises(FileExistsError, match="already holds a run"):
        finish(build(), tmp_path)
    with pytest.raises(FileExistsError, match="already holds a run"):
        chosen_recipe(ToyRecipe, tmp_path, None, False)
    state = build()
    finish(state, tmp_path, resume=True)
    assert state.step == STEPS


# Memory.


def test_a_checkpoint_is_read_tensor_by_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is read outlives its turn, but for the optimizers' state, which is kept."""
    finish(build(), tmp_path)
    read: list[Any] = []
    alive: list[int] = []
    real = runs.safe_open

    class Watched:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.file = real(*arguments, **options)

        def __enter__(self) -> Watched:
            self.file.__enter__()
            return self

        def __exit__(self, *error: Any) -> None:
            self.file.__exit__(*error)

        def get_tensor(self, name: str) -> torch.Tensor:
            alive.append(sum(one() is not None for one in read))
            value = self.file.get_tensor(name)
            read.append(weakref.ref(value))
            return value

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    monkeypatch.setattr(runs, "safe_open", Watched)
    load_checkpoint(build(seed=1), tmp_path, None)
    assert len(read) > 50
    assert max(alive) <= 1


# Logs.


def read_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]


def test_the_log_in_json_says_what_the_table_says(tmp_path: Path) -> None:
    finish(build(), tmp_path, also_log=["jsonl"])
    for line, row in zip(read_lines(tmp_path), log_rows(tmp_path), strict=True):
        assert line.pop("seconds") > 0
        assert line == {name: float(cell) for name, cell in row.items() if cell != ""}


@pytest.mark.parametrize("ahead", ["", '{"step": 1', '{"step": 1, "reward": 0.5}\n{"st', '{"step": 1}\n\0\0\0', "\0"])
def test_a_resumed_log_in_json_goes_on_where_the_checkpoint_is(ahead: str, tmp_path: Path) -> None:
    """What a crash has left after the checkpoint's step may be torn anywhere."""
    finish(build(), tmp_path / "whole", also_log=["jsonl"])
    stop_after(WARMUP + 1, build(), tmp_path / "run", save_every=1, also_log=["jsonl"])
    with open(tmp_path / "run" / "log.jsonl", "a") as file:
        file.write(ahead)
    finish(build(), tmp_path / "run", resume=True, also_log=["jsonl"])
    found, wanted = ([line | {"seconds": 0} for line in read_lines(tmp_path / name)] for name in ("run", "whole"))
    assert found == wanted


@pytest.mark.parametrize(
    "saved",
    [
        lambda text: text.replace("{", "[", 1),
        lambda text: text.replace('"step": -2', '"step": -2.0'),
        lambda text: "\n".join(text.split("\n")[::-1]),
        lambda text: text.replace("loss_assistant", "loss of the assistant"),
        lambda text: "1\n" + text,
    ],
)
def test_a_log_in_json_that_is_not_as_it_was_written_is_set_aside(saved: Any, tmp_path: Path) -> None:
    stop_after(5, build(), tmp_path, save_every=1, also_log=["jsonl"])
    changed = saved((tmp_path / "log.jsonl").read_text())
    (tmp_path / "log.jsonl").write_text(changed)
    with pytest.warns(UserWarning, match=r"log-aside\.jsonl"):
        finish(build(), tmp_path, resume=True, also_log=["jsonl"])
    assert (tmp_path / "log-aside.jsonl").read_text() == changed
    assert [line["step"] for line in read_lines(tmp_path)] == list(range(5 - WARMUP, STEPS))


def test_what_is_not_finite_is_null_in_json(tmp_path: Path) -> None:
    log = logs.JsonLog(tmp_path, None)
    log.write({"step": 0, "seconds": 0.25, "gap_norm": math.inf})
    log.close()
    assert read_lines(tmp_path) == [{"step": 0, "seconds": 0.25, "gap_norm": None}]


def test_tensorboard_shows_the_columns_and_a_resumed_run_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options: dict[str, Any] = {"also_log": ["tensorboard"], "save_every": 4}
    stop_after(WARMUP + 3, build(), tmp_path, **options)  # the checkpoint is that of step 0
    finish(build(), tmp_path, resume=True, **options)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    rows = log_rows(tmp_path)
    for column in ("loss_assistant", "reward", "gap_norm"):
        wanted = [(int(row["step"]), float(row[column])) for row in rows if row[column] != ""]
        found = [(event.step, event.value) for event in events.Scalars(column)]
        assert [step for step, _ in found] == [step for step, _ in wanted]
        assert [value for _, value in found] == pytest.approx([value for _, value in wanted], rel=1e-6)


def test_a_tensorboard_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "installed_version", lambda name: None)
    with pytest.raises(MissingPackagesError, match=r"tensorboard.*\[tensorboard\]"):
        next(run(build(), METHOD, no_conditions, tmp_path, also_log=["tensorboard"], **OPTIONS))


def test_no_record_is_lost_in_between(tmp_path: Path) -> None:
    """Control of the helpers: a run that keeps everything learns what a plain one does."""
    plain, keeping = build(), build()
    finish(plain, tmp_path / "plain")
    finish(keeping, tmp_path / "keeping", save_every=1, keep=9, best="reward", also_log=["jsonl", "tensorboard"])
    assert same(everything(plain), everything(keeping))
    assert isinstance(keeping.roles.generator, Trainable)
    assert len(list(islice(read_lines(tmp_path / "keeping"), 100))) == WARMUP + STEPS
