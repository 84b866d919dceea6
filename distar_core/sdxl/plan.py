"""What a run will take, told before anything is loaded: memory, time, disk and downloads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from ..rewards.base import WeightedSum
from ..rewards.published import find_reward
from ..rewards.shapes import reward_on_meta
from ..runs.hub import Named, named
from .adapters import tied_clone
from .files import Place, weight_files
from .ledger import Ledger
from .loading import NETWORKS, describe_pipeline
from .models import TextToImage
from .prompt_files import dataset_named
from .published import LICENCES, SDXL_NAME
from .recipe import RECIPES, TYPES, SdxlRecipe
from .shapes import described_on_meta, sdxl_on_meta

GB = 1e9
LAUNCHING = (
    "launched kernel by kernel, one sample at a time, a sample of SDXL took 2.4 to 6.9 s on the two hosts where it was measured; "
    "recorded with cuda_graphs: true, 0.7 to 1.2 s (notebooks/records/sdxl_h100.md)"
)
"""Why a run takes longer than the FLOPs say."""
OF_PEAK = 0.5
"""Which part of a device's peak the estimate of the time supposes."""
COUNTED_PROMPTS = 10_000
"""How many prompts are counted at most; more are embedded as they are drawn, so that their number takes no memory."""


def model_on_meta(recipe: SdxlRecipe, *, offline: bool = False) -> TextToImage:
    """The model of a recipe in shapes and types alone, from what its reference's folder says; no weights are fetched or read.

    Args:
        offline: take SDXL's known shapes for the reference of that name, without asking the hub.

    Raises:
        FileNotFoundError, ValueError: as describe_pipeline; and as TextToImage.
    """
    if offline and recipe.reference == SDXL_NAME and recipe.vae is None:
        model = sdxl_on_meta(**recipe.types, pixels=recipe.pixels)  # type: ignore[arg-type]
    else:
        found = describe_pipeline(recipe.reference, vae=recipe.vae, **recipe.types)  # type: ignore[arg-type]
        model = described_on_meta(found, pixels=recipe.pixels)
    if recipe.start_device != recipe.device:
        model.unet = tied_clone(model.pipeline.unet)  # of the same shapes, and takes nothing
    return model


def rewards_on_meta(recipe: SdxlRecipe) -> WeightedSum | None:
    """The rewards of a recipe in shapes and types alone; None where none takes part."""
    if not recipe.rewarded:
        return None
    rewards = {name: reward_on_meta(name).to(TYPES[recipe.base]) for name in recipe.reward.root}
    return WeightedSum({name: (1.0, reward) for name, reward in rewards.items()})


def counted_prompts(count: int) -> Sequence[str]:
    """Prompts that stand for so many in a ledger, which does not depend on their words."""
    return ["a"] * min(max(count, 1), COUNTED_PROMPTS)


def flops_of_run(recipe: SdxlRecipe, ledger: Ledger) -> float:
    """All that a run computes: its steps, and a warm-up in which only the assistant learns."""
    assistant = sum(flops for phase, flops in ledger.flops.items() if phase.startswith("assistant")) / ledger.samples
    return recipe.batch * (recipe.steps * ledger.flops_per_sample + recipe.warmup * assistant)


def hours_at(recipe: SdxlRecipe, ledger: Ledger, tflops: float, share: float = OF_PEAK) -> float:
    """Hours of one device with so many TFLOP/s that reaches a share of them: an estimate."""
    return flops_of_run(recipe, ledger) / (share * tflops * 1e12) / 3600


def hours_of_run(recipe: SdxlRecipe, ledger: Ledger) -> float | None:
    """An estimate, at OF_PEAK of the peak that the recipe states; None if it states none."""
    return None if recipe.peak_tflops is None else hours_at(recipe, ledger, recipe.peak_tflops)


def checkpoint_bytes(ledger: Ledger, processes: int = 1) -> int:
    """The size of a checkpoint: what is learnt, the optimizers' state and the averages.

    Args:
        processes: that hold a part each, and the ledger is of one; padding counts, less than a thousandth.
    """
    return processes * sum(ledger.held.get(name, 0) for name in ("learning weights", "optimizer state", "averages"))


def require_disk(folder: Path, ledger: Ledger, kept: int = 1, processes: int = 1) -> None:
    """Raise OSError unless the disk of a run's folder has room for the checkpoints that are kept, and for the next beside them
    until it is whole.
    """
    files = [path.stat() for path in folder.glob("checkpoint*.safetensors")]
    there = {file.st_ino: file.st_size for file in files}  # one that has two names takes its room once
    size = checkpoint_bytes(ledger, processes)
    needed = (kept + 1) * size - sum(there.values())
    disk = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    if (free := shutil.disk_usage(disk).free) < needed:
        raise OSError(
            f"the run needs {needed / GB:.3g} GB in {folder}, where a checkpoint of {size / GB:.3g} GB is "
            f"written beside {'the one before' if kept == 1 else f'{kept} before it'}, but that disk has {free / GB:.3g} GB left; make room, or name a folder on another"
        )


class Download(NamedTuple):
    """Something that is fetched unless it is in a cache already.

    Attributes:
        gigabytes: None where that is not known beforehand.
        cached: whether it is in the cache, whole; None where that is not looked at.
    """

    what: str
    source: str
    gigabytes: float | None
    licence: str
    cached: bool | None = None


def downloads(recipe: SdxlRecipe, model: TextToImage) -> Iterator[Download]:
    """What a recipe names that is not on this disk. Sizes of models are computed from their shapes."""

    def from_hub(what: str, source: str, *networks: nn.Module, half: bool) -> Iterator[Download]:
        if (hub := named(source)) is not None:
            numbers = sum(p.numel() for network in networks for p in network.parameters())
            licence = str(LICENCES.get(hub.name, f"see {hub.url}"))
            yield Download(what, source, numbers * (2 if half else 4) / GB, licence)

    parts = model.pipeline
    own = [parts.unet, parts.text_encoder, parts.text_encoder_2] + ([parts.vae] if recipe.vae is None else [])
    yield from from_hub("reference", recipe.reference, *own, half="16" in (recipe.variant or ""))
    yield from from_hub("generator", recipe.generator, parts.unet, half="16" in recipe.generator)
    if recipe.vae is not None:
        yield from from_hub("autoencoder", recipe.vae, parts.vae, half=False)
    for name, term in recipe.reward.root.items() if recipe.rewarded else ():
        if term.folder is None:
            reward = find_reward(name)
            yield Download(f"reward {name}", reward.source, reward.gigabytes, reward.licence)
    prompts: Named | None = None if recipe.prompts is None else dataset_named(recipe.prompts)
    if prompts is not None:
        yield Download("prompts", prompts.name, None, f"see {prompts.url}")


class Counted(NamedTuple):
    """What a recipe of the package takes, counted beforehand by tools/count_recipes.py; a test holds it to a fresh count.

    Attributes:
        processes: how many share the run; the ledger is of one of them.
        ledger: of a step, without what was live at the peak.
        gigabytes: of the downloads, by what they are.
    """

    processes: int
    ledger: Ledger
    gigabytes: Mapping[str, float]


COUNTED = RECIPES / "counted.json"


def counted() -> dict[str, Counted]:
    """By name of the recipe; a minute of CPU each is saved."""
    found = json.loads(COUNTED.read_text("utf-8"))
    return {
        name: Counted(one["processes"], Ledger(**one["ledger"], at_peak={}), one["gigabytes"])
        for name, one in found.items()
    }


def known_downloads(recipe: SdxlRecipe, gigabytes: Mapping[str, float]) -> list[Download]:
    """What a recipe of the package fetches, and whether it is in the cache; nobody is asked, and no model is made.

    Args:
        gigabytes: by what it is, of Counted.
    """
    reference, generator = named(recipe.reference), named(recipe.generator)
    found = []
    for what, source, hub in (
        ("reference", recipe.reference, reference),
        ("generator", recipe.generator, generator),
    ):
        if hub is not None:
            licence = str(LICENCES.get(hub.name, f"see {hub.url}"))
            variant = recipe.variant if what == "reference" else None
            found.append(Download(what, source, gigabytes[what], licence, is_cached(hub, variant)))
    for name in recipe.reward.root if recipe.rewarded else ():
        reward = find_reward(name)
        there = None if reward.file is None else reward.file.is_cached
        found.append(Download(f"reward {name}", reward.source, reward.gigabytes, reward.licence, there))
    return found


def is_cached(hub: Named, variant: str | None = None) -> bool:
    """Whether a file on the hub, or all networks of a pipeline, are in the hub's cache; nobody is asked."""
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(hub.name, hub.inside or "model_index.json")
    if not isinstance(file, str):
        return False
    try:
        for part, stems in NETWORKS.items() if not hub.inside else ():
            weight_files(Place(Path(file).parent / part), stems, variant)
    except (FileNotFoundError, ValueError):
        return False
    return True
