"""The command that lists the published rewards: distar rewards."""

from __future__ import annotations

from ..extras import require
from .terminal import say


def rewards() -> None:
    """The published rewards on pictures: what they measure, their scale, download, licence and source."""
    require("models")
    from ..rewards.published import CLIP_EXAMPLE, PUBLISHED

    for reward in PUBLISHED.values():
        size = "unknown size" if reward.gigabytes is None else f"{reward.gigabytes:.1f} GB"
        say(f"{reward.name}: {reward.measures}")
        say(f"    scale     {reward.scale}")
        say(f"    weights   {size} from {reward.source}; licence: {reward.licence}")
        say(f"    gradient  {reward.gradient}")
    say(f"Any CLIP of open_clip is clip:MODEL/TAG, as {CLIP_EXAMPLE}.")
    say("Weights are fetched at the first use, or read from a folder; docs/rewards.md says which files it holds.")
