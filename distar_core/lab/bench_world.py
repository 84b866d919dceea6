"""What post-training costs in the world: memory of LoRA roles against full copies, and a step against its passes alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..probes import seconds_of
from ..roles import Roles, evaluate_reward
from ..sdxl.models import TextToImage
from ..sdxl.post_training import conditions_of, make_state
from ..training import make_batch, post_train
from ..world.judges import load_judges
from ..world.models import load_world
from ..world.recipe import WorldRecipe, training_prompts


def megabytes_of_roles(world: TextToImage, recipe: WorldRecipe) -> float:
    """Parameters of the three networks, stored once where they are shared, and the optimizers' state after a step."""
    state = make_state(recipe, world, load_judges().preference)
    for _ in post_train(state, recipe.method, conditions_of(recipe, world, training_prompts(recipe)), **recipe.loop):
        pass
    roles: Roles = state.roles
    tensors: dict[int, Tensor] = {}
    for module in (roles.generator.module, roles.assistant.module, roles.reference):
        tensors |= {p.data_ptr(): p for p in module.parameters()}  # type: ignore[union-attr]
    for learner in (roles.generator, roles.assistant):
        assert learner.optimizer is not None
        for slots in learner.optimizer.state_dict()["state"].values():
            tensors |= {value.data_ptr(): value for value in slots.values() if isinstance(value, Tensor)}
    return sum(value.numel() * value.element_size() for value in tensors.values()) / 1e6


def step_over_passes(world: TextToImage, recipe: WorldRecipe, rounds: int) -> float:
    """Median over rounds of a DI* step's time over the sum of its network passes, each measured alone: assistant update
    (generator without graph; assistant with all gradients) and generator step (generator with all gradients; assistant,
    conditional and null reference with the gradient at their input; decoder and reward with theirs)."""
    state = make_state(recipe, world, load_judges().preference)
    roles, conditions = state.roles, conditions_of(recipe, world, training_prompts(recipe))
    batch = make_batch(
        state,
        recipe.method.time_law,
        conditions,
        seed=0,
        step=0,
        stream="bench",
        batch=recipe.batch,
        rows=slice(0, recipe.batch),
    )
    generator, assistant = roles.generator.module, roles.assistant.module
    with torch.no_grad():
        x0 = generator(batch.z, batch.condition)
    x_t = state.schedule.add_noise(x0, batch.noise(x0), batch.t)

    def forward_only() -> None:
        with torch.no_grad():
            generator(batch.z, batch.condition)

    def all_gradients(module: Any, *inputs: Any) -> None:
        module(*inputs).sum().backward()

    def at_the_input(score: Any, condition: Any) -> None:
        leaf = x_t.detach().requires_grad_()
        torch.autograd.grad(score(leaf, batch.t, condition).sum(), leaf)

    def reward() -> None:
        leaf = x0.detach().requires_grad_()
        torch.autograd.grad(evaluate_reward(roles.reward, leaf, batch.condition).sum(), leaf)

    passes: list[Callable[[], None]] = [
        forward_only,
        lambda: all_gradients(assistant, x_t, batch.t, batch.condition),
        lambda: all_gradients(generator, batch.z, batch.condition),
        lambda: at_the_input(assistant, batch.condition),
        lambda: at_the_input(roles.reference, batch.condition),
        lambda: at_the_input(roles.reference, None),
        reward,
    ]
    steps = post_train(state, recipe.method, conditions, **{**recipe.loop, "steps": rounds + 1, "warmup": 0})
    ratios = []
    for _ in range(rounds + 1):
        alone = sum(seconds_of(one) for one in passes)
        ratios.append(seconds_of(lambda: next(steps)) / alone)
    return statistics.median(ratios[1:])


def bench_world(*, rounds: int = 9) -> dict[str, float]:
    """Ratios within one run: memory of LoRA roles over full copies, and a step's time over its passes alone."""
    torch.set_num_threads(1)
    world = load_world()
    short = {"steps": 1, "warmup": 0, "batch": 2, "prompts": 16}
    full, lora = (megabytes_of_roles(world, WorldRecipe.read({**short, "roles": roles})) for roles in ("full", "lora"))
    found = {
        "full_copies_megabytes": round(full, 2),
        "lora_megabytes": round(lora, 2),
        "lora_over_full": round(lora / full, 3),
    }
    for roles in ("full", "lora"):
        recipe = WorldRecipe.read({"prompts": 64, "roles": roles})
        found[f"step_over_passes_{roles}"] = round(step_over_passes(world, recipe, rounds), 3)
    return found
