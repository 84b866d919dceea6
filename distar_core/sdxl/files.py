"""Which files a model's weights lie in, on the disk or on the hub: chosen by variant and looked at before any is read."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..runs.hub import Named, fetched, named, sizes_in
from ..runs.weights import read_json, read_weights, refuse_pointer, refuse_quantized

DIFFUSERS_WEIGHTS, TRANSFORMERS_WEIGHTS = ("diffusion_pytorch_model",), ("model", "pytorch_model")
ENDINGS = ("safetensors", "bin")  # of weights, as diffusers and transformers prefer them
SINGLE_FILES = (".safetensors", ".bin", ".ckpt", ".pt", ".pth")
ORIGINAL = ("model.diffusion_model.", "first_stage_model.", "conditioner.")
"""How names begin in a checkpoint as Stability's own code writes it, all networks in one file."""


class Place(NamedTuple):
    """A folder, or the one in the hub's cache, whose large files are fetched when they are asked for.

    Attributes:
        folder: where it is on the disk.
        hub: what it is on the hub; None for a folder of one's own.
    """

    folder: Path
    hub: Named | None = None

    def __str__(self) -> str:
        return str(self.folder) if self.hub is None else "/".join(part for part in self.hub[:2] if part)

    @property
    def remedy(self) -> str:
        """What to do about a file that it lacks."""
        if self.hub is None:
            return "copy it again, whole"
        return f"choose another, or fetch it whole where there is a network: hf download {self.hub.name}"

    def inside(self, name: str) -> Place:
        """A folder in it."""
        hub = self.hub and self.hub._replace(inside=f"{self.hub.inside}/{name}".lstrip("/"))
        return Place(self.folder / name, hub)

    def names(self) -> list[str]:
        """The files that are directly in it, also those that are not fetched yet."""
        if self.hub is None:
            return sorted(path.name for path in self.folder.iterdir() if path.is_file())
        top, prefix = self._top(), f"{self.hub.inside}/" if self.hub.inside else ""
        found = [name.removeprefix(prefix) for name in sizes_in(self.hub, top) if name.startswith(prefix)]
        return sorted(name for name in found if "/" not in name)

    def fetch(self, names: Sequence[str]) -> None:
        """Bring files of a hub's folder to the disk, from the commit that the folder is of."""
        if self.hub is not None and names:
            top = self._top()
            fetched(
                self.hub, [str((self.folder / name).relative_to(top).as_posix()) for name in names], revision=top.name
            )

    def _top(self) -> Path:
        """The whole repository's folder in the cache, which has the commit's name."""
        assert self.hub is not None
        parts = [part for part in self.hub.inside.split("/") if part]
        return self.folder.parents[len(parts) - 1] if parts else self.folder


def place_of(source: Path | str, small: Sequence[str]) -> Place:
    """Where a source is: a path on the disk, or a name on the hub, of which these files, patterns, are fetched.

    Raises:
        FileNotFoundError: as `fetched`; if the repository has no such folder or file.
    """
    hub = named(source)
    if hub is None:
        return Place(Path(source))
    prefix = f"{hub.inside}/" if hub.inside else ""
    wanted = [hub.inside] if hub.inside.endswith(SINGLE_FILES) else [prefix + pattern for pattern in small]
    found = fetched(hub, wanted) / hub.inside
    if hub.inside and not found.exists():
        raise FileNotFoundError(
            f"{hub.name} has no {hub.inside} on the hub, or without a network in its cache; see {hub.url}"
        )
    return Place(found, hub)


def weight_files(place: Place, stems: Collection[str], variant: str | None = None) -> tuple[str | None, list[Path]]:
    """The variant and the files, one or all shards, that a network's weights are read from; fetched, and all there.

    Args:
        stems: how the names of files of weights begin.
        variant: such as "fp16"; by default the plain weights, or where there are none the variant that there is.

    Raises:
        FileNotFoundError: if there are no weights, none of the variant, or a shard is missing.
        ValueError: for an index of shards that is none, and for Git LFS pointers.
    """
    names = place.names()
    variant = _variant(place, names, stems, variant)
    middle, end = (f".{variant}" if variant else ""), (f".{variant}" if variant else "")
    chosen: list[str] = []
    for ending in ENDINGS:
        for stem in stems:
            single, index = f"{stem}{middle}.{ending}", f"{stem}.{ending}.index{end}.json"
            chosen += [single] if single in names else []
            if index in names:
                place.fetch([index])
                chosen += shards(place.folder / index)
        if chosen:
            break
    place.fetch(chosen)
    files = [place.folder / name for name in dict.fromkeys(chosen)]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{place} lacks {file.name}, one of {len(files)} files of weights; {place.remedy}")
        refuse_pointer(file)
    return variant, files


def shards(index: Path) -> list[str]:
    """The files that an index of shards names. Raises ValueError if it is no such index."""
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(name, str) for name in listed.values()):
        raise ValueError(f"{index} does not say under weight_map which file has which weights; copy it again, whole")
    return sorted(set(listed.values()))


def _variant(place: Place, names: Collection[str], stems: Collection[str], asked: str | None) -> str | None:
    pattern = (
        rf"(?:{'|'.join(stems)})\.(?:(?:(\w+)\.)?(?:safetensors|bin)|(?:safetensors|bin)\.index\.(?:(\w+)\.)?json)"
    )
    found = [match[1] or match[2] for name in names if (match := re.fullmatch(pattern, name))]
    if not found:
        raise FileNotFoundError(f"{place} has no weights such as {next(iter(stems))}.safetensors; {place.remedy}")
    if asked is not None and asked not in found:
        there = ", ".join(sorted({name or "plain ones" for name in found}))
        raise FileNotFoundError(f"{place} has no weights of the variant {asked!r}; there are {there}")
    if asked is not None or None in found:
        return asked
    return "fp16" if "fp16" in found else found[0]


def stored(files: Sequence[Path]) -> dict[str, Tensor]:
    """The weights in files, views of them, by name. Raises ValueError as read_weights, and for quantized ones."""
    weights: dict[str, Tensor] = {}
    for file in files:
        found = read_weights(file)
        refuse_quantized(file, found)
        weights |= found
    return weights


def is_original(weights: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a checkpoint with all networks in one file."""
    return any(name.startswith(ORIGINAL) for name in weights)
