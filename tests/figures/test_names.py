"""The one table of labels: whole, unambiguous, and what figures show."""

import torch

from distar_core import ring
from distar_core.figures import plane
from distar_core.figures.names import LABELS, label_of
from distar_core.figures.picture import STYLES
from distar_core.toy.frontier import DIVERGENCES, TILT
from distar_core.toy.records import START
from distar_core.toy.ring import TOY_METHODS


def test_every_id_of_the_plane_has_a_label_of_its_own() -> None:
    assert {*TOY_METHODS, *DIVERGENCES, START, TILT, *STYLES} <= LABELS.keys()
    assert len(set(LABELS.values())) == len(LABELS)
    assert not set(LABELS) & set(LABELS.values()), "an id that is a label would hide a mistake"


def test_figures_show_labels_and_leave_other_titles_alone() -> None:
    points = torch.zeros(20, 2)
    drawn = plane.clouds({"kl-one": points, "mine": points}, ring(), alt="Two panels of twenty dots in one place each.")
    assert [axes.get_title() for axes in drawn.figure.axes] == [label_of("kl-one"), "mine"]
    assert label_of("mine") == "mine"
