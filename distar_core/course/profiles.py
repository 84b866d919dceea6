"""How long the notebooks' runs take, chosen once by the environment variable DISTAR_PROFILE."""

from __future__ import annotations

import os
from typing import NamedTuple


class Profile(NamedTuple):
    """Sizes of a notebook's runs.

    Attributes:
        name: "ci" (seconds, the pictures are unfinished), "fast" (a minute or two, the default) or "full".
        steps: generator steps of a run.
        distil_steps: steps of a distillation.
    """

    name: str
    steps: int
    distil_steps: int


PROFILES = {
    profile.name: profile
    for profile in (Profile("ci", 20, 60), Profile("fast", 800, 2500), Profile("full", 1600, 2500))
}


def profile() -> Profile:
    """The profile named by DISTAR_PROFILE, "fast" when it is not set. Raises ValueError for an unknown name."""
    name = os.environ.get("DISTAR_PROFILE", "fast")
    if name not in PROFILES:
        raise ValueError(f"DISTAR_PROFILE is {name!r}; set it to one of {', '.join(PROFILES)}")
    return PROFILES[name]
