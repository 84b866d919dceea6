"""Every document that is written by code, from one list: `python -m tools.generated` writes them all anew.

They are the notebooks' editions (from notebooks/source), notebooks/EXPERIMENTS.md (from its template and the tables of lab/data and toy/data) and the card of
the shipped world (from its card.json). Figures are not among them: their bytes depend on the version of matplotlib.
"""

from __future__ import annotations

import json
from pathlib import Path

from distar_core.world.card import words_of
from tools.build import build
from tools.publish_lab import experiments

ROOT = Path(__file__).resolve().parent.parent


def documents(root: Path = ROOT) -> dict[Path, str]:
    """The text of every generated document by path."""
    weights = root / "distar_core" / "world" / "weights"
    card = json.loads((weights / "card.json").read_text("utf-8"))
    return {
        **build(root / "notebooks"),
        root / "notebooks" / "EXPERIMENTS.md": experiments()[0],
        weights / "README.md": words_of(card),
    }


def main() -> None:
    """Write those that differ, and name them."""
    for path, text in documents().items():
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, encoding="utf-8", newline="\n")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
