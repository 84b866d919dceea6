"""Around the loop: checkpoints, logs, signals, several processes, and the check for non-finite values."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import math
import os
import re
import shutil
import signal
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
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
from .folders import at_work, claim, replacing
from .logs import ALSO, COLUMNS, COMPARABLE, Logs, row_of
from .processes import ALONE, Alone, spread_as, weights_of, whole
from .settings import complete, describe, differences, fill
from .signals import Interrupted, stop_requests

CHECKPOINT = "checkpoint.safetensors"
BEST = "checkpoint_best.safetensors"
EARLIER = re.compile(r"checkpoint_at_(-?[0-9]+)\.safetensors")
"""An earlier checkpoint that is kept beside the newest: the step that comes next after it."""
KIND, FORMAT = "distar_core checkpoint", 2
SHARES = ("micro_batch", "rows")  # how the work is shared out changes no result
LOOP_DEFAULTS = {
    option.name: option.default
    for option in inspect.signature(post_train).parameters.values()
    if option.default is not option.empty and option.name not in SHARES
}
IMPLEMENTATION = ("foreach", "fused", "capturable", "differentiable")  # how an optimizer computes, not what


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


def save_checkpoint(
    state: State,
    folder: Path,
    config: Mapping[str, Any],
    processes: Alone = ALONE,
    score: Mapping[str, float] | None = None,
) -> Path:
    """Write weights, optimizers, averages, step and configuration to one file, all or nothing.

    The file is written beside the old one, flushed to the disk and renamed over it, so a kill at any byte leaves the
    old checkpoint whole. Its metadata holds a digest of every tensor and of itself. It gets the permissions that any
    new file has. What is spread over processes is gathered, tensor by tensor, for the first of them, which writes.

    Args:
        processes: those that share the run; all of them call this.
        score: a number by name that says how good the run is, for the metadata.

    Raises:
        NonFiniteError: if a tensor holds a NaN or infinity; nothing is written then.
        ValueError: if an optimizer holds a parameter that its module does not have, or processes differ in the weights of
            a role that each of them holds whole.
        OSError: if the disk does not take it.
    """
    _require_same_weights(state, processes)
    tensors, rest = _tensors(state)
    copies: dict[str, Tensor] = {}
    for name, value in tensors.items():
        value = whole(value.detach())
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise NonFiniteError(
                f"{name} is not finite after step {state.step}, so no checkpoint is written; resume from the last one "
                "with a lower learning rate"
            )
        if processes.first:
            copies[name] = value.to("cpu", copy=True).contiguous()
    path = folder / CHECKPOINT
    meta = {
        "step": state.step,
        "config": _configuration(state, config),
        "optimizer": rest,
        "rates": _rates(state, state.step),
        **({"score": score} if score else {}),
    }
    processes.by_first(lambda: _write(path, copies, meta))
    return path


def _write(path: Path, tensors: dict[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write a checkpoint from tensors on the CPU; the digests and the seal are made here."""
    digests = {name: _digest(name, value) for name, value in tensors.items()}
    meta = {"format": f"{KIND} {FORMAT}", **meta, "digests": digests}
    meta["seal"] = _seal(json.loads(json.dumps(meta)))
    with replacing(path) as partial:
        partial.unlink(missing_ok=True)
        partial.touch()
        permissions = partial.stat().st_mode  # safetensors' own files are for nobody but their owner
        try:
            save_file(tensors, partial, metadata={"distar_core": json.dumps(meta, sort_keys=True)})
        except SafetensorError as error:
            raise OSError(
                f"{path} cannot be written ({error}); free some space and resume from the last one"
            ) from error
        for leftover in filter(Path.is_file, path.parent.glob(".tmp??????")):  # where a kill interrupted safetensors
            leftover.unlink()
        partial.chmod(permissions)
        with open(partial, "rb+") as written:
            os.fsync(written.fileno())


def _require_same_weights(state: State, processes: Alone) -> None:
    """Raise ValueError, in all processes, if they differ in the weights of a role that each of them holds whole."""
    if processes.count > 1:
        processes.require_alike(
            {f"fingerprint of the {name}'s weights": weights_of(role) for name, role in _learners(state).items()}
        )


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints of a run, the newest first, and the best one last, since nothing says how old it is.

    Raises:
        FileNotFoundError: if there is none.
    """
    steps = {path: step for path in folder.glob("checkpoint_at_*") if (step := _step_of(path)) is not None}
    earlier = sorted(steps, key=steps.__getitem__, reverse=True)
    found = [path for path in (folder / CHECKPOINT, *earlier, folder / BEST) if path.is_file()]
    if not found:
        raise FileNotFoundError(
            f"there is no checkpoint {folder / CHECKPOINT}; name the folder of a run that has saved one, or start a new run"
        )
    return found


class Kept:
    """Which checkpoints stay in a folder beside the newest, CHECKPOINT: earlier ones, and the best by a column of the log.

    Earlier ones are named by the step that comes next after them, the best is BEST. They are hard links, so a checkpoint
    that is kept twice takes its room once; where the file system has none they are copies.

    Args:
        keep: how many of the latest checkpoints stay, the newest among them.
        best: a column of the log. Checkpoints are compared by its mean over the steps since the one before: the larger the
            reward, the better, and the smaller any other column. A reward that is climbed rises while pictures decay; what
            is best for the pictures needs another judge.

    Raises:
        ValueError: for another keep or best.
    """

    def __init__(self, folder: Path, keep: int = 1, best: str | None = None) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1 checkpoint, got {keep}; 1 keeps the newest alone")
        if best is not None and best not in COMPARABLE:
            raise ValueError(f"best is {best!r}, which the log does not have; choose one of {', '.join(COMPARABLE)}")
        self.folder, self.keep, self.best = folder, keep, best
        self._newest: int | None = None
        self._best: float | None = None
        self._values: list[float] = []

    def resume(self, step: int) -> None:
        """Look at what a run that goes on from a step has left. A newest checkpoint of another step was passed over as
        damaged, and will not be kept.
        """
        self._newest = step if self._about(CHECKPOINT).get("step") == step else None
        self._best = self._about(BEST).get("score", {}).get(self.best)

    def _about(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            with _opened(path) as file:
                return _read_meta(path, file.metadata())
        except (OSError, ValueError):
            return {}

    def see(self, row: Mapping[str, float]) -> None:
        """Take note of a row of the log. Raises ValueError if a step that moves the generator has no value of the best."""
        if self.best is None:
            return
        if self.best in row:
            self._values.append(row[self.best])
        elif row["step"] >= 0:
            there = ", ".join(name for name in COLUMNS[2:] if name in row)
            raise ValueError(f"best is {self.best!r}, which this method's log does not have; choose one of {there}")

    def score(self) -> dict[str, float]:
        """The mean of the column since this was last asked, by its name; empty where there is none."""
        values, self._values = self._values, []
        return {self.best: math.fsum(values) / len(values)} if self.best and values else {}

    def make_room(self) -> None:
        """Before a save: the newest gets a second name, if it is to stay."""
        if self.keep > 1 and self._newest is not None:
            _link(self.folder / CHECKPOINT, self.folder / f"checkpoint_at_{self._newest}.safetensors")

    def saved(self, step: int, score: Mapping[str, float]) -> None:
        """After a save: the best gets its name, and what is beyond the number goes."""
        self._newest = step
        for name, value in score.items():
            if self._best is None or (value > self._best if name == "reward" else value < self._best):
                self._best = value
                _link(self.folder / CHECKPOINT, self.folder / BEST)
        for leftover in self.folder.glob("checkpoint_*.partial"):  # where a kill interrupted _link
            leftover.unlink()
        earlier = [one for path in self.folder.iterdir() if (one := _step_of(path)) is not None and one < step]
        for one in sorted(earlier, reverse=True)[self.keep - 1 :]:
            (self.folder / f"checkpoint_at_{one}.safetensors").unlink()


def _step_of(path: Path) -> int | None:
    """The step in the name of an earlier checkpoint; None for any other file."""
    found = EARLIER.fullmatch(path.name)
    return None if found is None else int(found[1])


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, in one go in place of whatever has it."""
    with replacing(target) as partial:
        partial.unlink(missing_ok=True)
        try:
            os.link(source, partial)
        except OSError:  # not every file system has hard links
            shutil.copyfile(source, partial)


class DamagedError(ValueError):
    """A checkpoint is not what was written."""


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
        raise DamagedError(
            f"checkpoint {path} is truncated or no safetensors file ({error}); restore it from a copy"
        ) from None


def _read_meta(path: Path, written: Mapping[str, str] | None) -> dict[str, Any]:
    """What save_checkpoint wrote about the file, as it was written."""
    damaged = DamagedError(f"the metadata of checkpoint {path} is not what was written; restore the file from a copy")
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

    The newest checkpoint that is whole is taken; one that is damaged is passed over, with a warning, if there is another.
    Tensors are read one by one, and of what is spread over processes each keeps its own part.

    Files of older formats are migrated. A key that the stored configuration lacks is one that its run did not know: it
    stands for the default of the dataclass's field, of the loop's option, or else for the one in `defaults`.

    Args:
        folder: of the run; or one checkpoint, a file.
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
    found = [folder] if folder.is_file() else checkpoints_in(folder)
    first: DamagedError | None = None
    for path in found:
        try:
            about = _load(state, path, config, defaults or {})
        except DamagedError as error:
            first = first or error
        else:
            if first is not None:
                warnings.warn(f"{first}; meanwhile the run goes on from {path}", stacklevel=2)
            return about
    assert first is not None
    raise first


def _load(state: State, path: Path, config: Mapping[str, Any] | None, defaults: Mapping[str, Any]) -> dict[str, Any]:
    with _opened(path) as file:
        meta, stored = migrate(_read_meta(path, file.metadata()), list(file.keys()), state)
        if config is not None:
            _require_same_run(path, meta, state, config, defaults)
        live, _ = _tensors(state)
        for name, here, there in differences(_layout(live), _checked_layout(path, file, meta, stored)):
            raise ValueError(f"{name} is {here} here but {there} in checkpoint {path}; build the networks of the run")
        slots = _slots(path, file, meta, stored, state)
        with torch.no_grad():
            for name in _layout(live):
                live[name].copy_(spread_as(file.get_tensor(stored[name]), live[name]))
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
            raise DamagedError(f"{name} in checkpoint {path} is not what was written; restore the file from a copy")
        layout |= _layout({name: value})
    for name in digests or ():
        if name not in stored:
            raise DamagedError(f"{name} is missing in checkpoint {path}; restore the file from a copy")
    return layout


def _slots(
    path: Path, file: Any, meta: Mapping[str, Any], stored: Mapping[str, str], state: State
) -> dict[str, dict[int, dict[str, Any]]]:
    """By role the optimizer state of a file, as load_state_dict takes it: copies, since the file's tensors are views, each
    where its parameter is.
    """
    slots: dict[str, dict[int, dict[str, Any]]] = {}
    rest = meta["optimizer"]
    for role_name, role in _learners(state).items():
        number = {name: index for index, name in enumerate(_held(role_name, role))}
        parameters = dict(role.module.named_parameters())
        slots[role_name] = {}
        for name in [*stored, *rest] if role.optimizer else []:
            if name.startswith(prefix := f"{role_name}.optimizer."):
                parameter, slot = name.removeprefix(prefix).rsplit(".", 1)
                if parameter not in number:
                    raise ValueError(
                        f"{name} in checkpoint {path} belongs to no parameter of the {role_name}'s optimizer here; build "
                        "the optimizers of the run"
                    )
                value = _slot(file.get_tensor(stored[name]), parameters[parameter]) if name in stored else rest[name]
                slots[role_name].setdefault(number[parameter], {})[slot] = value
    return slots


def _slot(value: Tensor, parameter: Tensor) -> Tensor:
    """A tensor of an optimizer's state, of which only one as large as its parameter has a place on the device."""
    beside = value.dim() > 0 and value.shape == parameter.shape
    return spread_as(value, parameter).clone() if beside else value.clone()


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
    keep: int = 1,
    best: str | None = None,
    also_log: Collection[str] = (),
    onlooker: Callable[[int], None] | None = None,
    processes: Alone = ALONE,
    **options: Any,
) -> Iterator[Record]:
    """`post_train` in a folder: logs, checkpoints, stop and resume; yields its records.

    Args:
        folder: gets config.json, log.csv and checkpoint.safetensors; created if need be.
        resume: go on from the folder's newest whole checkpoint, with the same settings (steps among them: rates may depend
            on it); a log that is not as it was written is set aside, see CsvLog.
        save_every: steps between checkpoints; the last step and a stop request save too.
        settings: anything else that the result depends on, for the configuration that resume compares.
        defaults: what keys of `settings` mean that the configuration of an older run lacks, see load_checkpoint.
        texts: what else a fresh run leaves in the folder at its start, by name of the file.
        gap_floor: below which gap_norm is the roles' rounding, for the log; None where they have digits enough.
        peak_gib: tells the most memory so far, for the log; None where nobody counts it.
        keep, best: which checkpoints stay beside the newest, see Kept.
        also_log: what is written beside log.csv, names of logs.ALSO.
        onlooker: called with the step that comes next, in all processes: before the first step of this call, and after each
            step, when its row is in the log and the checkpoint that is due is saved.
        processes: those that share the run, see `launched`. Each takes its rows of the batch and yields the records of the
            whole batch; roles that they hold whole have to be Replicated. The first writes, in a folder that all can read.
        options: the keyword arguments of post_train; a resumed run may have another micro_batch and rows.

    Raises:
        FileExistsError: if the folder holds a run and resume is off, if it is not ours, or if a run is at work in it.
        FileNotFoundError, ValueError: as load_checkpoint, Kept and Alone.rows; or if the processes differ in settings.
        PermissionError: if the folder cannot be written, or its checkpoint may not be read.
        MissingPackagesError: if also_log needs a package that is not there.
        NonFiniteError: at the first non-finite value; the last checkpoint is from before it.
        Interrupted: after SIGTERM or Ctrl-C, with a checkpoint written; in all processes, whichever got the signal.
        OtherProcessError: if another process has ended or failed.
    """
    folder = Path(folder)
    config = {**(settings or {}), "method": method, **LOOP_DEFAULTS, **options}
    if save_every < 1:
        raise ValueError(f"save_every must be at least 1 step, got {save_every}; choose a positive number")
    for name in also_log:
        if name not in ALSO:
            raise ValueError(f"also_log has {name!r}; known are {', '.join(ALSO)}")
    kept = Kept(folder, keep, best)
    rows = processes.rows(options["batch"])
    with processes.watched(), ExitStack() as held:
        log: Logs | None = None

        def enter() -> None:
            if resume:
                checkpoints_in(folder)
            elif not holds_run(folder):
                claim(folder, "run")
            held.enter_context(at_work(folder))
            if not resume and holds_run(folder):
                raise FileExistsError(f"folder {folder} already holds a run; resume it, or choose another folder")

        def open_files() -> None:
            nonlocal log
            written = {"config.json": json.dumps(described, indent=2) + "\n", **({} if resume else texts or {})}
            for name, text in written.items():
                (folder / name).write_text(text, encoding="utf-8")
            if state.step is not None:
                kept.resume(state.step)
            log = held.enter_context(closing(Logs(folder, state.step if resume else None, also_log)))

        processes.by_first(enter)
        if resume:
            load_checkpoint(state, folder, config, defaults=defaults)
        described = _configuration(state, config)
        processes.require_alike({**described, "step": state.step})
        _require_same_weights(state, processes)
        processes.by_first(open_files)
        stops = held.enter_context(stop_requests())

        def asked_to_stop() -> int:
            return processes.largest(int(stops[0]) if stops else 0)

        if onlooker is not None:
            onlooker(-options.get("warmup", LOOP_DEFAULTS["warmup"]) if state.step is None else state.step)
        asked = 0
        for record in post_train(state, method, conditions, **{"rows": rows, **options}):
            record = processes.joined(record)
            check_finite(record)
            row = row_of(record, gap_floor, None if peak_gib is None else peak_gib())
            kept.see(row)
            if log is not None:
                log.write(row)
            done = record.step + 1
            if (asked := asked_to_stop()) or done % save_every == 0 or done == options["steps"]:
                score = kept.score()
                processes.by_first(kept.make_room)
                save_checkpoint(state, folder, config, processes, score)
                processes.by_first(functools.partial(kept.saved, done, score))
            if onlooker is not None:
                onlooker(done)
            if asked:
                break
            yield record
        if asked := asked or asked_to_stop():
            done = state.step or 0
            where = "" if done > 0 else " (the warm-up ends before step 0)"
            rest = f"after step {done - 1}{where}; resume from {folder / CHECKPOINT}"
            raise Interrupted(signal.Signals(asked), rest)


def holds_run(folder: Path) -> bool:
    """Whether a folder has a checkpoint of a run, be it an earlier one alone."""
    return any((folder / name).exists() for name in (CHECKPOINT, BEST)) or any(folder.glob("checkpoint_at_*"))
