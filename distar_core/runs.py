"""Around the loop: checkpoints, the CSV log, signals and the check for non-finite values."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .folders import at_work, claim
from .methods import Method
from .recipes import describe, differences
from .signals import Interrupted, stop_requests
from .training import Conditions, Record, State, post_train

CHECKPOINT = "checkpoint.safetensors"
FORMAT = "distar_core checkpoint 1"
COLUMNS = ["step", "seconds", "reward", "gap_norm", "loss_assistant", "loss_regularizer", "loss_cfg", "loss_reward"]
COLUMNS += ["pull_regularizer", "pull_cfg", "pull_reward"]


class NonFiniteError(RuntimeError):
    """A value of a run became NaN or infinite; the last checkpoint is from before."""


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
    shares = ("micro_batch", "rows")  # how the work is shared out changes no result
    return describe({**{k: v for k, v in config.items() if k not in shares}, "optimizers": optimizers})


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
    try:
        save_file(copies, partial, metadata={"distar_core": json.dumps(meta)})
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written ({error}); free some space and resume from the last one") from error
    for leftover in filter(Path.is_file, folder.glob(".tmp??????")):  # where a kill interrupted safetensors
        leftover.unlink()
    with open(partial, "rb+") as written:
        os.fsync(written.fileno())
    os.replace(partial, path)
    return path


def _checkpoint_in(folder: Path) -> Path:
    path = folder / CHECKPOINT
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no checkpoint {path}; name the folder of a run that has saved one, or start a new run"
        )
    return path


def load_checkpoint(state: State, folder: Path, config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Bring `state` to where the checkpoint in `folder` left off; nothing is changed unless everything fits.

    Args:
        config: what the run's configuration has to be; None takes any, where only what was learnt is wanted.

    Returns:
        The configuration of the run, described.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: if it is truncated, foreign, of another configuration or of other networks.
    """
    path = _checkpoint_in(folder)
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
    expected = meta["config"] if config is None else _configuration(state, config)
    for key, here, there in differences(expected, meta["config"]):
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
    return meta["config"]


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


def run(
    state: State,
    method: Method,
    conditions: Conditions,
    folder: Path | str,
    *,
    resume: bool = False,
    save_every: int = 500,
    settings: Mapping[str, Any] | None = None,
    texts: Mapping[str, str] | None = None,
    **options: Any,
) -> Iterator[Record]:
    """`post_train` in a folder: CSV log, checkpoints, stop and resume; yields its records.

    Args:
        folder: gets config.json, log.csv and checkpoint.safetensors; created if need be.
        resume: go on from the folder's checkpoint, with the same settings (steps among them: rates may depend on it).
        save_every: steps between checkpoints; the last step and a stop request save too.
        settings: anything else that the result depends on, for the configuration that resume compares.
        texts: what else a fresh run leaves in the folder at its start, by name of the file.
        options: the keyword arguments of post_train; a resumed run may have another micro_batch and rows.

    Raises:
        FileExistsError: if the folder holds a run and resume is off, if it is not ours, or if a run is at work in it.
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
        _checkpoint_in(folder)
    elif not (folder / CHECKPOINT).exists():
        claim(folder, "run")
    with at_work(folder):
        if resume:
            load_checkpoint(state, folder, config)
        elif (folder / CHECKPOINT).exists():
            raise FileExistsError(f"folder {folder} already holds a run; resume it, or choose another folder")
        described = json.dumps(_configuration(state, config), indent=2) + "\n"
        for name, text in {"config.json": described, **({} if resume else texts or {})}.items():
            (folder / name).write_text(text, encoding="utf-8")
        with closing(CsvLog(folder, state.step if resume else None)) as log, stop_requests() as stops:
            for record in post_train(state, method, conditions, **options):
                check_finite(record)
                log.write(record)
                done = record.step + 1
                if (stopping := bool(stops)) or done % save_every == 0 or done == options["steps"]:
                    save_checkpoint(state, folder, config)
                if stopping:
                    break
                yield record
            if stops:
                done = state.step or 0
                where = "" if done > 0 else " (the warm-up ends before step 0)"
                raise Interrupted(stops[0], f"after step {done - 1}{where}; resume from {folder / CHECKPOINT}")
