"""What tables, figures and prose call what code and tables of numbers know by an id: one place for a change of wording."""

LABELS = {
    "distilled": "distilled generator",
    "tilt": "tilted optimum",
    "reward-only": "reward only",
    "kl-x0": "KL, w = σ²/α²",
    "kl-one": "KL, w = 1",
    "star": "score, pseudo-Huber",
    "star-differentiated": "score, pseudo-Huber, law differentiated",
    "l2": "score, squared L2",
    "l2-differentiated": "score, squared L2, law differentiated",
    "didr": "DIDR, exact target",
    "didr-proxy": "DIDR, proxy",
}
"""Id -> label: the regularizers of the plane, where runs start, and what an exact KL would reach."""


def label_of(name: str) -> str:
    """The label of an id; any other name is its own."""
    return LABELS.get(name, name)
