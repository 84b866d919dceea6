"""Post-training the world's one-step generator with any method of the family: recipes, roles and runs."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import torch
from torch import Tensor, nn

from ..draws import draw
from ..figures.picture import Picture, image_grid
from ..losses import PseudoHuber
from ..methods import Method, find_method
from ..rates import cosine_decay
from ..roles import Roles, Trainable
from ..runs.run import load_checkpoint, run
from ..runs.settings import LARGEST, NUMBERS_IN_YAML, read_method, read_yaml, write_yaml
from ..sdxl.adapters import add_lora, tied_clone
from ..sdxl.decoded import Decoded
from ..sdxl.export import fingerprint
from ..sdxl.models import TextToImage
from ..sdxl.prompts import Prompt, read_prompts
from ..training import Conditions, Record, State
from .build import MIDDLE_TIMES
from .judges import Judges
from .scenes import both_groups, training_scenes

RECIPE = "recipe.yaml"
PROMPTS = "prompts.txt"
METHOD_KEYS = ("method", "reward_scale", "cfg_scale", "guidance_scale", "huber_c")
HUBER_C = 1.6  # 0.1 √n for the n = 256 values of a latent
REWARD_SCALES = {
    "reward-only": 1.0,
    "diff-instruct++": 3.0,
    "diff-instruct*": 0.3,
    "diff-instruct*-out": 1.0,
    "didr-proxy": 0.1,
}
"""Our defaults for the preference reward, from pilots of 150 steps with one seed."""


@dataclass(frozen=True)
class Recipe:
    """Everything that a post-training run depends on, besides the weights it starts from.

    Attributes:
        method: a row of the table with the world's noise levels.
        reward: which judge is climbed.
        roles: "full" copies of the networks, or "lora": adapters on tied clones.
        rank: of the adapters.
        prompts: number of training captions, drawn from the world; or a file with one prompt a line.
        steps, batch, warmup, assistant_updates, seed: as in post_train; the assistant starts as the reference.
        lr, assistant_lr: the generator's and the assistant's rate of Adam, which fall to 0 as a cosine.
        ema_decay: of the generator's averaged weights, which are what is evaluated and exported.
    """

    method: Method
    reward: Literal["preference", "clip"] = "preference"
    roles: Literal["full", "lora"] = "full"
    rank: int = 8
    prompts: int | str = 2048
    steps: int = 300
    batch: int = 32
    warmup: int = 50
    assistant_updates: int = 1
    seed: int = 0
    lr: float = 1e-4
    assistant_lr: float = 5e-4
    ema_decay: float = 0.95

    def __post_init__(self) -> None:
        kinds = get_type_hints(Recipe)
        for field in fields(self):
            value, kind = getattr(self, field.name), kinds[field.name]
            if kind is Method:
                continue
            if choices := [one for one in get_args(kind) if isinstance(one, str)]:
                if value not in choices:
                    raise ValueError(f"recipe key {field.name!r} is {value!r}; use one of {', '.join(choices)}")
                continue
            allowed = (int, float) if kind is float else get_args(kind) or (kind,)
            if isinstance(value, bool) or not isinstance(value, allowed):
                names = " or ".join(one.__name__ for one in allowed)
                remedy = NUMBERS_IN_YAML if isinstance(value, str) else "correct the recipe"
                raise ValueError(f"recipe key {field.name!r} must be of type {names}, got {value!r}; {remedy}")
            if kind is float and (not value < LARGEST or (field.name == "ema_decay" and value >= 1)):
                raise ValueError(f"recipe key {field.name!r} is {value}; choose a finite number, below 1 for ema_decay")
            if kind is not float and isinstance(value, int) and value >= 2**63:
                raise ValueError(f"recipe key {field.name!r} is {value}; choose one below 2**63")
            least = 0 if field.name in ("warmup", "seed", "ema_decay") else 1
            if isinstance(value, (int, float)) and not (value > 0 if kind is float and least else value >= least):
                bound = "positive" if kind is float and least else f"at least {least}"
                raise ValueError(f"recipe key {field.name!r} must be {bound}, got {value!r}; correct the recipe")

    @property
    def loop(self) -> dict[str, Any]:
        """The keyword arguments of post_train."""
        names = ("steps", "batch", "warmup", "assistant_updates", "seed")
        return {name: getattr(self, name) for name in names}


def read_recipe(written: Mapping[str, Any]) -> Recipe:
    """A Recipe from what people write: "method" names a row of the table, the other keys are METHOD_KEYS and the fields
    of Recipe. Without huber_c a pseudo-Huber row gets 0.1 √n, without cfg_scale a guided row the scale 1 that the
    shipped generator was distilled with, without reward_scale a rewarded row its own of REWARD_SCALES.

    Raises:
        ValueError: for an unknown key, a value of another type or out of range, or one that does not fit the method.
    """
    own = {field.name for field in fields(Recipe)} - {"method"}
    written = dict(written)
    for key, value in written.items():
        if key not in own and key not in METHOD_KEYS:
            known = ", ".join([*METHOD_KEYS, *sorted(own)])
            raise ValueError(f"recipe key {key!r} (value {value!r}) is unknown; known are {known}")
    row = find_method(str(written.get("method", "di-star")))
    if row.reward_at == "every_level":
        raise ValueError(f"method {row.name!r} needs a closed-form tilt, which a network has not; use didr-proxy")
    for key, off, has, what in (
        ("reward_scale", 0, row.reward_at != "nowhere", "reward"),
        ("cfg_scale", 0, row.guidance != "none", "guidance"),
        ("guidance_scale", 1, row.guidance != "none", "guidance"),
    ):
        if written.get(key, off) != off and not has:
            raise ValueError(f"method {row.name!r} has no {what}, but {key} is {written[key]!r}; leave it out")
    if isinstance(written.get("prompts"), str):
        written["prompts"] = str(Path(written["prompts"]).resolve())
    of_method: dict[str, Any] = {"method": row.name}
    if isinstance(row.distance, PseudoHuber):
        of_method["huber_c"] = HUBER_C
    if row.reward_at != "nowhere":
        if written.get("reward") == "clip" and "reward_scale" not in written:
            raise ValueError(
                "reward 'clip' has no default reward_scale; give one (at 4 its pull is about as long as that of the "
                "preference reward at 0.3)"
            )
        of_method["reward_scale"] = REWARD_SCALES[row.name]
    if row.guidance != "none" and "guidance_scale" not in written:
        of_method["cfg_scale"] = 1.0
    given = {key: written[key] for key in METHOD_KEYS if key in written and key != "method"}
    method = replace(read_method(of_method | given), time_law=MIDDLE_TIMES, assistant_time_law=MIDDLE_TIMES)
    return Recipe(method, **{key: value for key, value in written.items() if key in own})


def load_recipe(path: Path) -> dict[str, Any]:
    """What a YAML file says, a mapping of keys to values; a prompt file is looked for from the recipe's own folder.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: as read_yaml.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no recipe {path}; name a YAML file with lines such as method: di-star")
    written = read_yaml(path)
    if isinstance(written.get("prompts"), str):
        written["prompts"] = str(path.parent / written["prompts"])
    return written


def resolved(recipe: Recipe) -> dict[str, Any]:
    """A recipe with every key written out; read_recipe gives the same one back."""
    method = recipe.method
    written: dict[str, Any] = {"method": method.name}
    if method.reward_at != "nowhere":
        written["reward_scale"] = method.reward_scale
    if method.guidance != "none":
        written["cfg_scale"] = method.cfg_scale
    if isinstance(method.distance, PseudoHuber):
        written["huber_c"] = method.distance.c
    return written | {field.name: getattr(recipe, field.name) for field in fields(recipe) if field.name != "method"}


def settings_of(world: TextToImage, state: State, recipe: Recipe) -> dict[str, Any]:
    """What a run depends on besides method and loop, for the configuration that a resumed run compares: the recipe, and
    fingerprints of all weights that it does not train and of the prompts.
    """
    reward: Any = state.roles.reward
    parts = ("unet", "vae", "text_encoder", "text_encoder_2")
    weights = {name: getattr(world.pipeline, name) for name in parts} | {"start": world.unet, "judge": reward.reward}
    said = "\n".join(training_prompts(recipe)).encode()
    return {
        "recipe": {key: value for key, value in resolved(recipe).items() if key not in (*METHOD_KEYS, "prompts")},
        "prompts": hashlib.blake2b(said, digest_size=8).hexdigest(),
        **{name: fingerprint(module, torch.float32) for name, module in weights.items()},
    }


def world_state(world: TextToImage, judges: Judges, recipe: Recipe) -> State:
    """A fresh run from the world's generator; the assistant starts as the reference."""

    def network(base: Any, seed: int) -> Any:
        if recipe.roles == "lora":
            return add_lora(tied_clone(base), rank=recipe.rank, seed=seed)
        return copy.deepcopy(base).requires_grad_(True)

    def learner(module: nn.Module, rate: float, ema_decay: float = 0.0) -> Trainable:
        trainable = [p for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trainable, lr=rate, betas=(0.0, 0.99))
        return Trainable(module, optimizer, lr=cosine_decay(rate, recipe.steps), ema_decay=ema_decay)

    generator = world.generator(network(world.unet, recipe.seed))
    assistant = world.score(network(world.pipeline.unet, recipe.seed + 1))
    roles = Roles(
        learner(generator, recipe.lr, recipe.ema_decay),
        world.reference(),
        learner(assistant, recipe.assistant_lr),
        Decoded(world.pipeline.vae, getattr(judges, recipe.reward)),
    )
    return State(roles, world.schedule)


def training_prompts(recipe: Recipe) -> list[str]:
    """The prompts of a recipe: its file's, or training captions of the world, none of them held out."""
    if isinstance(recipe.prompts, str):
        return read_prompts(Path(recipe.prompts))
    return training_scenes(recipe.prompts, torch.Generator().manual_seed(recipe.seed + 3))[1]


def training_conditions(world: TextToImage, recipe: Recipe) -> Conditions:
    """Embedded training prompts by position, for the recipe's batch."""
    said = training_prompts(recipe)
    prompts = world.encoder(said)

    def conditions(step: int, rows: slice) -> Prompt:
        u = draw(recipe.seed, step, "prompt", (recipe.batch,), rows, uniform=True)
        return prompts.rows((u * len(said)).long())

    return conditions


def post_train_world(
    world: TextToImage, state: State, recipe: Recipe, folder: Path, *, resume: bool = False, save_every: int = 50
) -> Iterator[Record]:
    """`runs.run` of a fresh world_state in a folder, which also gets recipe.yaml with every key written out, and a copy of
    the prompt file if there is one.
    """
    conditions, settings = training_conditions(world, recipe), settings_of(world, state, recipe)
    written, texts = resolved(recipe), {}
    if isinstance(recipe.prompts, str):
        written["prompts"] = PROMPTS
        texts[PROMPTS] = "\n".join(training_prompts(recipe)) + "\n"
    texts[RECIPE] = write_yaml(written)
    yield from run(
        state,
        recipe.method,
        conditions,
        folder,
        resume=resume,
        save_every=save_every,
        settings=settings,
        defaults={
            "recipe": {field.name: field.default for field in fields(Recipe) if field.name not in ("method", "prompts")}
        },
        texts=texts,
        **recipe.loop,
    )


def load_run(world: TextToImage, judges: Judges, folder: Path) -> tuple[Recipe, State]:
    """The run in a folder as its last checkpoint left it.

    Raises:
        FileNotFoundError: if there is no recipe or checkpoint.
        ValueError: if the checkpoint is damaged, has other networks than the recipe, or started from other weights.
    """
    if not (folder / RECIPE).is_file():
        raise FileNotFoundError(
            f"there is no run of the world in {folder}; name the folder of a run of distar train world"
        )
    recipe = read_recipe(load_recipe(folder / RECIPE))
    state = world_state(world, judges, recipe)
    there, here = load_checkpoint(state, folder, None)["start"], fingerprint(world.unet, torch.float32)
    if there != here:
        raise ValueError(f"the run in {folder} started from weights {there}, but these are {here}; load its own world")
    return recipe, state


def before_and_after(
    world: TextToImage, judges: Judges, generator: Callable[[Tensor, Prompt], Tensor], rows: int = 3
) -> Picture:
    """Held-out captions drawn by the world's generator and by another from the same noise, six pairs a row, one above the
    other, with their gold preference.
    """
    columns = 6
    draws = both_groups(rows * columns // 2)
    sides = [world.draw(draws.captions, draws.seeds, drawn) for drawn in (None, generator)]
    gold = [judges.gold(images=side, prompts=draws.captions).tolist() for side in sides]
    images, titles = [], []
    for start in range(0, rows * columns, columns):
        for name, side, liked in zip(("before", "after"), sides, gold, strict=True):
            for place in range(start, start + columns):
                images.append(side[place])
                said = draws.captions[place] if name == "before" else "the same"
                titles.append(f"{said} ({name}, gold {liked[place]:.2f})")
    alt = f"{rows * columns} held-out captions drawn from the same noise before and after post-training, one above the other."
    return image_grid(torch.stack(images), titles, columns=columns, alt=alt)
