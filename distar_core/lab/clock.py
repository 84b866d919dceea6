"""What a device does: seconds by phase, the rate of its matrix products, and the memory that a call takes."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

import torch

from ..probes import seconds_of

END = "end"


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done what it was asked to; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Clock:
    """Seconds by phase. On a GPU it marks events in the stream of work, so that nothing waits before `seconds`.

    What a GPU waits for the host between two marks counts for the phase in which it waits.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._marks: list[tuple[str, Any]] = []

    def enter(self, phase: str) -> None:
        """Begin a phase, which lasts until the next."""
        mark: Any = time.perf_counter()
        if self.device.type == "cuda":
            mark = torch.cuda.Event(enable_timing=True)
            mark.record()
        self._marks.append((phase, mark))

    def seconds(self) -> dict[str, float]:
        """End the last phase, and say how long each has lasted since the last call, in the order of their beginnings."""
        self.enter(END)
        synchronise(self.device)
        total: Counter[str] = Counter()
        for (phase, start), (_, end) in pairwise(self._marks):
            total[phase] += start.elapsed_time(end) / 1e3 if self.device.type == "cuda" else end - start
        self._marks.clear()
        return dict(total)


def seconds_on(device: torch.device, action: Callable[[], Any]) -> float:
    """Wall time of a call until a device has done what it asked for."""

    def whole() -> None:
        action()
        synchronise(device)

    synchronise(device)
    return seconds_of(whole)


class Peaks(NamedTuple):
    """The most bytes that a GPU's allocator had given out, and had reserved, during a call; what was there before counts."""

    allocated: int
    reserved: int


def peaks_of(device: torch.device, action: Callable[[], Any]) -> Peaks | None:
    """Of a call that begins with nothing reserved in vain; None on a CPU, where the call is made, too."""
    if device.type != "cuda":
        action()
        return None
    synchronise(device)
    gc.collect()  # networks refer to themselves in circles
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    action()
    synchronise(device)
    return Peaks(torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device))


def matrix_rate(device: torch.device, *, size: int = 8192, products: int = 20) -> float:
    """FLOP a second of a device in products of large square matrices in bfloat16, in the median of three measurements: the
    rate that its other work is held to, instead of one from a data sheet.
    """
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))

    def multiply() -> None:
        for _ in range(products):
            a @ b

    multiply()
    return products * 2 * size**3 / median(seconds_on(device, multiply) for _ in range(3))
