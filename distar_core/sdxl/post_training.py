"""Post-training a text-to-image model by recipe: who takes part, what the run depends on, and the loop in a folder.

The recipe comes from PictureRecipe, model, prompts and reward from the caller, the folder from `runs.run`.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..draws import draw
from ..optimizers import AdamWithoutMomentum
from ..rates import cosine_decay
from ..rewards.base import PictureReward, in_two_parts
from ..roles import Roles, Trainable, modules_of
from ..runs.processes import ALONE, Alone, Replicated
from ..runs.run import load_checkpoint, run
from ..runs.settings import RECIPE, write_yaml
from ..training import Conditions, Record, State
from .adapters import add_lora, tied_clone
from .compute import compute_in, recompute_blocks
from .decoded import Decoded
from .export import fingerprint
from .latents import checkpointed
from .loading import quiet
from .models import TextToImage
from .panels import Panels
from .processes import Sharded, Share, shard, spread_on_meta
from .prompts import Prompt, Prompts
from .recipe import PictureRecipe
from .replays import Replays

PROMPTS = "prompts.txt"
BETA_2 = 0.99


def make_state(
    recipe: PictureRecipe, model: TextToImage, reward: PictureReward | None = None, processes: Alone = ALONE
) -> State:
    """A fresh run from the model's generator; the assistant starts as the reference.

    Of several processes each holds adapters whole, and a part of full copies; the reference, which nobody moves, is whole.

    The networks compute in the model's type. What learns is at least float32, as are its optimizer's state and its averages;
    the weights of full copies are cast to the model's type layer by layer.

    Raises:
        ValueError: for cuda_graphs with full copies that several processes share.
        TypeError: for cuda_graphs with a reward that is not in two parts.
    """
    if recipe.cuda_graphs and recipe.roles == "full" and processes.count > 1:
        raise ValueError(
            "cuda_graphs is true, but full copies that several processes share are gathered layer by layer, which is not recorded; "
            "set cuda_graphs to false, or roles to lora"
        )
    if recipe.cuda_graphs and reward is not None:
        in_two_parts(reward)
    vae = model.pipeline.vae
    decoder = checkpointed(vae) if recipe.checkpoint_decoder else vae

    def thrifty(network: Any) -> Any:
        return recompute_blocks(network) if recipe.checkpoint_unets else network

    def network(base: Any, seed: int) -> Any:
        if recipe.roles == "lora":
            return thrifty(add_lora(tied_clone(base), rank=recipe.rank, seed=seed, targets=recipe.targets))
        wide = torch.promote_types(base.dtype, torch.float32)
        with quiet():  # else diffusers names the layers that it would keep in float32: none
            own = thrifty(copy.deepcopy(base).to(model.device, wide).requires_grad_(True))
        if processes.count > 1:
            counted = isinstance(processes, Share)
            return spread_on_meta(own, base.dtype, processes.count) if counted else shard(own, base.dtype)
        return own if base.dtype == wide else compute_in(own, base.dtype)

    def learner(module: nn.Module, rate: float, ema_decay: float = 0.0) -> Trainable:
        trainable = [p for p in module.parameters() if p.requires_grad]
        if recipe.optimizer == "rmsprop":
            optimizer: torch.optim.Optimizer = AdamWithoutMomentum(trainable, lr=rate, beta2=BETA_2)
        else:  # one tensor at a time: all at once would need copies as large as all weights together
            optimizer = torch.optim.Adam(trainable, lr=rate, betas=(0.0, BETA_2), foreach=False)
        settings: dict[str, Any] = {"lr": cosine_decay(rate, recipe.steps), "ema_decay": ema_decay}
        if recipe.roles == "full" and processes.count > 1:
            return Sharded(module, optimizer, **settings)
        return Replicated(module, optimizer, processes=processes, **settings)

    generator = model.generator(network(model.unet, recipe.seed))
    assistant = model.score(network(model.pipeline.unet, recipe.seed + 1))
    roles = Roles(
        learner(generator, recipe.lr, recipe.ema_decay),
        model.score(thrifty(tied_clone(model.pipeline.unet))),
        learner(assistant, recipe.assistant_lr),
        None if reward is None else Decoded(decoder, reward),
    )
    state = State(roles, model.schedule, place=lambda tensor: tensor.to(model.device))
    if recipe.cuda_graphs and model.device.type == "cuda":
        state.perform = Replays()
    return state


def conditions_of(recipe: PictureRecipe, model: TextToImage, prompts: Sequence[str]) -> Conditions:
    """Embedded prompts by position, for the recipe's batch."""
    embedded = Prompts(model.encoder, prompts, recipe.prompt_cache)
    latest: dict[tuple[int, int | None, int | None], Prompt] = {}

    def conditions(step: int, rows: slice) -> Prompt:
        """Both half steps of a step ask for the same prompts: those of the latest step are kept."""
        asked = (step, rows.start, rows.stop)
        if asked not in latest:
            if any(known != step for known, *_ in latest):
                latest.clear()
            u = draw(recipe.seed, step, "prompt", (recipe.batch,), rows, uniform=True)
            latest[asked] = embedded.rows((u * len(prompts)).long())
        return latest[asked]

    return conditions


def diffusion_facts(model: TextToImage) -> dict[str, Any]:
    """What a model's files say beside its weights about how it is asked: noise levels, prediction, null condition, sizes."""
    times = torch.arange(int(model.schedule.low), int(model.schedule.high) + 1)
    alphas = " ".join(f"{alpha:.6g}" for alpha in model.schedule.alpha(times).tolist())
    vae = model.pipeline.vae.config
    return {
        "alphas": hashlib.blake2b(alphas.encode(), digest_size=8).hexdigest(),
        "prediction": model.prediction,
        "null": "zeros" if model.pipeline.config.force_zeros_for_empty_prompt else "the empty prompt",
        "pixels": model.pixels,
        "latents": {name: vae.get(name) for name in ("scaling_factor", "latents_mean", "latents_std")},
    }


def identity_of(recipe: PictureRecipe, model: TextToImage, state: State, prompts: Sequence[str]) -> dict[str, Any]:
    """What a run depends on besides method and loop, for the configuration that a resumed run compares: the recipe, how the
    model is asked, the types that its networks compute in, and fingerprints of the prompts and of all weights that are not
    trained, as their files have them.
    """
    reward: Any = getattr(state.roles.reward, "reward", None)
    judge = reward if isinstance(reward, nn.Module) else nn.ModuleList(modules_of(reward))
    parts = ("unet", "vae", "text_encoder", "text_encoder_2")
    weights = {name: getattr(model.pipeline, name) for name in parts} | {"start": model.unet, "judge": judge}
    with ThreadPoolExecutor() as pool:  # SDXL's weights are 28 GB in single precision, and a hash takes one core
        found = dict(zip(weights, pool.map(exact_fingerprint, weights.values()), strict=True))
    return {
        "recipe": recipe.bound,
        "prompts": hashlib.blake2b("\n".join(prompts).encode(), digest_size=8).hexdigest(),
        "diffusion": diffusion_facts(model),
        "types": {name: str(getattr(model.pipeline, name).dtype).removeprefix("torch.") for name in parts},
        **found,
    }


def exact_fingerprint(network: nn.Module) -> str:
    """Which weights a network has, to the last digit of its files."""
    return fingerprint(network, torch.float32)


def gap_floor(model: TextToImage) -> float | None:
    """The norm of a gap that is only rounding: the spacing of the networks' type times ‖eps‖ = √n, for types narrower than
    float32; about 1 % of ‖eps‖ in bfloat16, a tenth of that in float16.

    Measured on the miniature against float64, one network's eps is wrong by 0.5 to 1.4 % in bfloat16, and by 0.05 to 0.16 %
    in float16, from the highest noise level to the lowest.
    """
    dtype = model.pipeline.unet.dtype
    if torch.promote_types(dtype, torch.float32) == dtype:
        return None
    return torch.finfo(dtype).eps * math.prod(model.latent_shape) ** 0.5


def peak_memory(device: torch.device) -> Callable[[], float] | None:
    """Tells the most memory that was allocated on a GPU so far, in GiB; None on the CPU, where nobody counts it."""
    return (lambda: torch.cuda.max_memory_allocated(device) / 2**30) if device.type == "cuda" else None


def run_recipe(
    recipe: PictureRecipe,
    model: TextToImage,
    state: State,
    prompts: Sequence[str],
    folder: Path,
    *,
    resume: bool = False,
    save_every: int = 50,
    micro_batch: int | None = None,
    processes: Alone = ALONE,
    **kept: Any,
) -> Iterator[Record]:
    """`runs.run` of a fresh state in a folder, which also gets recipe.yaml with every key written out, the prompts if the
    recipe has them from a file, and panels if it asks for them.

    Args:
        processes: those that share the run; the same as in make_state.
        kept: further arguments of `runs.run`: keep, best and also_log.

    A run from before a key of the recipe was known is taken to be one at its default; one from before the facts of the
    diffusion were kept, to be of this model; one from before the networks' types were, to have computed in float32.
    """
    identity = identity_of(recipe, model, state, prompts)
    if recipe.prompt_cache is not None:  # else all processes would write it at once
        processes.by_first(lambda: conditions_of(recipe, model, prompts))
    written, texts = recipe.written, {}
    if isinstance(recipe.prompts, str):
        written["prompts"] = PROMPTS
        texts[PROMPTS] = "\n".join(prompts) + "\n"
    texts[RECIPE] = write_yaml(written)
    optional = {name: field.default for name, field in type(recipe).model_fields.items() if not field.is_required()}
    peak_gib = peak_memory(model.device)
    with ExitStack() as open_panels:
        if recipe.panels_every:
            also_log = kept.get("also_log", ())
            onlooker = Panels(
                recipe,
                model,
                state,
                prompts,
                folder,
                peak_gib=peak_gib,
                processes=processes,
                tensorboard="tensorboard" in also_log,
            )
            kept["onlooker"] = open_panels.enter_context(onlooker)
        yield from run(
            state,
            recipe.method,
            conditions_of(recipe, model, prompts),
            folder,
            resume=resume,
            save_every=save_every,
            settings=identity,
            defaults={
                "recipe": {name: optional[name] for name in identity["recipe"] if name in optional},
                "diffusion": identity["diffusion"],
                "types": dict.fromkeys(identity["types"], "float32"),
            },
            texts=texts,
            gap_floor=gap_floor(model),
            peak_gib=peak_gib,
            micro_batch=micro_batch,
            processes=processes,
            **kept,
            **recipe.loop,
        )


def load_run(recipe: PictureRecipe, model: TextToImage, reward: PictureReward | None, folder: Path) -> State:
    """The run of a recipe in a folder as its last checkpoint left it.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: if the checkpoint is damaged, has other networks than the recipe, or started from other weights.
    """
    state = make_state(recipe, model, reward)
    there, here = load_checkpoint(state, folder, None)["start"], exact_fingerprint(model.unet)
    if there != here:
        raise ValueError(f"the run in {folder} started from weights {there}, but these are {here}; load its own model")
    return state
