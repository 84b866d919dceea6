"""Random numbers by position: the same in every process, micro-batch and session, and no more of them than needed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from distar_core import draws
from distar_core.draws import BLOCK, draw

NARROW = 64
FROZEN_NORMAL = [
    [1.0910776853561401, 0.6721323132514954, -1.5875362157821655],
    [-1.7192679643630981, 0.41141030192375183, 0.009863350540399551],
]
FROZEN_UNIFORM = [0.9546566605567932, 0.07685083895921707, 0.5012480616569519]
LARGE = (24, 3, 5)
"""360 numbers, 15 per row: five blocks of 64 and one of 40, and rows that lie across their borders."""


@pytest.fixture
def narrow_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks of 64 numbers instead of a million."""
    monkeypatch.setattr(draws, "BLOCK", NARROW)
    draws._block.cache_clear()
    yield
    draws._block.cache_clear()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many normal numbers each call of torch.randn makes from now on."""
    counts: list[int] = []
    randn = torch.randn

    def counting(count: int, **options: object) -> Tensor:
        counts.append(count)
        return randn(count, **options)  # type: ignore[call-overload, no-any-return]

    draws._block.cache_clear()
    monkeypatch.setattr(torch, "randn", counting)
    return counts


def in_one_piece(seed: int, step: int, stream: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A batch as one source draws it whole: what every batch of at most a block has to be for ever."""
    key = hashlib.blake2b(f"{seed}/{step}/{stream}".encode(), digest_size=8).digest()
    source = torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)
    return torch.randn(shape, generator=source, dtype=dtype)


@pytest.mark.parametrize("uniform", [False, True], ids=["normal", "uniform"])
@pytest.mark.parametrize("split", [[8], [4, 4], [2, 5, 1], [1] * 8])
def test_a_draw_does_not_depend_on_the_split_over_processes(split: list[int], uniform: bool) -> None:
    shape = (8,) if uniform else (8, 3)
    whole = draw(3, 5, "stream", shape, slice(0, 8), uniform=uniform)
    ends = [sum(split[: k + 1]) for k in range(len(split))]
    parts = [draw(3, 5, "stream", shape, slice(e - n, e), uniform=uniform) for e, n in zip(ends, split, strict=True)]
    assert torch.equal(torch.cat(parts), whole)
    assert whole.shape == shape


@pytest.mark.parametrize("uniform", [False, True], ids=["normal", "uniform"])
def test_another_seed_step_or_stream_is_another_draw(uniform: bool) -> None:
    keys = [(3, 5, "a"), (4, 5, "a"), (3, 6, "a"), (3, -5, "a"), (3, 5, "b"), (35, 5, "a"), (3, 55, "a")]
    draws = [draw(*key, (16,), slice(0, 16), uniform=uniform) for key in keys]
    assert len({tuple(one.tolist()) for one in draws}) == len(keys)
    assert torch.equal(draw(3, 5, "a", (16,), slice(0, 16), uniform=uniform), draws[0])


def test_a_draw_leaves_the_global_source_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    draw(0, 0, "a", (4,), slice(0, 4))
    assert torch.equal(torch.rand(3), expected)


def test_uniform_draws_are_stratified_in_random_order() -> None:
    u = draw(0, 0, "t", (64,), slice(0, 64), uniform=True)
    strata = (u * 64).long()
    assert torch.equal(strata.sort().values, torch.arange(64))
    assert not torch.equal(strata, torch.arange(64))
    # Control: independent uniform numbers leave strata empty.
    independent = torch.rand(64, generator=torch.Generator().manual_seed(0))
    assert not torch.equal((independent * 64).long().sort().values, torch.arange(64))


def test_uniform_draws_stay_below_one() -> None:
    # 4095 + rand rounds to 4096 for one in some ten thousand draws: about 4 of these 20,000 steps.
    largest = max(float(draw(0, step, "x", (4096,), slice(0, 4096), uniform=True).max()) for step in range(20_000))
    assert largest < 1


def test_normal_draws_have_the_moments_of_a_standard_normal() -> None:
    x = draw(0, 0, "z", (10_000, 2), slice(0, 10_000)).double()
    # Four standard errors with n = 20,000.
    assert abs(float(x.mean())) < 4 / 20_000**0.5
    assert abs(float(x.square().mean()) - 1) < 4 * (2 / 20_000) ** 0.5


def test_what_is_drawn_may_be_changed_in_place() -> None:
    first = draw(0, 1, "z", (4, 2), slice(0, 4))
    kept = first.clone()
    first.zero_()
    assert torch.equal(draw(0, 1, "z", (4, 2), slice(0, 4)), kept)


# Blocks.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1,), (7,), (256, 2), (16, 3, 5, 7), (512, 2048)])
def test_a_batch_of_at_most_a_block_comes_from_one_source(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    assert math.prod(shape) <= BLOCK
    usual = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        whole = draw(3, -5, "assistant/0/z", shape, slice(None))
    finally:
        torch.set_default_dtype(usual)
    assert whole.dtype == dtype
    assert torch.equal(whole, in_one_piece(3, -5, "assistant/0/z", shape, dtype))


def test_the_numbers_of_the_runs_there_are() -> None:
    """Values that earlier versions drew; if they change, no run of theirs can be resumed or repeated."""
    normal = draw(3, 5, "stream", (8, 3), slice(2, 4))
    uniform = draw(3, 5, "stream", (8,), slice(0, 3), uniform=True)
    assert torch.equal(normal, torch.tensor(FROZEN_NORMAL))
    assert torch.equal(uniform, torch.tensor(FROZEN_UNIFORM))


@pytest.mark.usefixtures("narrow_blocks")
@pytest.mark.parametrize("rows", [(0, 1), (0, 24), (3, 5), (4, 5), (12, 13), (5, 20), (23, 24)])
def test_rows_of_a_large_batch_are_those_of_the_whole(rows: tuple[int, int]) -> None:
    whole = draw(0, 0, "z", LARGE, slice(None))
    assert whole.shape == LARGE
    assert torch.equal(draw(0, 0, "z", LARGE, slice(*rows)), whole[slice(*rows)])
    assert torch.equal(whole.flatten()[:NARROW], in_one_piece(0, 0, "z", (NARROW,), whole.dtype))
    # Control: beyond the first block it is not what one source would have drawn.
    one = in_one_piece(0, 0, "z", LARGE, whole.dtype)
    assert not torch.equal(whole.flatten()[NARROW : 2 * NARROW], one.flatten()[NARROW : 2 * NARROW])


@pytest.mark.usefixtures("narrow_blocks")
def test_no_block_is_another_stream() -> None:
    blocks = [*draw(0, 0, "z", LARGE, slice(None)).flatten().split(NARROW)]
    streams = [f"z{mark}{index}" for mark in ("", "/", " ") for index in range(6)]
    blocks += [draw(0, 0, stream, (NARROW,), slice(None)) for stream in streams]
    assert len({tuple(block[:4].tolist()) for block in blocks}) == len(blocks)


def correlation(x: Tensor, y: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([x, y]))[0, 1])


def test_blocks_are_independent_of_one_another() -> None:
    first, second = draw(0, 0, "z", (2, BLOCK), slice(None)).double()
    # Five standard errors with n = 2²⁰, also for the squares, whose correlation normal numbers of one source would show.
    assert abs(correlation(first, second)) < 5 / BLOCK**0.5
    assert abs(correlation(first.square(), second.square())) < 5 / BLOCK**0.5
    # Control: the same key gives the same block.
    assert correlation(first, draw(0, 0, "z", (BLOCK,), slice(None)).double()) > 0.999


@pytest.mark.usefixtures("narrow_blocks")
@pytest.mark.parametrize(
    ("rows", "expected"), [((0, 4), [64]), ((4, 5), [64, 64]), ((5, 8), [64]), ((21, 24), [64, 40])]
)
def test_a_process_draws_the_blocks_of_its_rows_alone(
    rows: tuple[int, int], expected: list[int], drawn: list[int]
) -> None:
    draw(0, 0, "z", LARGE, slice(*rows))
    assert drawn == expected


@pytest.mark.usefixtures("narrow_blocks")
def test_micro_batches_draw_each_block_once(drawn: list[int]) -> None:
    for row in range(24):
        for stream in ("z", "noise"):
            draw(0, 0, stream, LARGE, slice(row, row + 1))
    assert drawn == [64, 64] * 5 + [40, 40]


def test_what_is_kept_is_bounded() -> None:
    draws._block.cache_clear()
    for step in range(3 * draws.KEPT):
        draw(0, step, "z", (2, 3), slice(None))
    assert draws._block.cache_info().currsize == draws.KEPT
    # Numbers are kept by the block, however large the batch is, in at most eight bytes each.
    assert draws.KEPT * BLOCK * 8 <= 128 * 2**20


@pytest.mark.parametrize("rows", [slice(3, 3), slice(0, 9), slice(0, 8, 2), slice(5, 3)])
@pytest.mark.parametrize("uniform", [False, True], ids=["normal", "uniform"])
def test_rows_that_are_no_share_of_the_batch_are_refused(rows: slice, uniform: bool) -> None:
    with pytest.raises(ValueError, match=r"slice\(.*batch of 8"):
        draw(0, 0, "z", (8,), rows, uniform=uniform)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_uniform_draws_stay_below_one_in_every_type(dtype: torch.dtype) -> None:
    usual = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        u = torch.cat([draw(0, step, "t", (256,), slice(None), uniform=True) for step in range(50)])
    finally:
        torch.set_default_dtype(usual)
    assert u.dtype == dtype
    assert 0 <= float(u.min()) < float(u.max()) < 1
