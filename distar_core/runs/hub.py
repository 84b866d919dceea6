"""Models and data sets that are named and not on the disk: from the Hugging Face hub's cache, or fetched into it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

from .weights import in_one_line

NAME = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(?:/(?P<inside>\w[\w./-]*))?")
Kind = Literal["model", "dataset"]


class Named(NamedTuple):
    """A repository of the hub, and what is meant inside it.

    Attributes:
        name: owner/name.
        inside: a folder or a file in it; empty for all of it.
    """

    name: str
    inside: str = ""
    kind: Kind = "model"

    @property
    def url(self) -> str:
        """The page that people read."""
        return f"https://huggingface.co/{'datasets/' if self.kind == 'dataset' else ''}{self.name}"


def named(source: Path | str, kind: Kind = "model") -> Named | None:
    """What a text names on the hub: owner/name, or owner/name/folder or file; None for everything on the disk and for what
    can be no such name. What is on the disk comes first.
    """
    found = NAME.fullmatch(str(source))
    if found is None or Path(source).exists():
        return None
    return Named(found["name"], (found["inside"] or "").rstrip("/"), kind)


@contextmanager
def _asking(what: Named) -> Iterator[None]:
    """Turn what huggingface_hub raises into one FileNotFoundError with the name and what to do."""
    from huggingface_hub import errors
    from huggingface_hub.constants import HF_HUB_CACHE

    name, kind = what.name, what.kind
    fetch = f"hf download {name}{' --repo-type dataset' if kind == 'dataset' else ''}"
    nothing = f"there is no {name} on this disk"
    try:
        yield
    except errors.GatedRepoError as error:
        raise FileNotFoundError(
            f"the hub's {kind} {name} is gated; accept its licence at {what.url}, and then: hf auth login"
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise FileNotFoundError(
            f"{nothing}, and no public {kind} of that name on the hub; correct it, or for a private one: hf auth login"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise FileNotFoundError(
            f"{nothing}, it is not whole in the hub's cache {HF_HUB_CACHE}, and the hub cannot be reached from here; name "
            f"another path, or where there is a network: {fetch}"
        ) from error
    except (errors.HTTPError, errors.EntryNotFoundError) as error:
        raise FileNotFoundError(
            f"{nothing}, and the hub does not give it ({in_one_line(error, 100)}); try again, or: {fetch}"
        ) from error


def fetched(what: Named, wanted: Sequence[str], *, revision: str | None = None) -> Path:
    """The folder in the hub's cache that has the files wanted, patterns like "*/config.json"; fetched where they are missing.

    Without a network it is the cache as it stands, and what it lacks is for the caller to miss.

    Args:
        revision: a commit; the newest by default. The folder has its name.

    Raises:
        FileNotFoundError: if nothing is cached and the hub cannot be reached, does not know the name or wants a licence
            accepted; one sentence with the name and what to do.
    """
    from huggingface_hub import snapshot_download

    with _asking(what):
        return Path(snapshot_download(what.name, repo_type=what.kind, revision=revision, allow_patterns=list(wanted)))


def sizes_in(what: Named, folder: Path) -> dict[str, int]:
    """Every file of a repository at the commit of a folder that was fetched, with its bytes; without a network those in the
    folder.
    """
    from huggingface_hub import HfApi, errors

    with suppress(errors.HTTPError, OSError):
        ask = HfApi().dataset_info if what.kind == "dataset" else HfApi().model_info
        found = ask(what.name, revision=folder.name, files_metadata=True).siblings or []
        return {file.rfilename: file.size or 0 for file in found}
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
