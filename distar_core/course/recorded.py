"""Recorded runs of the miniature to read in notebook 11: log, numbers and last sheet of the panels, and what other judges say.

Each folder is as `distar train world NAME --recipe NAME/recipe.yaml` leaves it, less the checkpoint and all but the last sheet;
`hacking.csv` beside them is that of `distar world evaluate OUT healthy hacked stale alone`, for `evaluation.report.read_panels`.
"""

from __future__ import annotations

from pathlib import Path

from ..figures.picture import SavedPicture
from ..runs.watch import PANELS

DATA = Path(__file__).parent / "data"
# By name: healthy; hacked, with a hundredfold reward_scale; stale, with an assistant that learns a two-hundredth as fast; and alone,
# by the reward alone and four times as many samples, without a sheet.
RECORDED = {name: DATA / name for name in ("healthy", "hacked", "stale", "alone")}

LETTERS = {"A": "stale", "B": "healthy", "C": "hacked"}
"""Under which letter notebook 11 shows a run before it says which it is; drawn by lot."""


def sheet(run: Path, step: int) -> SavedPicture:
    """The sheet of pictures that a run drew at a step. Raises FileNotFoundError if it drew none."""
    return SavedPicture(run / PANELS / f"step_{step:06d}.png")
