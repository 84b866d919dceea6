"""Drawn pictures in the folders that the sets' own scripts read: GenEval's, and HPSv2's JPEGs."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from .benchmarks import PER_STYLE, PromptSet
from .harness import Key, Model, Plan, write_whole

LAYOUTS = "layouts"
JPEG_QUALITY = 75
"""PIL's default, with which HPSv2's README saves."""


def require_layout(plan: Plan) -> None:
    """Raise ValueError unless a set of the plan has a script with a layout of its own."""
    names = [one.name for one in plan.sets]
    if not {"geneval", "hpsv2"} & set(names):
        raise ValueError(
            f"GenEval and HPSv2 have scripts of their own, but not {', '.join(names)}; leave out --layouts"
        )


def write_layouts(folder: Path, plan: Plan) -> list[Path]:
    """Copies of every model's pictures, as the scripts of the plan's sets read them; the folders to give to these.

    GenEval: 00000/metadata.jsonl, the line of the prompt, and 00000/samples/0000.png, one for each seed. HPSv2:
    anime/00000.jpg, JPEG of quality 75, counted within each style, the first seed alone, since its script has one for each prompt.

    Raises:
        ValueError: as require_layout.
    """
    require_layout(plan)
    made: list[Path] = []
    for prompts in plan.sets:
        for model in plan.models:
            root = folder / LAYOUTS / prompts.name / model.name
            if prompts.name == "geneval":
                files = _geneval(folder, prompts, model, plan.seeds)
            elif prompts.name == "hpsv2":
                files = _hpsv2(folder, prompts, model)
            else:
                continue
            for name, data in files:
                write_whole(root / name, data)
            made.append(root)
    return made


def _geneval(folder: Path, prompts: PromptSet, model: Model, seeds: int) -> Iterator[tuple[str, bytes]]:
    for index, entry in enumerate(prompts.entries):
        yield f"{index:05d}/metadata.jsonl", f"{entry.record}\n".encode()
        for replicate in range(seeds):
            picture = folder / Key(model.name, prompts.name, index, replicate).picture
            yield f"{index:05d}/samples/{replicate:04d}.png", picture.read_bytes()


def _hpsv2(folder: Path, prompts: PromptSet, model: Model) -> Iterator[tuple[str, bytes]]:
    for index, entry in enumerate(prompts.entries):
        buffer = io.BytesIO()
        with Image.open(folder / Key(model.name, prompts.name, index, 0).picture) as picture:
            picture.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
        yield f"{entry.category}/{index % PER_STYLE:05d}.jpg", buffer.getvalue()
