"""Around the loop: checkpoints, the CSV log, signals and the check for non-finite values."""

from __future__ import annotations

import csv
import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .methods import Method
from .recipes import describe, differences
from .training import Conditions, Record, State, post_train

CHECKPOINT = "checkpoint.safetensors"
FORMAT = "distar_core checkpoint 1"
COLUMNS = ["step", "seconds", "reward", "gap_norm", "loss_assistant", "loss_regularizer", "loss_cfg", "loss_reward"]
COLUMNS += ["pull_regularizer", "pull_cfg", "pull_reward"]


class NonFiniteError(RuntimeError):
    """A value of a run became NaN or infinite; the last checkpoint is from before."""


class Interrupted(RuntimeError):
    """A run was asked to stop and left a checkpoint."""


def check_finite(record: Record) -> None:
    """Raise NonFiniteError, with the term and the noise level of the sample, if the record holds a NaN or infinity."""
    values = {f"loss of the {term}": loss for term, loss in record.losses.items()}
    values |= {f"pull of the {term}": norm for term, norm in record.pull_norms.items()}
    for name, value in values.items():
        broken = ~torch.isfinite(value)
        if bool(broken.any()):
            first = int(broken.nonzero()[0])
            times = record.assistant_t if name.endswith("assistant") else record.t
            level = "" if times is None else f" for a sample at t = {float(times[first]):.4g}"
            raise NonFiniteError(
                f"the {name} became {float(value[first])} at step {record.step}{level}; the step is discarded: resume "
                "from the last checkpoint with a lower learning rate, reward_scale or weight at that level"
            )


def _tensors(state: State) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything that a run has learnt: live tensors by name, and the optimizer state that is not a tensor."""
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {}
    for role_name in ("generator", "assistant"):
        role = getattr(state.roles, role_name)
        tensors |= {f"{role_name}.parameter.{name}": value for name, value in role.parameters().items()}
        kept = role.module.state_dict()  # buffers that are not persistent are rebuilt with the module
        tensors |= {f"{role_name}.buffer.{name}": value for name, value in role.module.named_buffers() if name in kept}
        tensors |= {f"{role_name}.ema.{name}": value for name, value in role.ema.items()}
        if role.optimizer is not None:
            for index, slots in role.optimizer.state_dict()["state"].items():
                for slot, value in slots.items():
                    (tensors if isinstance(value, Tensor) else rest)[f"{role_name}.optimizer.{index}.{slot}"] = value
    return tensors, rest


def _layout(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Shape and type of everything but optimizer state, which exists only after the first step."""
    return {name: f"{tuple(v.shape)} {v.dtype}" for name, v in tensors.items() if ".optimizer." not in name}


def _configuration(state: State, config: Mapping[str, Any]) -> dict[str, Any]:
    optimizers = {name: type(getattr(state.roles, name).optimizer).__name__ for name in ("generator", "assistant")}
    return describe({**config, "optimizers": optimizers})


def save_checkpoint(state: State, folder: Path, config: Mapping[str, Any]) -> Path:
    """Write weights, optimizers, averages, step and configuration to one file, all or nothing.

    The file is written beside the old one, flushed to the disk and renamed over it, so a kill at any byte leaves the
    old checkpoint whole.

    Raises:
        NonFiniteError: if a tensor holds a NaN or infinity; nothing is written then.
    """
    tensors, rest = _tensors(state)
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise NonFiniteError(
                f"{name} is not finite after step {state.step}, so no checkpoint is written; resume from the last one "
                "with a lower learning rate"
            )
    meta = {"format": FORMAT, "step": state.step, "config": _configuration(state, config), "optimizer": rest}
    path, partial = folder / CHECKPOINT, folder / f"{CHECKPOINT}.partial"
    copies = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    save_file(copies, partial, metadata={"distar_core": json.dumps(meta)})
    for leftover in filter(Path.is_file, folder.glob(".tmp??????")):  # where a kill interrupted safetensors
        leftover.unlink()
    with open(partial, "rb+") as written:
        os.fsync(written.fileno())
    os.replace(partial, path)
    return path


def load_checkpoint(state: State, folder: Path, config: Mapping[str, Any]) -> None:
    """Bring `state` to where the checkpoint in `folder` left off; nothing is changed unless everything fits.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: if it is truncated, foreign, of another configuration or of other networks.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}; name the folder of a run, or start one without resume")
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {}).get("distar_core", "null"))
            saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"checkpoint {path} is truncated or no safetensors file ({error}); restore it from a copy"
        ) from None
    if not meta or meta.get("format") != FORMAT:
        raise ValueError(f"{path} was not written by distar_core; resume needs the {CHECKPOINT} of one of its runs")
    for key, here, there in differences(_configuration(state, config), meta["config"]):
        raise ValueError(
            f"{key} is {here!r} here but {there!r} in checkpoint {path}; resume with the settings of the run, or start a "
            "new one in another folder"
        )
    live, _ = _tensors(state)
    for name, here, there in differences(_layout(live), _layout(saved)):
        raise ValueError(f"{name} is {here} here but {there} in checkpoint {path}; build the networks of the run")
    with torch.no_grad():
        for name in _layout(live):
            live[name].copy_(saved[name])
    for role_name in ("generator", "assistant"):
        optimizer = getattr(state.roles, role_name).optimizer
        slots: dict[int, dict[str, Any]] = {}
        for name, value in (saved | meta["optimizer"]).items():
            if name.startswith(f"{role_name}.optimizer."):
                index, slot = name.removeprefix(f"{role_name}.optimizer.").split(".", 1)
                slots.setdefault(int(index), {})[slot] = value
        if optimizer is not None:
            optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
    state.step = meta["step"]


class CsvLog:
    """One row a step in log.csv; means over the batch. On resume, rows from the checkpoint's step on are dropped."""

    def __init__(self, folder: Path, next_step: int | None) -> None:
        path, partial = folder / "log.csv", folder / "log.csv.partial"
        rows: list[dict[str, str]] = []
        if next_step is not None and path.is_file():
            with open(path, newline="", encoding="utf-8") as old:
                whole = (row for row in csv.DictReader(old) if None not in row.values())
                rows = [row for row in whole if int(row["step"]) < next_step]
        with open(partial, "w", newline="", encoding="utf-8") as kept:
            writer = csv.DictWriter(kept, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(partial, path)
        self._file = open(path, "a", newline="", encoding="utf-8")  # noqa: SIM115
        self._writer = csv.DictWriter(self._file, COLUMNS)

    def write(self, record: Record) -> None:
        """Append the record."""
        row: dict[str, Any] = {"step": record.step, "seconds": f"{record.seconds:.6f}"}
        row |= {f"loss_{term}": float(value.mean()) for term, value in record.losses.items()}
        row |= {f"pull_{term}": float(value.mean()) for term, value in record.pull_norms.items()}
        extras = {"reward": record.reward, "gap_norm": record.gap_norm}
        row |= {name: float(value.mean()) for name, value in extras.items() if value is not None}
        self._writer.writerow(row)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@contextmanager
def stop_requests() -> Iterator[list[str]]:
    """Collect SIGTERM and Ctrl-C in a list instead of dying from them; the old handlers come back at the end."""
    received: list[str] = []
    previous = {
        number: signal.signal(number, lambda caught, _: received.append(signal.Signals(caught).name))
        for number in ((signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ())
    }
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def run(
    state: State,
    method: Method,
    conditions: Conditions,
    folder: Path | str,
    *,
    resume: bool = False,
    save_every: int = 500,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> Iterator[Record]:
    """`post_train` in a folder: CSV log, checkpoints, stop and resume; yields its records.

    Args:
        folder: gets config.json, log.csv and checkpoint.safetensors; created if need be.
        resume: go on from the folder's checkpoint, with the same settings (steps among them: rates may depend on it).
        save_every: steps between checkpoints; the last step and a stop request save too.
        settings: anything else that the result depends on, for the configuration that resume compares.
        options: the keyword arguments of post_train.

    Raises:
        FileExistsError: if the folder holds a run and resume is off.
        FileNotFoundError, ValueError: as load_checkpoint.
        PermissionError: if the folder cannot be written.
        NonFiniteError: at the first non-finite value; the last checkpoint is from before it.
        Interrupted: after SIGTERM or Ctrl-C, with a checkpoint written.
    """
    folder = Path(folder)
    config = {**(settings or {}), "method": method, **options}
    if save_every < 1:
        raise ValueError(f"save_every must be at least 1 step, got {save_every}; choose a positive number")
    if resume:
        load_checkpoint(state, folder, config)
    elif (folder / CHECKPOINT).exists():
        raise FileExistsError(f"folder {folder} already holds a run; resume it, or choose another folder")
    require_writable(folder)
    (folder / "config.json").write_text(json.dumps(_configuration(state, config), indent=2) + "\n", encoding="utf-8")
    with closing(CsvLog(folder, state.step if resume else None)) as log, stop_requests() as stops:
        for record in post_train(state, method, conditions, **options):
            check_finite(record)
            log.write(record)
            if (stopping := bool(stops)) or (record.step + 1) % save_every == 0 or record.step + 1 == options["steps"]:
                save_checkpoint(state, folder, config)
            if stopping:
                raise Interrupted(f"stopped by {stops[0]} after step {record.step}; resume from {folder / CHECKPOINT}")
            yield record


def require_writable(folder: Path) -> None:
    """Create the folder if need be. Raises PermissionError if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PermissionError(f"folder {folder} cannot be written ({error.strerror}); choose another folder") from None
