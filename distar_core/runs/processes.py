"""The processes that share a run: this one alone, or all that a launcher such as torchrun has started.

Each takes its rows of the global batch, so that several are the run of one process with micro-batches, only sooner. Which
there are comes from the launcher and never from a recipe; a run may go on with another number of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import DistarError
from ..roles import Trainable
from ..training import Record
from .settings import differences
from .signals import Interrupted
from .weights import in_one_line

NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
VARIABLES = (*NUMBERS, "MASTER_ADDR", "MASTER_PORT")
"""What a launcher sets in the environment of each process."""
TIMEOUT = timedelta(hours=1)
"""How long processes wait for one another: all of them wait while the first writes a checkpoint, which may have 50 GB."""


class OtherProcessError(DistarError, RuntimeError):
    """Another process of the run has ended or failed; its own message says why."""


class Alone:
    """A run of one process. Of several, all call each of these methods, in the same order.

    Attributes:
        count: how many processes there are.
        number: which of them this is, from 0.
    """

    count: int = 1
    number: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.number == 0

    def rows(self, batch: int) -> slice:
        """This process's rows of a global batch. Raises ValueError unless the batch is divisible."""
        return slice(0, batch)

    def largest(self, number: int) -> int:
        """The largest of the processes' numbers."""
        return number

    def gathered(self, value: Any) -> list[Any]:
        """The values of all processes in their order; anything that can be pickled."""
        return [value]

    def joined(self, record: Record) -> Record:
        """The record of the global batch from the records of all processes' rows."""
        return record

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Put the mean over all processes in place of each gradient."""

    def by_first(self, work: Callable[[], Any]) -> None:
        """Let the first process do something while the others wait.

        Raises:
            OtherProcessError: in the others, with the sentence, if it fails there.
        """
        work()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Turn what is raised in here because another process has ended into an OtherProcessError."""
        yield

    def require_alike(self, facts: Mapping[str, Any]) -> None:
        """Raise ValueError, in all processes, with name and values, unless the facts are the same in all of them."""
        everyones = self.gathered(facts)
        for number, others in enumerate(everyones[1:], start=1):
            for name, value, other in differences(everyones[0], others):
                raise ValueError(
                    f"{name} is {value!r} in process 0 but {other!r} in process {number}; give all processes the same recipe, "
                    "files and weights, and average the gradients of roles that each process holds whole (Replicated)"
                )


ALONE = Alone()


class Processes(Alone):
    """The processes of torch.distributed's default group; what is not a gradient goes by the CPU.

    Args:
        by_cpu: a group that takes tensors on the CPU; None if the default group does.
    """

    def __init__(self, by_cpu: Any = None) -> None:
        self.count = dist.get_world_size()
        self.number = dist.get_rank()
        self._by_cpu = by_cpu

    def rows(self, batch: int) -> slice:
        if batch % self.count:
            raise ValueError(
                f"batch {batch} is not divisible by the {self.count} processes; choose a multiple, or start another number"
            )
        share = batch // self.count
        return slice(self.number * share, (self.number + 1) * share)

    def largest(self, number: int) -> int:
        ours = torch.tensor(number)
        with self.watched():
            dist.all_reduce(ours, dist.ReduceOp.MAX, group=self._by_cpu)
        return int(ours)

    def gathered(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * self.count
        with self.watched():
            dist.all_gather_object(found, value, group=self._by_cpu)
        return found

    def joined(self, record: Record) -> Record:
        # float64 holds float32 and the whole times exactly, so that one message carries all
        parts: list[Tensor] = []

        def collect(part: Tensor) -> Tensor:
            parts.append(part)
            return part

        _with_each(record, collect)
        mine = torch.stack([part.detach().to("cpu", torch.float64) for part in parts])
        everyones = [torch.empty_like(mine) for _ in range(self.count)]
        with self.watched():
            dist.all_gather(everyones, mine, group=self._by_cpu)
        whole = iter(torch.cat(everyones, dim=1))
        return _with_each(record, lambda part: next(whole).to(part))

    def average(self, gradients: Sequence[Tensor]) -> None:
        together = torch.cat([gradient.flatten() for gradient in gradients])
        with self.watched():
            dist.all_reduce(together)
        together /= self.count
        parts = together.split([gradient.numel() for gradient in gradients])
        for gradient, mean in zip(gradients, parts, strict=True):
            gradient.copy_(mean.view_as(gradient))

    def by_first(self, work: Callable[[], Any]) -> None:
        said: list[str | None] = [None]
        failed: Exception | None = None
        if self.first:
            try:
                work()
            except Exception as error:
                said, failed = [in_one_line(error, 10_000)], error
        with self.watched():
            dist.broadcast_object_list(said, src=0, group=self._by_cpu)
        if failed is not None:
            raise failed
        if said[0] is not None:
            raise OtherProcessError(f"process 0 of {self.count} has failed: {said[0]}")

    @contextmanager
    def watched(self) -> Iterator[None]:
        try:
            yield
        except OtherProcessError:
            raise
        except RuntimeError as error:
            if not _lost(error):
                raise
            raise OtherProcessError(
                f"process {self.number} of {self.count} cannot reach the others any more "
                f"({in_one_line(error, 120)}): one has ended, and its own message says why; start all of them again "
                "and resume from the last checkpoint"
            ) from error


def _with_each(record: Record, change: Callable[[Tensor], Tensor]) -> Record:
    """A record whose values, one per sample each, are changed one after the other."""

    def maybe(value: Tensor | None) -> Tensor | None:
        return None if value is None else change(value)

    return record._replace(
        losses={term: change(value) for term, value in record.losses.items()},
        pull_norms={term: change(value) for term, value in record.pull_norms.items()},
        reward=maybe(record.reward),
        t=maybe(record.t),
        assistant_t=maybe(record.assistant_t),
        gap_norm=maybe(record.gap_norm),
        gap_missed=maybe(record.gap_missed),
    )


def _lost(error: RuntimeError) -> bool:
    """Whether an error of torch.distributed says that another process is not there; gloo has no type for that."""
    said = str(error)
    return isinstance(error, dist.DistError) or ("gloo" in said and ("peer" in said or "imed out" in said))


@dataclass
class Replicated(Trainable):
    """A role that learns, whole in every process: one average of its gradients before each update keeps all equal.

    Attributes:
        processes: those that hold it.
    """

    processes: Alone = ALONE

    def update(self, step: int) -> None:
        """As of any Trainable, on the mean of the processes' gradients, which is that of the global batch."""
        self.processes.average([p.grad for p in self.parameters().values() if p.grad is not None])
        super().update(step)


def weights_of(role: Trainable) -> int:
    """Which weights a role has that every process holds whole, to the last bit; 0 for what is spread over processes."""
    whole = [p.detach() for p in role.parameters().values() if not is_spread(p)]
    # the exclusive or of a tensor's bits: on any device, in whatever order it is taken
    return hash(tuple(torch.hash_tensor(p).item() for p in whole)) if whole else 0


def is_spread(value: Tensor) -> bool:
    """Whether a tensor is spread over processes (torch's DTensor, whose import costs seconds that most runs can save)."""
    return hasattr(value, "full_tensor")


def whole(value: Tensor) -> Tensor:
    """A tensor that may be spread over processes in one piece; all of them have to ask for it."""
    return value.full_tensor() if is_spread(value) else value  # type: ignore[attr-defined]


def spread_as(value: Tensor, live: Tensor) -> Tensor:
    """A whole tensor that every process has read, on the device of another, and spread like that one."""
    value = value.to(live.device)
    if not is_spread(live):
        return value
    from torch.distributed.tensor import distribute_tensor

    # without a source nothing is sent: each process cuts out its own part
    return distribute_tensor(value, live.device_mesh, live.placements, src_data_rank=None)  # type: ignore[attr-defined]


@contextmanager
def launched(device_type: str = "cpu") -> Iterator[Alone]:
    """The processes that a launcher has started, which meet here and part at the end; ALONE where there was none.

    torchrun, `accelerate launch` and, with a few variables, srun are such launchers. A group that torch.distributed has
    already is taken as it is.

    Args:
        device_type: where the roles will be, "cpu" or "cuda"; of several accelerators a process takes the one with its
            number on the machine, LOCAL_RANK.

    Raises:
        ValueError: if the environment holds a part of what a launcher sets, or values that cannot be.
        OtherProcessError: if the others are not there.
    """
    if dist.is_available() and dist.is_initialized():
        yield _processes(device_type)
        return
    if not any(name in os.environ for name in NUMBERS):
        yield ALONE
        return
    number, count, local = _read_environment()
    if device_type == "cuda":
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"LOCAL_RANK is {local}, but this machine has {torch.cuda.device_count()} accelerators; start one process for "
                "each (--nproc-per-node)"
            )
        torch.cuda.set_device(local)
    if count == 1:
        yield ALONE
        return
    backend = "nccl" if device_type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, rank=number, world_size=count, timeout=TIMEOUT)
    except (dist.DistError, ValueError) as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise OtherProcessError(
            f"process {number} of {count} cannot meet the others at {place} ({in_one_line(error, 120)}); check "
            "MASTER_ADDR and MASTER_PORT, and that all are started"
        ) from error
    try:
        yield _processes(device_type)
    except Interrupted:
        dist.destroy_process_group()
        raise
    # not after another error: processes may be gone, and a device would wait for them
    dist.destroy_process_group()


def _processes(device_type: str) -> Alone:
    if dist.get_world_size() == 1:
        return ALONE
    return Processes(None if device_type == "cpu" else dist.new_group(backend="gloo", timeout=TIMEOUT))


def _read_environment() -> tuple[int, int, int]:
    """RANK, WORLD_SIZE and LOCAL_RANK."""
    missing = [name for name in VARIABLES if not os.environ.get(name)]
    if missing:
        there = ", ".join(name for name in VARIABLES if name not in missing)
        raise ValueError(
            f"the environment has {there} but not {', '.join(missing)}; start all processes by a launcher (torchrun "
            "--nproc-per-node 2 ...), or unset these variables for a single process"
        )
    for name in NUMBERS:
        if not os.environ[name].isdecimal():
            raise ValueError(f"{name} is {os.environ[name]!r} in the environment, and has to be a whole number")
    number, count, local = (int(os.environ[name]) for name in NUMBERS)
    if not number < count:
        raise ValueError(f"RANK is {number} but WORLD_SIZE {count} in the environment; ranks count from 0")
    return number, count, local
