"""Experiments behind the notebooks, in the plane and in the world of pictures: `distar lab NAME` runs one and leaves its
CSV and figure and prints its facts.

The CSV files of the full profile ship in distar_core/lab/data, and the notebooks draw from them.
"""

from . import (
    assistant,
    didr,
    exact_assistant,
    exact_generator,
    hacking,
    huber_c,
    landscape,
    score_vs_kl,
    stability,
    world,
    world_cross,
)
from .study import PROFILES, Row, Study, over_seeds, perform, read_rows, values_of, where

STUDIES = {
    study.name: study
    for study in (
        stability.STUDY,
        didr.STUDY,
        assistant.STUDY,
        exact_generator.STUDY,
        exact_assistant.STUDY,
        landscape.STUDY,
        score_vs_kl.STUDY,
        huber_c.STUDY,
        world.STUDY,
        world_cross.STUDY,
        hacking.STUDY,
    )
}

__all__ = ["PROFILES", "STUDIES", "Row", "Study", "over_seeds", "perform", "read_rows", "values_of", "where"]
