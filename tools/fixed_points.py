"""`python -m tools.fixed_points FILE`: compute the table of fixed points anew.

distar_core/toy/data/fixed_points.csv is its output.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from distar_core.toy.frontier import (
    DIVERGENCES,
    SCALES,
    TILT,
    aims,
    compute_point,
    read_points,
    scale_for,
    write_points,
)
from distar_core.truth.grid import Divergence


def complete(path: Path) -> None:
    """Compute what a table still lacks: every curve over SCALES, then the scales that meet the aims, twice refined.

    Differentiated laws, which the demo does not train, are computed for the reward "mode" only, without the aims.
    """
    have = {(p.reward_name, p.regularizer, p.reward_scale) for p in read_points(path)} if path.exists() else set()

    def add(*key: Any) -> None:
        if key not in have:
            have.add(key)
            write_points(path, [compute_point(*key)])

    for name in ("mode", "off-data", "side"):
        for regularizer in (TILT, *DIVERGENCES):
            frozen = DIVERGENCES.get(regularizer, Divergence("kl")).frozen
            if frozen or name == "mode":
                for scale in SCALES:
                    add(name, regularizer, scale)
            for aim in [*aims(name), *aims(name)] if frozen else []:
                add(name, regularizer, round(scale_for(read_points(path), name, regularizer, aim), 3))


if __name__ == "__main__":
    torch.set_num_threads(1)
    complete(Path(sys.argv[1]))
