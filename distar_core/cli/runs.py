"""What the commands that train share: their recipe, new or resumed, and the command that resumes."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .terminal import hint, program

if TYPE_CHECKING:
    from ..runs.settings import Recipe

    Kind = TypeVar("Kind", bound=Recipe)


def chosen_recipe(kind: type[Kind], folder: Path, source: Path | None, *, resume: bool, **options: Any) -> Kind:
    """The recipe of a new run: a file's, where options that are not None win. Or that of the run in the folder.

    Raises:
        FileExistsError: if a new run is to begin where there is one.
        FileNotFoundError: if there is no such file, or no run to resume.
        RecipeError: as Recipe.read; and if a run is to be resumed with other settings than its own.
    """
    from ..runs.run import CHECKPOINT
    from ..runs.settings import RECIPE, RecipeError

    asked = {key: value for key, value in options.items() if value is not None}
    if not resume:
        if (folder / CHECKPOINT).exists():
            raise FileExistsError(f"folder {folder} already holds a run; add --resume, or choose another folder")
        return kind.read(source or {}, **asked)
    if source is not None:
        raise ValueError(f"--resume goes by {folder / RECIPE}; leave out --recipe {source}, or start in another folder")
    with hint(RecipeError, lambda: "(a run is resumed by the command that started it)"):
        recipe = kind.of_run(folder)
    recipe.refuse_other(folder, **asked)
    return recipe


@contextmanager
def run_hints(remedy: str, resume: Callable[[], str]) -> Iterator[None]:
    """A run that is stopped in here leaves with the command that resumes it, one that diverges with what to lower.

    Args:
        remedy: what to choose lower, since a resumed run keeps its recipe.
        resume: the command, when it is needed.
    """
    from ..errors import NonFiniteError
    from ..runs.signals import Interrupted

    with (
        hint(Interrupted, lambda: f"with: {resume()}"),
        hint(NonFiniteError, lambda: f"(--resume keeps the recipe: {remedy})"),
    ):
        yield


def resume_command(command: str, folder: Path, **options: int) -> str:
    """The shell command that resumes the run of `distar train COMMAND` in a folder; its settings are in the folder."""
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return shlex.join([program(), "train", command, str(folder), *words, "--resume"])
