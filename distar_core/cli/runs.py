"""What the commands that train share: their recipe, new or resumed, and the command that resumes."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .terminal import Shown, hint, program, say

if TYPE_CHECKING:
    from ..rewards.base import PictureReward
    from ..runs.processes import Alone
    from ..runs.settings import Recipe
    from ..sdxl.models import TextToImage
    from ..sdxl.recipe import PictureRecipe
    from ..training import State

    Kind = TypeVar("Kind", bound=Recipe)


def chosen_recipe(kind: type[Kind], folder: Path, source: Path | None, resume: bool, /, **options: Any) -> Kind:
    """The recipe of a new run: a file's, where options that are not None win. Or that of the run in the folder, with those of
    the options to which a run is not bound.

    Raises:
        FileExistsError: if a new run is to begin where there is one.
        FileNotFoundError: if there is no such file, or no run to resume.
        RecipeError: as Recipe.read; and if a run is to be resumed with other settings than its own.
    """
    from ..runs.run import holds_run
    from ..runs.settings import RECIPE, RecipeError

    asked = {key: value for key, value in options.items() if value is not None}
    if not resume:
        if holds_run(folder):
            raise FileExistsError(f"folder {folder} already holds a run; add --resume, or choose another folder")
        return kind.read(source or {}, **asked)
    if source is not None:
        raise ValueError(f"--resume goes by {folder / RECIPE}; leave out --recipe {source}, or start in another folder")
    with hint(RecipeError, lambda: "(a run is resumed by the command that started it)"):
        recipe = kind.of_run(folder)
    free = {key: asked.pop(key) for key in asked.keys() & kind.UNBOUND}
    recipe.refuse_other(folder, **asked)
    return recipe.replace(**free) if free else recipe


@contextmanager
def run_hints(remedy: str, resume: Callable[[], str]) -> Iterator[None]:
    """A run that is stopped in here leaves with the command that resumes it, one that diverges with what to lower.

    Args:
        remedy: what to choose lower, since a resumed run keeps its recipe.
        resume: the command, when it is needed.
    """
    from ..errors import CardFullError, NonFiniteError
    from ..runs.signals import Interrupted

    with (
        hint(Interrupted, lambda: f"with: {resume()}"),
        hint(CardFullError, lambda: f"(what is saved, if anything, is resumed by: {resume()}, and that setting)"),
        hint(NonFiniteError, lambda: f"(--resume keeps the recipe: {remedy})"),
    ):
        yield


def train_on_pictures(
    recipe: PictureRecipe,
    model: TextToImage,
    reward: PictureReward | None,
    prompts: Sequence[str],
    folder: Path,
    *,
    processes: Alone | None = None,
    **options: Any,
) -> State:
    """Post-train a text-to-image model in a folder and show how far it is. Returns the finished run; raises as run_recipe.

    Args:
        processes: those that share the run; this one alone by default.
        options: further arguments of run_recipe.

    Raises:
        CardFullError: if a GPU has no memory left.
    """
    import torch

    from ..errors import CardFullError
    from ..runs.processes import ALONE
    from ..runs.progress import Progress
    from ..sdxl.post_training import make_state, run_recipe

    processes = processes or ALONE
    state = make_state(recipe, model, reward, processes)
    say(summary(recipe))
    try:
        with Shown() as shown:
            for record in run_recipe(recipe, model, state, prompts, folder, processes=processes, **options):
                note = "" if record.reward is None else f"reward {float(record.reward.mean()):.3g}"
                done = record.step + 1 + recipe.warmup
                shown(Progress("post-train", done, recipe.warmup + recipe.steps, note))
    except torch.OutOfMemoryError as error:
        asked = str(error).partition(". GPU")[0].removeprefix("CUDA out of memory. ")
        raise CardFullError(
            f"the GPU has no memory left ({asked}); resume with {'--set cuda_graphs=false' if recipe.cuda_graphs else '--set micro_batch=1'}, "
            "with PYTORCH_ALLOC_CONF=expandable_segments:True in the environment, or begin anew with fewer pixels"
        ) from error
    if shown.latest is None:
        say(f"the run in {folder} is finished: all {recipe.steps} steps are done; a longer one is a new run elsewhere")
    return state


def summary(recipe: PictureRecipe) -> str:
    """What a recipe does, in a line."""
    method = recipe.method
    reward = (
        f"reward_scale {method.reward_scale:g} on the {recipe.reward_label} reward"
        if method.reward_scale
        else "no reward"
    )
    return (
        f"{method.name}, {reward}, cfg_scale {method.cfg_scale:g}, {recipe.roles} roles, {recipe.steps} steps after "
        f"{recipe.warmup} of warm-up for the assistant"
    )


def resume_command(command: str, folder: Path, **options: int | Sequence[str]) -> str:
    """The shell command that resumes the run of `distar train COMMAND` in a folder; its settings are in the folder.

    Args:
        options: with their values; one that may stand several times with a list of them.
    """
    words = []
    for name, value in options.items():
        for each in value if isinstance(value, Sequence) else [value]:
            words += [f"--{name.replace('_', '-')}", str(each)]
    return shlex.join([program(), "train", command, str(folder), *words, "--resume"])
