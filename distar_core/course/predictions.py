"""Predictions: written down before a run, shown beside its result. They stay in one local file, predictions.json.

The file lies in the folder .distar of the working folder, or in the folder that the environment variable DISTAR_FOLDER
names. Nothing is sent anywhere.
"""

from __future__ import annotations

import json
import os
from pathlib import Path


def _file() -> Path:
    return Path(os.environ.get("DISTAR_FOLDER", ".distar")) / "predictions.json"


def stored() -> dict[str, str]:
    """All predictions so far by number; empty before the first, or if the file is damaged."""
    try:
        return dict(json.loads(_file().read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def predict(number: str, answer: str) -> None:
    """Write a prediction down; "?" or nothing stores none and says so."""
    answer = answer.strip()
    if answer in ("", "?"):
        print(f"{number}: nothing predicted yet. Put your answer in place of the ?; a wrong one teaches most.")
        return
    _file().parent.mkdir(parents=True, exist_ok=True)
    _file().write_text(json.dumps(stored() | {number: answer}, indent=1, ensure_ascii=False), encoding="utf-8")
    print(f"{number}: your prediction {answer!r} is stored.")


def reveal(number: str, result: str) -> None:
    """Show what a run gave beside what was predicted."""
    print(f"{number}: you predicted {stored().get(number, 'nothing')}")
    print(f"      the run: {result}")
