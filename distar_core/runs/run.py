"""Around the loop: checkpoints, the CSV log, signals and the check for non-finite values."""

from __future__ import annotations

import csv
import hashlib
import inspect
import itertools
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import NonFiniteError
from ..methods import Method
from ..roles import Trainable
from ..training import Conditions, Record, State, post_train
from .folders import at_work, claim
from .settings import complete, describe, differences, fill
from .signals import Interrupted, stop_requests

CHECKPOINT = "checkpoint.safetensors"
KIND, FORMAT = "distar_core checkpoint", 2
SHARES = ("micro_batch", "rows")  # how the work is shared out changes no result
LOOP_DEFAULTS = {
    option.name: option.default
    for option in inspect.signature(post_train).parameters.values()
    if option.default is not option.empty and option.name not in SHARES
}
IMPLEMENTATION = ("foreach", "fused", "capturable", "differentiable")  # how an optimizer computes, not what
COLUMNS = ["step", "seconds", "reward", "gap_norm", "loss_assistant", "loss_regularizer", "loss_cfg", "loss_reward"]
COLUMNS += ["pull_regularizer", "pull_cfg", "pull_reward", "gap_floor", "peak_gib"]


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


def _learners(state: State) -> dict[str, Trainable]:
    return {"generator": state.roles.generator, "assistant": state.roles.assistant}


def _held(name: str, role: Trainable) -> list[str]:
    """Names of the parameters that a role's optimizer holds, in the order in which it numbers them."""
    known = {parameter: held for held, parameter in role.module.named_parameters()}
    parameters = [p for group in (role.optimizer.param_groups if role.optimizer else []) for p in group["params"]]
    for parameter in parameters:
        if parameter not in known:
            raise ValueError(
                f"the {name}'s optimizer holds a parameter of shape {tuple(parameter.shape)} that its module does not "
                "have, so its state has no name in a checkpoint; build the optimizer over the module's parameters"
            )
    return [known[parameter] for parameter in parameters]


def _tensors(state: State) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything that a run has learnt: live tensors by name, and the optimizer state that is not a tensor.

    Optimizer state goes by the name of its parameter. torch.distributed.checkpoint has a function for that, which gives
    an optimizer without state some, by a step at rate 0; this one leaves the optimizer alone.
    """
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {}
    for role_name, role in _learners(state).items():
        tensors |= {f"{role_name}.parameter.{name}": value for name, value in role.parameters().items()}
        kept = role.module.state_dict()  # buffers that are not persistent are rebuilt with the module
        tensors |= {f"{role_name}.buffer.{name}": value for name, value in role.module.named_buffers() if name in kept}
        tensors |= {f"{role_name}.ema.{name}": value for name, value in role.ema.items()}
        if role.optimizer is not None:
            held = _held(role_name, role)
            for index, slots in role.optimizer.state_dict()["state"].items():
                for slot, value in slots.items():
                    name = f"{role_name}.optimizer.{held[index]}.{slot}"
                    (tensors if isinstance(value, Tensor) else rest)[name] = value
    return tensors, rest


def _layout(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Shape and type of everything but optimizer state, which exists only after the first step."""
    return {name: f"{tuple(v.shape)} {v.dtype}" for name, v in tensors.items() if name.split(".")[1] != "optimizer"}


def _configuration(state: State, config: Mapping[str, Any]) -> dict[str, Any]:
    learners = _learners(state)
    optimizers = {name: type(role.optimizer).__name__ for name, role in learners.items()}
    settings = {name: _learner_settings(role) for name, role in learners.items()}
    shared = {key: value for key, value in config.items() if key not in SHARES}
    return describe({**shared, "optimizers": optimizers, "learners": settings})


def _learner_settings(role: Trainable) -> dict[str, Any]:
    """What an update depends on besides the gradient; a rate that is a function of the step is compared on its own."""
    left_out = {"params", "initial_lr", *IMPLEMENTATION, *(["lr"] if role.lr else [])}
    groups = {
        str(number): {key: value for key, value in group.items() if key not in left_out}
        | {"parameters": len(group["params"])}
        for number, group in enumerate(role.optimizer.param_groups if role.optimizer else [])
    }
    return {"ema_decay": role.ema_decay, "max_grad_norm": role.max_grad_norm, "groups": groups}


def _rates(state: State, step: int | None) -> dict[str, float]:
    """The learning rates of the last step that was done; the generator has none in the warm-up."""
    rates = {}
    for name, role in _learners(state).items():
        if role.lr is not None and step is not None and (name == "assistant" or step > 0):
            rates[name] = float(role.lr(step - 1))
    return rates


def _digest(name: str, value: Tensor) -> str:
    """SHA-256 of a tensor's name, type, shape and bytes, cut to 128 bits."""
    digest = hashlib.sha256(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
    digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def _seal(meta: Mapping[str, Any]) -> str:
    """SHA-256 of everything else in the metadata, cut like _digest."""
    text = json.dumps({key: value for key, value in meta.items() if key != "seal"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def save_checkpoint(state: State, folder: Path, config: Mapping[str, Any]) -> Path:
    """Write weights, optimizers, averages, step and configuration to one file, all or nothing.

    The file is written beside the old one, flushed to the disk and renamed over it, so a kill at any byte leaves the
    old checkpoint whole. Its metadata holds a digest of every tensor and of itself. It gets the permissions that any
    new file has.

    Raises:
        NonFiniteError: if a tensor holds a NaN or infinity; nothing is written then.
        ValueError: if an optimizer holds a parameter that its module does not have.
        OSError: if the disk does not take it.
    """
    tensors, rest = _tensors(state)
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise NonFiniteError(
                f"{name} is not finite after step {state.step}, so no checkpoint is written; resume from the last one "
                "with a lower learning rate"
            )
    path, partial = folder / CHECKPOINT, folder / f"{CHECKPOINT}.partial"
    copies = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    meta = {
        "format": f"{KIND} {FORMAT}",
        "step": state.step,
        "config": _configuration(state, config),
        "optimizer": rest,
        "rates": _rates(state, state.step),
        "digests": {name: _digest(name, value) for name, value in copies.items()},
    }
    meta["seal"] = _seal(json.loads(json.dumps(meta)))
    partial.unlink(missing_ok=True)
    partial.touch()
    permissions = partial.stat().st_mode  # safetensors' own files are for nobody but their owner
    try:
        save_file(copies, partial, metadata={"distar_core": json.dumps(meta, sort_keys=True)})
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written ({error}); free some space and resume from the last one") from error
    for leftover in filter(Path.is_file, folder.glob(".tmp??????")):  # where a kill interrupted safetensors
        leftover.unlink()
    partial.chmod(permissions)
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


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file, whose tensors are views of the disk until they are copied.

    It is opened twice: safetensors itself calls a file that may not be read a missing one.
    """
    try:
        with open(path, "rb"), safe_open(path, framework="pt") as file:
            yield file
    except PermissionError as error:
        raise PermissionError(
            f"checkpoint {path} may not be read ({error.strerror or error}); change its permissions, or work as the user "
            "who owns it"
        ) from None
    except OSError as error:
        raise OSError(f"checkpoint {path} cannot be read ({error}); look after the disk, and try again") from None
    except SafetensorError as error:
        raise ValueError(
            f"checkpoint {path} is truncated or no safetensors file ({error}); restore it from a copy"
        ) from None


def _read_meta(path: Path, written: Mapping[str, str] | None) -> dict[str, Any]:
    """What save_checkpoint wrote about the file, as it was written."""
    damaged = ValueError(f"the metadata of checkpoint {path} is not what was written; restore the file from a copy")
    try:
        meta = json.loads((written or {}).get("distar_core", "null"))
    except ValueError:
        raise damaged from None
    kind, _, version = str(meta.get("format") if isinstance(meta, dict) else "").rpartition(" ")
    if kind != KIND or not version.isdecimal():
        raise ValueError(f"{path} was not written by distar_core; resume needs the {CHECKPOINT} of one of its runs")
    if (int(version) != 1 and meta.get("seal") != _seal(meta)) or not {"step", "config", "optimizer"} <= meta.keys():
        raise damaged
    if int(version) > FORMAT:
        raise ValueError(
            f"checkpoint {path} has format {version}, and this distar_core reads up to {FORMAT}; update it"
        )
    return meta | {"format": int(version)}


def migrate(meta: dict[str, Any], names: list[str], state: State) -> tuple[dict[str, Any], dict[str, str]]:
    """An older file in today's terms: its metadata, and by today's name the name that each tensor has in the file.

    Format 1 numbered optimizer state by the position of the parameter in its optimizer; it had neither digests nor the
    settings of the learners, which are taken on trust.
    """
    if meta["format"] == FORMAT:
        return meta, {name: name for name in names}
    held = {name: _held(name, role) for name, role in _learners(state).items()}

    def renamed(name: str) -> str:
        role, kind, rest = name.split(".", 2)
        if kind != "optimizer" or not held[role]:
            return name
        number, slot = rest.split(".", 1)
        if int(number) >= len(held[role]):
            raise ValueError(f"{name} has no place in the {role}'s optimizer of {len(held[role])} parameters")
        return f"{role}.optimizer.{held[role][int(number)]}.{slot}"

    rest = {renamed(name): value for name, value in meta["optimizer"].items()}
    return meta | {"optimizer": rest}, {renamed(name): name for name in names}


def load_checkpoint(
    state: State, folder: Path, config: Mapping[str, Any] | None, *, defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Bring `state` to where the checkpoint in `folder` left off; nothing is changed unless everything fits.

    Files of older formats are migrated. A key that the stored configuration lacks is one that its run did not know: it
    stands for the default of the dataclass's field, of the loop's option, or else for the one in `defaults`.

    Args:
        config: what the run's configuration has to be; None takes any, where only what was learnt is wanted.
        defaults: what other keys of the configuration mean where they are absent.

    Returns:
        The configuration of the run, described.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        PermissionError: if it may not be read.
        ValueError: if it is truncated, damaged, foreign, newer than this library, of another configuration or of other
            networks.
    """
    path = _checkpoint_in(folder)
    with _opened(path) as file:
        meta, stored = migrate(_read_meta(path, file.metadata()), list(file.keys()), state)
        if config is not None:
            _require_same_run(path, meta, state, config, defaults or {})
        live, _ = _tensors(state)
        for name, here, there in differences(_layout(live), _checked_layout(path, file, meta, stored)):
            raise ValueError(f"{name} is {here} here but {there} in checkpoint {path}; build the networks of the run")
        slots = _slots(path, file, meta, stored, state)
        with torch.no_grad():
            for name in _layout(live):
                live[name].copy_(file.get_tensor(stored[name]))
    for name, role in _learners(state).items():
        if role.optimizer is not None:
            role.optimizer.load_state_dict({**role.optimizer.state_dict(), "state": slots[name]})
    state.step = meta["step"]
    return meta["config"]


def _require_same_run(
    path: Path, meta: Mapping[str, Any], state: State, config: Mapping[str, Any], defaults: Mapping[str, Any]
) -> None:
    expected = _configuration(state, config)
    absent = {key: value for key, value in {**LOOP_DEFAULTS, **defaults}.items() if key in expected}
    there = fill(complete(meta["config"], config), describe(absent) | {"learners": expected["learners"]})
    remedy = f"in checkpoint {path}; resume with the settings of the run, or start a new one in another folder"
    for key, value, other in differences(expected, there):
        raise ValueError(f"{key} is {value!r} here but {other!r} {remedy}")
    for name, rate in _rates(state, meta["step"]).items():
        other = meta.get("rates", {}).get(name, rate)
        if not math.isclose(rate, other, rel_tol=1e-9):
            raise ValueError(
                f"the {name}'s learning rate at step {meta['step'] - 1} is {rate} here but {other} {remedy}"
            )


def _checked_layout(path: Path, file: Any, meta: Mapping[str, Any], stored: Mapping[str, str]) -> dict[str, str]:
    """The layout of a file of which every tensor is there as it was written."""
    digests = meta.get("digests")
    layout: dict[str, str] = {}
    for name, inside in stored.items():
        value = file.get_tensor(inside)
        if digests is not None and digests.get(name) != _digest(name, value):
            raise ValueError(f"{name} in checkpoint {path} is not what was written; restore the file from a copy")
        layout |= _layout({name: value})
    for name in digests or ():
        if name not in stored:
            raise ValueError(f"{name} is missing in checkpoint {path}; restore the file from a copy")
    return layout


def _slots(
    path: Path, file: Any, meta: Mapping[str, Any], stored: Mapping[str, str], state: State
) -> dict[str, dict[int, dict[str, Any]]]:
    """By role the optimizer state of a file, as load_state_dict takes it; copies, since the file's tensors are views."""
    slots: dict[str, dict[int, dict[str, Any]]] = {}
    for role_name, role in _learners(state).items():
        number = {name: index for index, name in enumerate(_held(role_name, role))}
        slots[role_name] = {}
        for name in [*stored, *meta["optimizer"]] if role.optimizer else []:
            if name.startswith(prefix := f"{role_name}.optimizer."):
                parameter, slot = name.removeprefix(prefix).rsplit(".", 1)
                if parameter not in number:
                    raise ValueError(
                        f"{name} in checkpoint {path} belongs to no parameter of the {role_name}'s optimizer here; build "
                        "the optimizers of the run"
                    )
                value = file.get_tensor(stored[name]).clone() if name in stored else meta["optimizer"][name]
                slots[role_name].setdefault(number[parameter], {})[slot] = value
    return slots


class CsvLog:
    """One row a step in log.csv; means over the batch. On resume, rows from the checkpoint's step on are dropped.

    Beside gap_norm stands gap_floor, where the roles compute with so few digits that a gap of this size is their rounding; and
    peak_gib is the most memory so far, where somebody counts it.

    A log that is not as it was written, since a spreadsheet saved it or a hand changed it, is set aside under another
    name, with a warning, and a new one begins: what is learnt does not depend on it.
    """

    def __init__(
        self,
        folder: Path,
        next_step: int | None,
        gap_floor: float | None = None,
        peak_gib: Callable[[], float] | None = None,
    ) -> None:
        self._gap_floor, self._peak_gib = gap_floor, peak_gib
        path, partial = folder / "log.csv", folder / "log.csv.partial"
        rows: list[dict[str, str]] = []
        if next_step is not None and path.is_file():
            try:
                rows = rows_before(next_step, path)
            except ValueError as error:
                aside = set_aside(path)
                warnings.warn(f"{path} is not as it was written ({error}); it is kept as {aside}", stacklevel=2)
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
        if record.gap_norm is not None and self._gap_floor is not None:
            row["gap_floor"] = self._gap_floor
        if self._peak_gib is not None:
            row["peak_gib"] = f"{self._peak_gib():.3f}"
        self._writer.writerow(row)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def rows_before(next_step: int, path: Path) -> list[dict[str, str]]:
    """The rows of a log up to a step. From that step on a crash may have torn them, so they are not looked at.

    A column that the log does not have, since its run did not know it, stays empty.

    Raises:
        ValueError: if it is not UTF-8, a column is unknown, steps do not follow one another or a cell is no number.
    """
    rows: list[dict[str, str]] = []
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            columns = reader.fieldnames or []
            if "step" not in columns or not set(columns) <= set(COLUMNS):
                raise ValueError(f"its columns are {', '.join(columns)[:60]}")
            for row in reader:
                step = row["step"]
                if step.lstrip("-").isdecimal() and int(step) >= next_step:
                    break
                for name, cell in row.items():
                    if cell != "" or name == "step":
                        float(cell)
                if rows and int(step) != int(rows[-1]["step"]) + 1:
                    raise ValueError(f"step {step} follows step {rows[-1]['step']}")
                rows.append(row)
        except (TypeError, csv.Error) as error:
            raise ValueError(f"line {reader.line_num} is no row of it") from error
    return rows


def set_aside(path: Path) -> Path:
    """Rename a file to a name beside it that is free."""
    names = (path.with_name(f"{path.stem}-aside{number or ''}{path.suffix}") for number in itertools.count())
    aside = next(name for name in names if not name.exists())
    return path.rename(aside)


def run(
    state: State,
    method: Method,
    conditions: Conditions,
    folder: Path | str,
    *,
    resume: bool = False,
    save_every: int = 500,
    settings: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    texts: Mapping[str, str] | None = None,
    gap_floor: float | None = None,
    peak_gib: Callable[[], float] | None = None,
    **options: Any,
) -> Iterator[Record]:
    """`post_train` in a folder: CSV log, checkpoints, stop and resume; yields its records.

    Args:
        folder: gets config.json, log.csv and checkpoint.safetensors; created if need be.
        resume: go on from the folder's checkpoint, with the same settings (steps among them: rates may depend on it); a
            log that is not as it was written is set aside, see CsvLog.
        save_every: steps between checkpoints; the last step and a stop request save too.
        settings: anything else that the result depends on, for the configuration that resume compares.
        defaults: what keys of `settings` mean that the configuration of an older run lacks, see load_checkpoint.
        texts: what else a fresh run leaves in the folder at its start, by name of the file.
        gap_floor: below which gap_norm is the roles' rounding, for the log; None where they have digits enough.
        peak_gib: tells the most memory so far, for the log; None where nobody counts it.
        options: the keyword arguments of post_train; a resumed run may have another micro_batch and rows.

    Raises:
        FileExistsError: if the folder holds a run and resume is off, if it is not ours, or if a run is at work in it.
        FileNotFoundError, ValueError: as load_checkpoint.
        PermissionError: if the folder cannot be written, or its checkpoint may not be read.
        NonFiniteError: at the first non-finite value; the last checkpoint is from before it.
        Interrupted: after SIGTERM or Ctrl-C, with a checkpoint written.
    """
    folder = Path(folder)
    config = {**(settings or {}), "method": method, **LOOP_DEFAULTS, **options}
    if save_every < 1:
        raise ValueError(f"save_every must be at least 1 step, got {save_every}; choose a positive number")
    if resume:
        _checkpoint_in(folder)
    elif not (folder / CHECKPOINT).exists():
        claim(folder, "run")
    with at_work(folder):
        if resume:
            load_checkpoint(state, folder, config, defaults=defaults)
        elif (folder / CHECKPOINT).exists():
            raise FileExistsError(f"folder {folder} already holds a run; resume it, or choose another folder")
        described = json.dumps(_configuration(state, config), indent=2) + "\n"
        for name, text in {"config.json": described, **({} if resume else texts or {})}.items():
            (folder / name).write_text(text, encoding="utf-8")
        with (
            closing(CsvLog(folder, state.step if resume else None, gap_floor, peak_gib)) as log,
            stop_requests() as stops,
        ):
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
