"""Pipeline folders: what has to be in them, and loading without noise on the terminal."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of diffusers and transformers inside, nor the complaint about them that their first import makes in a
    notebook without ipywidgets."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        import diffusers
        import transformers

    logs = (diffusers.utils.logging, transformers.utils.logging)
    shown = [log.is_progress_bar_enabled() for log in logs]
    for log in logs:
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, was in zip(logs, shown, strict=True):
            if was:
                log.enable_progress_bar()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what loaders raise for a damaged file below `path` into one ValueError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError, ValueError, TypeError, SafetensorError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0][:100]
        raise ValueError(f"{path} is damaged or of another model ({why}); copy it again, whole") from error


def load_pipeline(folder: Path) -> StableDiffusionXLPipeline:
    """The StableDiffusionXLPipeline in a folder: single precision, on the CPU, frozen.

    Raises:
        FileNotFoundError: if the folder is none or a part is missing; the message names it.
        ValueError: if a file of it is damaged.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        raise FileNotFoundError(f"{folder} is no pipeline folder: it has no model_index.json; name another folder")
    parts: dict[str, Any] = json.loads(index.read_text("utf-8"))
    names = [name for name, kind in parts.items() if isinstance(kind, list) and kind[0] is not None]
    missing = [name for name in names if not (folder / name).is_dir()]
    if missing:
        raise FileNotFoundError(f"pipeline folder {folder} lacks {', '.join(missing)}; copy it again, whole")
    with quiet(), reading(folder):
        from diffusers import StableDiffusionXLPipeline

        pipeline = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    for part in (pipeline.vae, pipeline.unet, pipeline.text_encoder, pipeline.text_encoder_2):
        part.float().requires_grad_(False).eval()
    return pipeline
