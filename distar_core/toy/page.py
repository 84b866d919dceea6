"""The page that the demo leaves: the facts that page.html.j2 shows around the pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..templates import fill
from .frontier import Point
from .records import Row
from .report import (
    KNOWN_SPREAD,
    TITLE,
    arrivals,
    gap_sentence,
    method_table,
    ranking,
    result_table,
    reward_names,
    unbounded_sentence,
    verdict_table,
)
from .ring import REWARDS
from .summary import KL_SIGMA

SHORT_RUN, LONG_RUN = 200, 2000
"""Runs of fewer steps than the first have not moved yet, and of fewer than the second are not at rest; the page says so."""


def write_page(folder: Path, rows: Sequence[Row], points: Sequence[Point], alts: Mapping[str, str]) -> Path:
    """Write index.html about the runs and fixed points, around the pictures in `folder`; returns its path.

    Args:
        alts: alternative text of every picture, by file name.

    Raises:
        jinja2.UndefinedError: if a picture that the page shows has no alternative text; nothing is written.
    """
    text = fill(
        "distar_core.toy",
        "page.html.j2",
        alts=alts,
        steps=max(int(row.steps) for row in rows if not math.isnan(row.steps)),
        short_run=SHORT_RUN,
        long_run=LONG_RUN,
        seeds=len({row.seed for row in rows if not math.isnan(row.seed)}),
        rewards=[
            {
                "name": name,
                "formula": REWARDS[name].formula,
                "ranking": ranking(rows, name),
                "arrivals": arrivals(rows, name),
                "results": result_table(rows, name),
            }
            for name in reward_names(rows)
        ],
        title=TITLE,
        verdicts=verdict_table(rows),
        gaps=gap_sentence(rows, points),
        unbounded=unbounded_sentence(rows),
        methods=method_table(),
        kl_sigma=KL_SIGMA,
        known_spread=KNOWN_SPREAD,
    )
    page = folder / "index.html"
    page.write_text(text, encoding="utf-8")
    return page
