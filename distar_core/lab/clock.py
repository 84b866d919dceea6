"""What a device does: seconds of a call, the rate of its matrix products, and the memory that a call takes."""

from __future__ import annotations

import gc
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import torch

from ..probes import seconds_of, synchronise


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
