"""What two processes do in one launch by torchrun, and what a single one does to compare with. Each scene leaves SCENE-NUMBER.json of every process, and whatever its run writes. tests/runs/test_processes.py looks at them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distar_core import State, Trainable
from distar_core.runs.folders import at_work
from distar_core.runs.processes import ALONE, Alone, Replicated, launched
from distar_core.runs.run import run
from tests.conftest import random_prompts, tiny_unet, to_double
from tests.runs.test_run import METHOD, OPTIONS, STEPS, BreaksAt, build, no_conditions

TOY = {key: value for key, value in OPTIONS.items() if key != "micro_batch"}
SHORT: dict[str, Any] = {
    "steps": 2,
    "batch": 4,
    "warmup": 1,
    "prompts": 8,
    "reward_scale": 0.3,
    "lr": 1e-3,
    "assistant_lr": 1e-3,
}
BROKEN_AT, STOPPED_AT, KILLED_AT = 3, 2, 4


def toy(processes: Alone, *, seed: int = 0, averaging: bool = True, steps: int = STEPS, **others: Any) -> State:
    """The run of tests/runs/test_run.py, with clipped gradients and roles for several processes."""
    state = build(seed, steps=steps, **others)

    def again(role: Trainable) -> Trainable:
        settings: dict[str, Any] = {"lr": role.lr, "ema_decay": role.ema_decay, "max_grad_norm": 0.5}
        if averaging:
            return Replicated(role.module, role.optimizer, processes=processes, **settings)
        return Trainable(role.module, role.optimizer, **settings)

    roles = state.roles
    return State(roles._replace(generator=again(roles.generator), assistant=again(roles.assistant)), state.schedule)


def recipe_of(roles: str, **keys: Any) -> Any:
    """The recipe of a short run on the miniature world."""
    from distar_core.world.recipe import WorldRecipe

    full = {"optimizer": "rmsprop", "checkpoint_unets": True} if roles == "full" else {}
    return WorldRecipe.read(SHORT | full | {"roles": roles} | keys)


class Miniature:
    """A short run on the miniature world: adapters in float32, or full copies in float64, whose blocks are recomputed."""

    def __init__(self, roles: str, processes: Alone = ALONE, **keys: Any) -> None:
        from distar_core.sdxl.post_training import conditions_of, make_state
        from distar_core.world.judges import load_judges
        from distar_core.world.models import load_world
        from distar_core.world.recipe import training_prompts

        self.recipe = recipe_of(roles, **keys)
        world, judges = load_world(), load_judges()
        if roles == "full":
            parts = (world.unet, world.pipeline.unet, world.pipeline.vae, world.pipeline.text_encoder)
            for part in (*parts, world.pipeline.text_encoder_2, judges.preference):
                part.double()
        self.state = make_state(self.recipe, world, judges.preference, processes)
        self.state.place = to_double if roles == "full" else self.state.place
        self.conditions = conditions_of(self.recipe, world, training_prompts(self.recipe))

    def run(self, folder: Path, **options: Any) -> Iterator[Any]:
        return run(self.state, self.recipe.method, self.conditions, folder, **(self.recipe.loop | options))

    @torch.no_grad()
    def drawn(self) -> dict[str, Tensor]:
        """Latents of the averaged generator and of the last one."""
        generator, latents = self.state.roles.generator, torch.Generator().manual_seed(1)
        z = to_double(torch.randn(2, *generator.module.shape, generator=latents))  # type: ignore[arg-type, misc]
        condition = self.conditions(0, slice(0, 2))
        return {"averaged": generator.averaged(z, condition), "last": generator.module(z, condition)}


def narrow_gradients(processes: Alone, *, wide: bool = False) -> dict[str, Tensor]:
    """Gradients of a UNet in float64 that computes in float32, over two rows, of which a process has its own; wide: it
    computes in float64.
    """
    from distar_core.runs.processes import whole
    from distar_core.sdxl.compute import compute_in
    from distar_core.sdxl.processes import shard
    from tests.conftest import PromptedNetwork

    dtype = torch.float64 if wide else torch.float32
    unet = tiny_unet()
    if processes.count > 1:
        shard(unet, dtype)
    elif not wide:
        compute_in(unet, dtype)
    network = PromptedNetwork(unet)
    prompts = random_prompts(2)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows = range(2)[processes.rows(2)]
    for row in rows:
        part = slice(row, row + 1)
        value = network(x[part], torch.tensor([50, 700])[part], prompts.rows(torch.tensor([row])))
        (value.double().square().sum() / len(rows)).backward()
    return {name: whole(p.grad) for name, p in unet.named_parameters() if p.grad is not None}


def held_of(state: State) -> dict[str, int]:
    """Bytes of what learns, its averages and its optimizers in this process, padding included."""
    learners = (state.roles.generator, state.roles.assistant)

    def size(values: Any) -> int:
        return sum(value.to_local().untyped_storage().nbytes() for value in values)

    slots = [slot for one in learners for slot in one.optimizer.state.values()]  # type: ignore[union-attr]
    return {
        "learning weights": sum(size(one.parameters().values()) for one in learners),
        "averages": sum(size(one.ema.values()) for one in learners),
        "optimizer state": size(value for slot in slots for value in slot.values() if value.dim()),
    }


def outcome(records: Iterator[Any], state: State) -> dict[str, Any]:
    """Where a run ended, and by which error."""
    done: list[int] = []
    try:
        done += [record.step for record in records]
    except Exception as error:
        return {"error": type(error).__name__, "text": str(error), "step": state.step}
    return {"error": None, "text": "", "step": state.step, "first": min(done, default=None)}


def toy_scenes(processes: Alone, folder: Path) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    def at(name: str, state: State, conditions: Any = no_conditions, **options: Any) -> dict[str, Any]:
        return outcome(run(state, METHOD, conditions, folder / name, processes=processes, **(TOY | options)), state)

    def locked() -> dict[str, Any]:
        records = run(toy(processes), METHOD, no_conditions, folder / "locked", processes=processes, **TOY)
        first = next(records)
        try:
            with at_work(folder / "locked"):
                refused = ""
        except FileExistsError as error:
            refused = str(error)
        processes.gathered(None)  # the first holds the lock until both have tried
        records.close()  # type: ignore[attr-defined]
        return {"samples": len(first.losses["assistant"]), "refused": refused}

    def stopped() -> dict[str, Any]:
        def conditions(step: int, rows: slice) -> None:
            if step == STOPPED_AT and processes.number == 1:
                os.kill(os.getpid(), signal.SIGTERM)

        return at("stopped", toy(processes), conditions, save_every=1000)

    def part() -> dict[str, Any]:
        records = run(
            toy(processes), METHOD, no_conditions, folder / "saved by two", processes=processes, save_every=1, **TOY
        )
        found = [record.step for record in islice(records, 5)]
        records.close()  # type: ignore[attr-defined]
        return {"last": found[-1]}

    own_seed = {"seed": OPTIONS["seed"] + processes.number}
    breaks = BreaksAt(BROKEN_AT, 0, float("nan"))
    breaks.call = BROKEN_AT if processes.number == 1 else -2  # one call a step, and none that is number −2
    yield "whole", lambda: at("whole", toy(processes), save_every=4, keep=2, best="reward", also_log=["jsonl"])
    yield "saved by two", part
    yield "saved by one", lambda: at("saved by one", toy(processes, seed=1), resume=True, save_every=1)
    yield "broken", lambda: at("broken", toy(processes, reward=breaks), save_every=2)
    yield "stopped", stopped
    yield "locked", locked
    yield "unaveraged", lambda: at("unaveraged", toy(processes, averaging=False))
    yield "other start", lambda: at("other start", toy(processes, seed=processes.number))
    yield "other seed", lambda: at("other seed", toy(processes), **own_seed)
    yield "indivisible", lambda: at("indivisible", toy(processes), batch=7)
    yield "foreign", lambda: at("foreign", toy(processes))


def miniature_scenes(processes: Alone, folder: Path) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    def lora() -> dict[str, Any]:
        one = Miniature("lora", processes)
        return outcome(one.run(folder / "lora", processes=processes), one.state)

    def full() -> dict[str, Any]:
        one = Miniature("full", processes)
        kinds = sorted({type(p).__name__ for p in one.state.roles.generator.parameters().values()})
        found = outcome(one.run(folder / "full", processes=processes, save_every=1, keep=9), one.state)
        before = [p.to_local().clone() for p in one.state.roles.generator.parameters().values()]  # type: ignore[attr-defined]
        torch.save(one.drawn(), folder / f"full-{processes.number}.pt")
        after = [p.to_local() for p in one.state.roles.generator.parameters().values()]  # type: ignore[attr-defined]
        own = sum(len(part.flatten()) for part in after)
        same = all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        return found | {"kinds": kinds, "own": own, "as before": same, "held": held_of(one.state)}

    def resumed() -> dict[str, Any]:
        one = Miniature("full", processes)
        return outcome(one.run(folder / "full by one", processes=processes, resume=True), one.state)

    def narrow() -> dict[str, Any]:
        torch.save(narrow_gradients(processes), folder / f"narrow-{processes.number}.pt")
        return {}

    yield "lora", lora
    yield "full", full
    yield "full by one", resumed
    yield "narrow", narrow


def killed(processes: Alone, folder: Path) -> dict[str, Any]:
    """Process 1 is gone in the middle of a step."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher sends one as soon as a process is gone

    def conditions(step: int, rows: slice) -> None:
        if step == KILLED_AT and processes.number == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    state = toy(processes)
    return outcome(run(state, METHOD, conditions, folder / "killed", processes=processes, save_every=2, **TOY), state)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with launched() as processes:
        for name, scene in [
            ("started", lambda: {"pid": os.getpid(), "count": processes.count}),
            *toy_scenes(processes, folder),
            *miniature_scenes(processes, folder),
            ("killed", lambda: killed(processes, folder)),
        ]:
            found = scene()
            (folder / f"{name}-{processes.number}.json").write_text(json.dumps(found), "utf-8")
