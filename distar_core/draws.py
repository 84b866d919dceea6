"""Random numbers by position: what a batch is drawn from depends on where it stands in the run, and on nothing before."""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

import torch
from torch import Tensor

BLOCK = 2**20
"""How many normal numbers come from one source. Batches of at most so many do not depend on it; larger ones do."""
KEPT = 16
"""How many blocks are kept, the latest: at most 128 MB."""


def require_whole(**counts: int) -> None:
    """Raise TypeError, with name and value, for a number of a run that is no int: draws are keyed by whole numbers."""
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool):
            raise TypeError(f"{name} must be a whole number, got {count!r}; give an int")


def share_of(batch: int, rows: slice) -> range:
    """The rows of a global batch that belong to a process. Raises ValueError unless they are neighbours within it."""
    mine = range(batch)[rows]
    if not mine or mine.step != 1 or (rows.stop is not None and rows.stop > batch):
        raise ValueError(f"rows {rows} are not a part of a batch of {batch}; choose neighbouring rows within it")
    return mine


def draw(seed: int, step: int, stream: str, shape: tuple[int, ...], rows: slice, *, uniform: bool = False) -> Tensor:
    """Random numbers by position: the same (seed, step, stream) gives the same global batch, in every process.

    Normal numbers come in blocks of 2²⁰, each with a source of its own, and only the blocks that the rows touch are drawn:
    a process pays for its share of the batch. The latest 16 blocks are kept, at most 128 MB, so that micro-batches do not
    draw the same block again.

    Args:
        shape: shape of the global batch, [B, ...].
        rows: this process's share of it, neighbouring rows.
        uniform: instead of normal numbers, one stratified number in [0, 1) per row, in random order; shape is [B] then.

    Raises:
        ValueError: for rows that are not a part of the batch.
    """
    mine, dtype = share_of(shape[0], rows), torch.get_default_dtype()
    if uniform:
        return _strata(seed, step, stream, shape[0], dtype)[rows].clone()
    width = math.prod(shape[1:])
    total, start, stop = (count * width for count in (shape[0], mine.start, mine.stop))
    parts = []
    for index in range(start // BLOCK, math.ceil(stop / BLOCK)):
        first = index * BLOCK
        numbers = _block(seed, step, stream, index, min(BLOCK, total - first), dtype)
        parts.append(numbers[max(start - first, 0) : stop - first])
    return torch.cat(parts).view(len(mine), *shape[1:])


def _source(seed: int, step: int, stream: str, block: int = 0) -> torch.Generator:
    """The random source of a block. The block is the hash's salt, so it can be mistaken for no part of a stream's name."""
    name = f"{seed}/{step}/{stream}".encode()
    key = hashlib.blake2b(name, digest_size=8, salt=block.to_bytes(8, "little")).digest()
    return torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)


@lru_cache(maxsize=KEPT)
def _block(seed: int, step: int, stream: str, index: int, count: int, dtype: torch.dtype) -> Tensor:
    """Numbers index · BLOCK, … of a global batch in order, `count` of them."""
    return torch.randn(count, generator=_source(seed, step, stream, index), dtype=dtype)


@lru_cache(maxsize=KEPT)
def _strata(seed: int, step: int, stream: str, batch: int, dtype: torch.dtype) -> Tensor:
    """The stratified numbers of a whole global batch, [B]: the order of its strata concerns every row."""
    source = _source(seed, step, stream)
    strata = torch.randperm(batch, generator=source) + torch.rand(batch, generator=source, dtype=dtype)
    below_one = 1 - max(2**-24, torch.finfo(dtype).eps / 2)
    return (strata / batch).clamp(max=below_one)
