"""Output folders: ownership markers, an inter-process lock, and files that are there whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from filelock import FileLock, Timeout

MARK = ".distar_core"


def claim(folder: Path, kind: str) -> None:
    """Make a folder ours before anything is written to it; a small file in it says what it holds from then on.

    Args:
        kind: one word, such as "run" or "export".

    Raises:
        FileExistsError: if it holds files of others, or something of ours of another kind.
        PermissionError: if it cannot be written.
    """
    mark = folder / MARK
    if folder.is_dir() and any(folder.iterdir()):
        if not mark.is_file():
            raise FileExistsError(f"folder {folder} holds other files; choose a new or empty one")
        if (held := mark.read_text("utf-8").strip()) != kind:
            raise FileExistsError(
                f"folder {folder} belongs to {'an' if held[0] in 'aeiou' else 'a'} {held}; choose another one for the {kind}"
            )
    require_writable(folder)
    if not mark.is_file():  # else a process that reads it meanwhile would find it empty
        mark.write_text(f"{kind}\n", encoding="utf-8")


@contextmanager
def at_work(folder: Path, what: str = "") -> Iterator[None]:
    """Hold a folder, or what is named in it, so that no other process works there meanwhile.

    Raises:
        FileExistsError: if one does.
        PermissionError: if the folder cannot be written.
    """
    require_writable(folder)
    file = folder / (f"{MARK}-{what}.lock" if what else f"{MARK}.lock")
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except PermissionError:
        raise PermissionError(
            f"{file} belongs to somebody else and may not be written; change its permissions, or choose another folder"
        ) from None
    except Timeout:
        raise FileExistsError(
            f"another process is at work in {folder / what}; wait for it, or choose another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    """If what happens in here fails before anything is written to a new folder but our own marks, the folder goes again."""
    new = not folder.exists()
    try:
        yield
    except BaseException:
        left = list(folder.iterdir()) if new and folder.is_dir() else []
        if left and all(path.name.startswith(MARK) for path in left):
            for path in left:
                path.unlink()
            folder.rmdir()
        raise


@contextmanager
def replacing(path: Path, part: Path | None = None) -> Iterator[Path]:
    """Where the new contents of a file go: when the block ends they take its place in one step, so that whoever reads it, and
    whatever kill comes, finds the old file or the new one. After an exception the old one stays, and nothing beside it.

    Args:
        part: by default the file's name with .partial; processes that may write the same file at once take one each.
    """
    part = part or path.with_name(f"{path.name}.partial")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def require_writable(folder: Path) -> None:
    """Create the folder if need be. Raises PermissionError if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PermissionError(f"folder {folder} cannot be written ({error.strerror}); choose another folder") from None
