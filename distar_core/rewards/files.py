"""Files of published weights: fetched at one revision, and held to their size and SHA-256."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from ..runs.folders import replacing
from ..runs.weights import in_one_line, read_json, refuse_pointer

CACHE = "DISTAR_CACHE"
"""The environment's name for the folder of `cache`."""


def cache() -> Path:
    """Where files from outside the hub, and the record of what was loaded, are: DISTAR_CACHE, or ~/.cache/distar_core."""
    return Path(os.environ.get(CACHE) or "~/.cache/distar_core").expanduser()


def record() -> Path:
    """The SHA-256 of every file of weights, as it was when this machine first loaded it."""
    return cache() / "sha256.json"


class File(NamedTuple):
    """A published file.

    Attributes:
        name: of the file.
        source: a repository of the Hugging Face hub, or the address of one on GitHub.
        revision: of the repository.
        size: in bytes, where it is known.
        sha256: where it was computed from the file itself.
    """

    name: str
    source: str
    revision: str
    size: int | None = None
    sha256: str | None = None

    @property
    def identity(self) -> str:
        """Source, name and revision; what the record knows the file by."""
        return f"{self.source}/{self.name}@{self.revision}"

    @property
    def is_cached(self) -> bool:
        """Whether it is in the cache already, without asking anybody."""
        if self.source.startswith("https:"):
            return (cache() / self.name).is_file()
        from huggingface_hub import try_to_load_from_cache

        return isinstance(try_to_load_from_cache(self.source, self.name, revision=self.revision), str)

    def find(self, folder: Path | None) -> Path:
        """The path of the file, checked as by `verify`: in the folder if there is one, else in a cache, to which it is fetched.

        Raises:
            FileNotFoundError: if the folder has no such file.
            OSError: if it cannot be fetched.
            ValueError: as `verify`.
        """
        if folder is not None:
            path = folder / self.name
            if not path.is_file():
                raise FileNotFoundError(f"{folder} has no {self.name}; copy it there from {self.source}")
        elif self.source.startswith("https:"):
            path = self._download()
        else:
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(self.source, self.name, revision=self.revision))
        verify(path, self.identity, size=self.size, sha256=self.sha256)
        return path

    def _download(self) -> Path:
        from torch.hub import download_url_to_file

        path = cache() / self.name
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            address = f"{self.source}/raw/{self.revision}/{quote(self.name)}"
            download_url_to_file(address, str(path), self.sha256, progress=False)
        return path


def verify(path: Path, identity: str, *, size: int | None = None, sha256: str | None = None) -> str:
    """The SHA-256 of a file, which is held to its published size and SHA-256 as far as they are known.

    Where the SHA-256 is not, it is recorded at the first call and compared at the later ones.

    Args:
        identity: what the file is published as; the record's key.

    Raises:
        ValueError: if the file is a Git LFS pointer, or another one than it was published or recorded as.
    """
    refuse_pointer(path)
    if size is not None and (found := path.stat().st_size) != size:
        raise ValueError(f"{path} has {found} bytes, but {identity} has {size}; copy it again, whole")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 is not None:
        if digest != sha256:
            raise ValueError(f"{path} has SHA-256 {digest}, but {identity} has {sha256}; copy it again, whole")
        return digest
    first = _first(identity, digest)
    if digest != first:
        raise ValueError(
            f"{path} has SHA-256 {digest}, but {identity} had {first} when it was first loaded here; copy that file again, or "
            f"remove its line from {record()} if this one is right"
        )
    return digest


def _first(identity: str, digest: str) -> str:
    """The recorded SHA-256; records this one if there is none."""
    from filelock import FileLock

    path = record()
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        known = read_json(path) if path.is_file() else {}
        if identity not in known:
            known[identity] = digest
            with replacing(path) as written:
                written.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", "utf-8")
    return known[identity]


@contextmanager
def fetching(what: str, licence: str, gigabytes: float | None, folder: Path | None = None) -> Iterator[None]:
    """Turn what loaders raise without a network, or for a damaged copy in a folder, into one sentence.

    Raises:
        ValueError: if there is a folder, and the files in it cannot be used; or as raised inside.
        FileNotFoundError: if they are not here and cannot be fetched, or the folder lacks one.
    """
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (OSError, RuntimeError, TypeError, KeyError, StrictDataclassError) as error:
        why = in_one_line(error)
        if folder is not None and isinstance(error, FileNotFoundError):
            raise
        if folder is not None:
            raise ValueError(f"{folder} is damaged or of another model ({why}); copy it again, whole") from error
        size = "of unknown size" if gigabytes is None else f"{gigabytes:g} GB"
        raise FileNotFoundError(
            f"the weights of {what} are not here and could not be fetched ({why}): {size}, licence: {licence}; connect "
            "to the network once, or give the path of a copy"
        ) from error
