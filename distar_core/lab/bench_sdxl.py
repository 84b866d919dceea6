"""What post-training SDXL at 1024 px costs, with random weights and nothing downloaded: FLOPs and bytes by phase, counted on the
meta device, and on a GPU the clock.

What is found is a dictionary of numbers and texts, as JSON has them; `tables` shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ..evaluation.tables import Table
from ..probes import Clock
from ..rewards.base import FrozenReward, PictureReward
from ..rewards.published import PUBLISHED
from ..rewards.shapes import reward_on_meta, untrained_reward
from ..runs.progress import Progress, Tell, silent
from ..runs.settings import Count, Defaults, Rate
from ..sdxl import T_STAR
from ..sdxl.latents import decode
from ..sdxl.ledger import GIB, Ledger, Tally, count_step
from ..sdxl.models import TextToImage
from ..sdxl.phases import PHASES, phases_of
from ..sdxl.post_training import conditions_of, make_state
from ..sdxl.prompts import Prompt
from ..sdxl.recipe import HUBER_C_OF_ONE, Decay, PictureRecipe
from ..sdxl.replays import Replays
from ..sdxl.shapes import sdxl_on_meta, untrained_sdxl
from ..training import State, post_train
from .clock import Peaks, matrix_rate, peaks_of, seconds_on

TERA = 1e12
PIXELS = 1024
PROMPTS = ("a",)
REWARD = "pickscore"
DRAWS = "draws"
"""What comes before the first of PHASES in a step; what comes between two of them counts for the earlier one."""

NEEDS = {
    "held": "held between steps",
    "need": "to have, reserves included",
    "peak_once": "peak without recomputation",
}
"""What tables call the bytes of a setting."""


class TrueSize(PictureRecipe):
    """DI* with guidance inside on one picture of 1024 px at a time: adapters of rank 64, RMSprop, everything checkpointed.

    The reward's scale and pseudo-Huber's constant, 0.1 √n for the n = 65,536 numbers of a latent, change no cost.
    """

    DEFAULTS: ClassVar[Defaults] = Defaults(
        {REWARD: {"diff-instruct*": 100.0}}, huber_c=HUBER_C_OF_ONE * 256, cfg_scale=7.5
    )

    reward: Literal["pickscore"] = "pickscore"
    batch: Count = 1
    steps: Count = 1000
    lr: Rate = 1e-4
    assistant_lr: Rate = 1e-4
    rank: Count = 64
    optimizer: Literal["adam", "rmsprop"] = "rmsprop"
    checkpoint_unets: bool = True
    checkpoint_decoder: bool = True
    prompts: Count | str = 1
    ema_decay: Decay = 0.0


SETTINGS: dict[str, dict[str, Any]] = {
    "LoRA": {"roles": "lora"},
    "full copies": {"roles": "full", "ema_decay": 0.999},
}
ONCE = {"checkpoint_unets": False, "checkpoint_decoder": False}
"""No recomputation: the FLOPs of the algorithm, which a utilisation is about."""


def reward_on(device: torch.device | str) -> FrozenReward:
    """PickScore's networks in bfloat16, without its weights."""
    return untrained_reward(REWARD, device).to(torch.bfloat16)


def count(**keys: Any) -> Ledger:
    """What a step of TrueSize with these keys needs; 35 to 90 seconds of one CPU core."""
    return count_step(TrueSize.read(keys), sdxl_on_meta(), reward_on("meta"), PROMPTS)


class RewardCost(NamedTuple):
    """What a reward takes on one picture.

    Attributes:
        parameters: how many numbers its networks have.
        value, gradient: FLOPs of the value, prompt included, and of the gradient at the picture after it.
        held, peak: live bytes before, and the most until the gradient is there, picture and gradient included.
    """

    parameters: int
    value: int
    gradient: int
    held: int
    peak: int


def count_reward(reward: FrozenReward, pixels: int = PIXELS) -> RewardCost:
    """Of a reward on the meta device, on one picture of so many pixels squared and a short prompt."""
    weights = [*reward.parameters(), *reward.buffers()]
    picture = torch.zeros(1, 3, pixels, pixels, device="meta", requires_grad=True)
    tally = Tally("meta")
    tally.adopt("weights", weights)
    held = tally.now
    tally.adopt("picture", [picture])
    with tally:
        tally.enter("value")
        value = reward(images=picture, prompts=PROMPTS)
        tally.enter("gradient")
        torch.autograd.grad(value.sum(), picture)
    parameters = sum(p.numel() for p in reward.parameters())
    return RewardCost(parameters, tally.flops["value"], tally.flops["gradient"], held, max(tally.peaks.values()))


class Drawn(NamedTuple):
    """What one half of a step draws: z [B, C, h, w], times [B], and the noise that makes x_t, shaped like z."""

    z: Tensor
    t: Tensor
    noise: Tensor


def fresh(recipe: PictureRecipe, model: TextToImage) -> Drawn:
    """Draws without keys, made where the model is."""
    low, high = (int(value) for value in (recipe.method.time_law.values[0], recipe.method.time_law.values[-1]))
    shape = (recipe.batch, *model.latent_shape)
    z, noise = (torch.randn(shape, device=model.device) for _ in range(2))
    return Drawn(z, torch.randint(low, high + 1, (recipe.batch,), device=model.device), noise)


def plain_step(
    state: State, recipe: PictureRecipe, model: TextToImage, prompt: Prompt, for_assistant: Drawn, for_generator: Drawn
) -> None:
    """A step of DI* with guidance inside as one would write it by hand around diffusers' UNets: one loss with one backward pass,
    no cut, no records, no keyed draws. It takes the networks, optimizers and averages of the state, and moves them.

    Raises:
        ValueError: for another method, or a model that does not predict noise.
    """
    if recipe.method_name != "diff-instruct*" or model.prediction != "eps":
        raise ValueError(
            f"a step by hand is written for diff-instruct* and a model that predicts eps, not for {recipe.method_name} and "
            f"{model.prediction}; choose these"
        )
    huber_c, cfg_scale, reward_scale = (
        value or 0.0 for value in (recipe.huber_c, recipe.cfg_scale, recipe.reward_scale)
    )
    roles: Any = state.roles
    modules = (roles.generator.module, roles.assistant.module, roles.reference)
    generator, assistant, reference = (module.network.unet for module in modules)
    first, second = roles.assistant.optimizer, roles.generator.optimizer
    dtype, rows = reference.dtype, len(for_generator.z)
    signal = model.pipeline.scheduler.alphas_cumprod.to(model.device)
    sizes = [model.pixels, model.pixels, 0, 0, model.pixels, model.pixels]
    time_ids = torch.tensor([sizes], dtype=torch.float32, device=model.device).expand(rows, -1)
    text, pooled = prompt.text.to(dtype), prompt.pooled.to(dtype)
    fixed = torch.full((rows,), T_STAR, device=model.device)

    def levels(t: Tensor) -> tuple[Tensor, Tensor]:
        power = signal[t].view(-1, 1, 1, 1)
        return power.sqrt(), (1 - power).sqrt()

    def eps(unet: Any, x: Tensor, t: Tensor, null: bool = False) -> Tensor:
        words, pool = (torch.zeros_like(text), torch.zeros_like(pooled)) if null else (text, pooled)
        extra = {"text_embeds": pool, "time_ids": time_ids}
        value = unet(x.to(dtype), t, encoder_hidden_states=words, added_cond_kwargs=extra, return_dict=False)[0]
        return value.to(x.dtype)

    def generate(z: Tensor) -> Tensor:
        alpha, sigma = levels(fixed)
        return (z - sigma * eps(generator, z, fixed)) / alpha

    def noised(x0: Tensor, drawn: Drawn) -> Tensor:
        alpha, sigma = levels(drawn.t)
        return alpha * x0 + sigma * drawn.noise

    with torch.no_grad():
        x0 = generate(for_assistant.z)
    error = eps(assistant, noised(x0, for_assistant), for_assistant.t) - for_assistant.noise
    error.square().flatten(1).sum(1).mean().backward()
    first.step()
    first.zero_grad()

    x0 = generate(for_generator.z)
    x_t, t, noise = noised(x0, for_generator), for_generator.t, for_generator.noise
    own, there, null = eps(assistant, x_t, t), eps(reference, x_t, t), eps(reference, x_t, t, null=True)
    gap = there + cfg_scale * (there - null) - own
    huber = (gap.square().flatten(1).sum(1) + huber_c**2).sqrt().view(-1, 1, 1, 1)
    loss = (gap / huber * (own - noise)).flatten(1).sum(1)
    pictures = decode(roles.reward.vae, x0).clamp(0, 1)
    loss = loss - reward_scale * roles.reward.reward(images=pictures, prompts=prompt.words)
    loss.mean().backward(inputs=[p for p in generator.parameters() if p.requires_grad])
    second.step()
    second.zero_grad()
    weights = roles.generator.parameters()
    for name, average in roles.generator.ema.items():
        average.lerp_(weights[name].detach(), 1 - roles.generator.ema_decay)


class Timed(NamedTuple):
    """Steps where a model is.

    Attributes:
        phases: seconds by phase, the mean over steps that were marked.
        loop, plain: seconds of a step of the loop and of `plain_step`, taken in turn; medians.
        loop_over_plain: the median over pairs.
        replayed: seconds of a step of the loop whose halves are recorded and replayed, median; None on a CPU.
        rate: FLOP a second of the device's matrix products, measured in the same process.
        loop_peaks, plain_peaks, replayed_peaks: what their steps needed, recording included; None on a CPU.
        finite: whether all losses were.
    """

    phases: dict[str, float]
    loop: float
    plain: float
    loop_over_plain: float
    replayed: float | None
    rate: float
    loop_peaks: Peaks | None
    plain_peaks: Peaks | None
    replayed_peaks: Peaks | None
    finite: bool


def time_step(
    recipe: PictureRecipe,
    model: TextToImage,
    reward: PictureReward,
    prompts: Sequence[str],
    *,
    rounds: int = 8,
    size: int = 8192,
) -> Timed:
    """Time steps of a recipe where the model is, the same steps by hand, and on a GPU the same replayed; the first of each warms
    up and is left out.

    Args:
        rounds: how many steps of each kind.
        size: of the matrices whose products the device's rate is measured with.
    """
    device = model.device
    state = make_state(recipe, model, reward)
    conditions = conditions_of(recipe, model, prompts)
    prompt = conditions(0, slice(0, recipe.batch))
    steps = post_train(state, recipe.method, conditions, **recipe.loop | {"steps": 3 * rounds + 4, "warmup": 0})
    clock, records = Clock(device), []

    def ours() -> None:
        records.append(next(steps))

    def plain() -> None:
        plain_step(state, recipe, model, prompt, fresh(recipe, model), fresh(recipe, model))

    def three() -> None:
        """Computed as it stands, recorded, replayed."""
        for _ in range(3):
            ours()

    def marked() -> None:
        with phases_of(state, clock.enter):
            for _ in range(rounds):
                clock.enter(DRAWS)
                ours()

    rate = matrix_rate(device, size=size)
    pairs = [(seconds_on(device, ours), seconds_on(device, plain)) for _ in range(rounds + 1)][1:]
    loop_peaks, phases = peaks_of(device, marked), clock.seconds()
    plain_peaks = peaks_of(device, plain)
    replayed = replayed_peaks = None
    if device.type == "cuda":
        state.perform = Replays()
        replayed_peaks = peaks_of(device, three)
        replayed = median(seconds_on(device, ours) for _ in range(rounds))
    return Timed(
        phases={phase: seconds / rounds for phase, seconds in phases.items()},
        loop=median(loop for loop, _ in pairs),
        plain=median(plain for _, plain in pairs),
        loop_over_plain=median(loop / plain for loop, plain in pairs),
        replayed=replayed,
        rate=rate,
        loop_peaks=loop_peaks,
        plain_peaks=plain_peaks,
        replayed_peaks=replayed_peaks,
        finite=all(bool(loss.isfinite().all()) for record in records for loss in record.losses.values()),
    )


def facts(ledger: Ledger, once: Ledger) -> dict[str, Any]:
    """FLOPs a sample by phase and bytes of a setting, and of the same without recomputation."""
    return {
        "flops": {phase: flops / ledger.samples for phase, flops in ledger.flops.items()},
        "flops_once": {phase: flops / once.samples for phase, flops in once.flops.items()},
        "peaks": ledger.peaks,
        "held": ledger.static,
        "need": ledger.need,
        "peak_once": once.peak,
    }


def bench_sdxl(device: torch.device, tell: Tell = silent) -> dict[str, Any]:
    """Counts of SETTINGS and of the published rewards; on a GPU also the clock, for the settings that fit; `tables` names the others.

    Args:
        device: where to measure seconds; with a CPU nothing is measured, since true size takes minutes a step there.
    """
    total = 2 * len(SETTINGS) + len(PUBLISHED) + (device.type == "cuda") * len(SETTINGS)
    done = 0

    def one(note: str, work: Callable[[], Any]) -> Any:
        nonlocal done
        tell(Progress("costs", done, total, note))
        found = work()
        done += 1
        tell(Progress("costs", done, total, note))
        return found

    found: dict[str, Any] = {"settings": {}, "rewards": {}, "seconds": {}}
    for name, keys in SETTINGS.items():
        ledger: Ledger = one(name, partial(count, **keys))
        once: Ledger = one(f"{name}, once", partial(count, **keys, **ONCE))
        found["settings"][name] = facts(ledger, once)
    for name in PUBLISHED:
        found["rewards"][name] = one(name, partial(_both_types, name))
    if device.type == "cuda":
        memory, _ = torch.cuda.mem_get_info(device)
        found["card"] = {"name": torch.cuda.get_device_name(device), "memory": memory}
        model, reward = untrained_sdxl(device), reward_on(device)
        # adapters are laid on the generator's own tensors; full copies are made of it, and need no room for it beside them
        for name, keys in SETTINGS.items():
            if keys["roles"] == "full":
                model.unet.to("cpu")
            if found["settings"][name]["need"] <= memory:
                timed = one(name, partial(time_step, TrueSize.read(keys), model, reward, PROMPTS))
                found["seconds"][name] = timed._asdict()
    return found


def _both_types(name: str) -> dict[str, Any]:
    reward = reward_on_meta(name)
    wide = count_reward(reward)
    narrow = count_reward(reward.to(torch.bfloat16))
    return {**wide._asdict(), "held_narrow": narrow.held, "peak_narrow": narrow.peak}


def tables(found: Mapping[str, Any]) -> dict[str, Table]:
    """What `bench_sdxl` found, as tables by title: FLOPs and bytes by phase, the rewards, and what was measured."""
    settings, seconds = found["settings"], found["seconds"]
    columns = {
        head: one[kind]
        for name, one in settings.items()
        for head, kind in ((name, "flops"), (f"{name}, no recomputation", "flops_once"))
    }
    flops: Table = [["phase", *columns]]
    live: Table = [["phase", *settings]]
    for phase in PHASES:
        flops.append([phase, *(f"{column.get(phase, 0) / TERA:.1f}" for column in columns.values())])
        live.append([phase, *(f"{one['peaks'][phase] / GIB:.2f}" for one in settings.values())])
    flops.append(["together", *(f"{sum(column.values()) / TERA:.1f}" for column in columns.values())])
    for key, words in NEEDS.items():
        live.append([words, *(f"{one[key] / GIB:.2f}" for one in settings.values())])
    rewards: Table = [
        ["reward", "weights", "TFLOP: value, with gradient", "GiB, float32: held, peak", "GiB, bfloat16: held, peak"]
    ]
    for name, cost in found["rewards"].items():
        work = f"{cost['value'] / TERA:.2f}, {(cost['value'] + cost['gradient']) / TERA:.2f}"
        wide, narrow = (
            f"{cost[held] / GIB:.1f}, {cost[peak] / GIB:.1f}"
            for held, peak in (("held", "peak"), ("held_narrow", "peak_narrow"))
        )
        rewards.append([name.partition("/")[0], f"{cost['parameters'] / 1e6:.0f} M", work, wide, narrow])
    shown: dict[str, Table] = {
        "TFLOP a sample": flops,
        "GiB live at the peak of each phase": live,
        f"One picture of {PIXELS} px and its prompt": rewards,
    }
    for name, one in settings.items() if "card" in found else ():
        if name in seconds:
            shown[f"{name}: on the clock, {found['card']['name']}"] = _clock_table(seconds[name], one)
        else:
            there = f"{found['card']['memory'] / GIB:.1f}"
            shown[f"{name}: not measured, it does not fit"] = [
                ["GiB that it needs", "GiB of the card"],
                [f"{one['need'] / GIB:.1f}", there],
            ]
    return shown


def _clock_table(timed: Mapping[str, Any], counted: Mapping[str, Any]) -> Table:
    """Seconds by phase with the rate that counted FLOPs give them, then the whole step; one sample a step."""
    rate, rows = timed["rate"], [["", "seconds", "TFLOP/s", "of the matrix rate"]]

    def row(words: str, seconds: float, flops: float) -> None:
        speed = flops / seconds
        rows.append([words, f"{seconds:.4f}", f"{speed / TERA:.1f}", f"{speed / rate:.1%}"])

    for phase, seconds in timed["phases"].items():
        row(phase, seconds, counted["flops"].get(phase, 0))
    executed, model = (sum(counted[kind].values()) for kind in ("flops", "flops_once"))
    row("a step, by executed FLOP", timed["loop"], executed)
    row("a step, by the algorithm's FLOP (utilisation)", timed["loop"], model)
    row("a step by hand, by executed FLOP", timed["plain"], executed)
    if timed["replayed"] is not None:
        row("a replayed step, by executed FLOP", timed["replayed"], executed)
        row("a replayed step, by the algorithm's FLOP (utilisation)", timed["replayed"], model)
    rows.append(["products of large matrices, measured", "", f"{rate / TERA:.1f}", "100.0%"])
    rows.append(["pictures a second", f"{1 / (timed['replayed'] or timed['loop']):.3g}", "", ""])
    rows.append(["all losses finite", "yes" if timed["finite"] else "no", "", ""])
    rows.append(["the loop over by hand, median of pairs", f"{timed['loop_over_plain']:.3f}", "", ""])
    for words, key in (("loop", "loop_peaks"), ("by hand", "plain_peaks"), ("replayed", "replayed_peaks")):
        if timed[key] is not None:
            allocated, reserved = (f"{value / GIB:.2f}" for value in timed[key])
            rows.append([f"{words}: GiB allocated, reserved at the peak", f"{allocated}, {reserved}", "", ""])
    return rows
