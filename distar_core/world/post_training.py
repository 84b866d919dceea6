"""Post-training the world's one-step generator with any method of the family, and what it gains and loses, paired."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..losses import PseudoHuber
from ..methods import Method
from ..metrics import Interval, paired_interval
from ..picture_metrics import high_frequency_share, saturation
from ..rewards.base import Decoded, PictureReward
from ..roles import NetworkScore, Roles, Trainable
from ..schedule import TimeLaw
from ..sdxl.adapters import add_lora, tied_clone
from ..sdxl.prompts import Prompt
from ..toy import cosine_decay
from ..training import Conditions, State, draw
from .card import held_out_draws
from .judges import Judges
from .models import SCHEDULE, World
from .oracle import compare, read
from .scenes import training_scenes

TIMES = TimeLaw.levels(range(20, 980))


@dataclass(frozen=True)
class Settings:
    """What a post-training run needs besides its method.

    Attributes:
        reward: which judge is climbed.
        roles: "full" copies of the networks, or "lora": adapters on tied clones.
        rank: of the adapters.
        prompts: number of training captions.
        warmup, assistant_updates: as in post_train; the assistant starts as the reference.
    """

    reward: Literal["preference", "clip"] = "preference"
    roles: Literal["full", "lora"] = "full"
    rank: int = 8
    prompts: int = 2048
    steps: int = 300
    batch: int = 32
    warmup: int = 100
    assistant_updates: int = 1
    lr: float = 1e-4
    assistant_lr: float = 5e-4
    ema_decay: float = 0.95
    seed: int = 0

    @property
    def loop(self) -> dict[str, Any]:
        """The keyword arguments of post_train."""
        names = ("steps", "batch", "warmup", "assistant_updates", "seed")
        return {name: getattr(self, name) for name in names}


def for_world(method: Method) -> Method:
    """A method with the world's noise levels, and huber_c = 0.1 √n for its n = 256 latent values: our default."""
    distance = PseudoHuber(1.6) if isinstance(method.distance, PseudoHuber) else method.distance
    return replace(method, time_law=TIMES, assistant_time_law=TIMES, distance=distance)


def world_state(world: World, judges: Judges, settings: Settings) -> State:
    """A fresh run from the shipped generator; the assistant starts as the reference."""

    def network(base: Any, seed: int) -> Any:
        if settings.roles == "lora":
            return add_lora(tied_clone(base), rank=settings.rank, seed=seed)
        return copy.deepcopy(base).requires_grad_(True)

    def learner(module: nn.Module, rate: float, ema_decay: float = 0.0) -> Trainable:
        trainable = [p for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trainable, lr=rate, betas=(0.0, 0.99))
        return Trainable(module, optimizer, lr=cosine_decay(rate, settings.steps), ema_decay=ema_decay)

    generator = world.generator(network(world.unet, settings.seed))
    assistant = NetworkScore(world.prompted(network(world.pipeline.unet, settings.seed + 1)), SCHEDULE, "eps")
    roles = Roles(
        learner(generator, settings.lr, settings.ema_decay),
        world.reference(),
        learner(assistant, settings.assistant_lr),
        Decoded(world.pipeline.vae, getattr(judges, settings.reward)),
    )
    return State(roles, SCHEDULE)


def training_conditions(world: World, settings: Settings) -> Conditions:
    """Embedded training captions by position; nothing held out."""
    rng = torch.Generator().manual_seed(settings.seed + 3)
    prompts = world.encoder(training_scenes(settings.prompts, rng)[1])

    def conditions(step: int, rows: slice) -> Prompt:
        u = draw(settings.seed, step, "prompt", (settings.batch,), rows, uniform=True)
        return prompts.rows((u * settings.prompts).long())

    return conditions


class Measured(NamedTuple):
    """What was measured on a fixed list of draws, one value a draw, [N] each.

    Attributes:
        faithful: whether the picture has all that its caption states.
        gold, preference, clip: the judges.
        saturation, high_frequency: of the picture.
    """

    faithful: Tensor
    gold: Tensor
    preference: Tensor
    clip: Tensor
    saturation: Tensor
    high_frequency: Tensor


@torch.no_grad()
def measure(world: World, judges: Judges, generator: Callable[[Tensor, Prompt], Tensor], count: int = 250) -> Measured:
    """Measure a one-step generator on held-out captions, `count` draws with one object and `count` with two."""
    parts = [held_out_draws(group, count) for group in ("one", "two")]
    stated = [one for part in parts for one in part.stated]
    captions = [caption for part in parts for caption in part.captions]
    pictures = world.draw(captions, [seed for part in parts for seed in part.seeds], generator)

    def judged(judge: PictureReward) -> Tensor:
        return judge(images=pictures, prompts=captions)

    return Measured(
        faithful=compare(read(pictures), stated).all.float(),
        gold=judged(judges.gold),
        preference=judged(judges.preference),
        clip=judged(judges.clip),
        saturation=saturation(pictures),
        high_frequency=high_frequency_share(pictures),
    )


def gains(before: Measured, after: Measured) -> dict[str, Interval]:
    """Mean of after − before on the same captions and seeds with its bootstrap interval, by what was measured."""
    pairs = zip(Measured._fields, before, after, strict=True)
    return {name: paired_interval(second, first) for name, first, second in pairs}
