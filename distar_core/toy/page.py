"""The page that the demo leaves: the facts that page.html.j2 shows around the pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..figures.picture import Picture
from ..templates import fill
from .frontier import Point
from .records import Row
from .report import (
    KNOWN_SPREAD,
    TITLE,
    arrival_sentence,
    arrivals,
    gap_sentence,
    landing_sentence,
    method_table,
    middle_aim,
    rest_sentence,
    result_table,
    reward_names,
    unbounded_sentence,
    verdict_table,
)
from .ring import REWARDS
from .summary import KL_SIGMA

SHORT_RUN, LONG_RUN = 200, 2000
"""Runs of fewer steps than the first have not moved yet, and of fewer than the second are not at rest; the page says so."""


class Cause(NamedTuple):
    """One reason why a network rests elsewhere than its objective, from a recorded study."""

    file: str
    title: str
    text: str
    picture: Picture


def _steps(rows: Sequence[Row]) -> int:
    return max((int(row.steps) for row in rows if not math.isnan(row.steps)), default=0)


def write_page(
    folder: Path,
    exact: Sequence[Row],
    networks: Sequence[Row],
    points: Sequence[Point],
    alts: Mapping[str, str],
    causes: Sequence[Cause],
) -> Path:
    """Write index.html about the runs and fixed points, around the pictures in `folder`; returns its path.

    Args:
        exact: the runs of exact generators.
        networks: those of networks; while there are none, the page has the exact generators alone.
        alts: alternative text of every picture, by file name.

    Raises:
        jinja2.UndefinedError: if a picture that the page shows has no alternative text; nothing is written.
    """
    text = fill(
        "distar_core.toy",
        "page.html.j2",
        alts=alts,
        exact_steps=_steps(exact),
        steps=_steps(networks),
        short_run=SHORT_RUN,
        long_run=LONG_RUN,
        seeds=len({row.seed for row in networks if not math.isnan(row.seed)}),
        rewards=[
            {
                "name": name,
                "formula": REWARDS[name].formula,
                "rest": rest_sentence(points, name, middle_aim(exact, name)),
                "aim": middle_aim(exact, name),
                "exact": result_table(exact, name, ranges=len({row.seed for row in exact}) > 1),
                "reached": arrival_sentence(networks, name) if networks else "",
                "arrivals": arrivals(networks, name) if networks else "",
                "results": result_table(networks, name),
            }
            for name in reward_names(exact)
        ],
        landing=landing_sentence(exact, points),
        title=TITLE,
        verdicts=verdict_table(networks),
        gaps=gap_sentence(networks, points),
        causes=causes,
        unbounded=unbounded_sentence(networks),
        methods=method_table(),
        kl_sigma=KL_SIGMA,
        known_spread=KNOWN_SPREAD,
    )
    page = folder / "index.html"
    page.write_text(text, encoding="utf-8")
    return page
