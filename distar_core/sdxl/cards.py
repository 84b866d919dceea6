"""Common accelerators by what their maker states: how much memory, and how fast their matrix products are."""

from __future__ import annotations

from typing import NamedTuple

USABLE = 0.97
"""Which part of the stated memory, taken as GiB, a run may count on. An estimate: a run looks at what is free."""


class Card(NamedTuple):
    """An accelerator.

    Attributes:
        gigabytes: of memory, as stated.
        tflops: of products in bfloat16 that are added up in float32, dense, as stated; measured rates are lower.
        source: where that is stated. Where it gives the rate with sparsity alone, half of it is taken.
    """

    name: str
    gigabytes: int
    tflops: float
    source: str

    def has(self, need: int) -> bool:
        """Whether so many bytes fit."""
        return need <= USABLE * self.gigabytes * 2**30


CARDS = (
    Card("RTX 3090", 24, 71, "NVIDIA, Ampere GA102 whitepaper 2.0"),
    Card("RTX 4090", 24, 165.2, "NVIDIA, Ada GPU architecture whitepaper"),
    Card("RTX 5090", 32, 209.5, "NVIDIA, RTX Blackwell GPU architecture whitepaper"),
    Card("A100 40 GB", 40, 312, "NVIDIA, A100 data sheet"),
    Card("L40S", 48, 362, "NVIDIA, L40S data sheet"),
    Card("A100 80 GB", 80, 312, "NVIDIA, A100 data sheet"),
    Card("H100 SXM", 80, 989, "NVIDIA, H100 data sheet"),
    Card("H200 SXM", 141, 989, "NVIDIA, H200 data sheet"),
    Card("B200", 180, 2250, "NVIDIA, DGX B200 data sheet, an eighth of it"),
)
