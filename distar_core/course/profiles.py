"""How long a notebook's runs take: the environment variable DISTAR_PROFILE."""

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


TOO_SHORT = (
    "Profile ci: the runs of this notebook are too short to show what its text says. For what it describes, unset "
    "DISTAR_PROFILE and restart the kernel."
)


def profile() -> Profile:
    """The profile named by DISTAR_PROFILE, "fast" when it is not set; "ci" announces that its results are unfinished.

    Raises:
        ValueError: for an unknown name.
    """
    name = os.environ.get("DISTAR_PROFILE", "fast")
    if name not in PROFILES:
        raise ValueError(f"DISTAR_PROFILE is {name!r}; set it to one of {', '.join(PROFILES)}")
    if name == "ci":
        print(TOO_SHORT)
    return PROFILES[name]
