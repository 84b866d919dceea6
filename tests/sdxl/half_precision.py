"""Gradients of the miniature in narrow types against float32, as JSON: a program of its own, since some CPUs end it.

ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 python tests/sdxl/half_precision.py
"""

import json

import torch

from distar_core.sdxl.latents import decode
from distar_core.sdxl.post_training import conditions_of, make_state
from distar_core.training import generator_step, make_batch, post_train
from distar_core.world.judges import load_judges
from distar_core.world.models import load_world
from distar_core.world.recipe import WorldRecipe, training_prompts

BATCH = 4
RECIPE = {"method": "di-star", "roles": "lora", "steps": 20, "warmup": 10, "batch": BATCH, "prompts": 32}


def trained_weights(module):
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def main():
    torch.set_num_threads(1)
    recipe, judges = WorldRecipe.read(RECIPE), load_judges()
    method = recipe.method
    found = {}
    learnt = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        world = load_world(dtype=dtype)
        state = make_state(recipe, world, judges.preference)
        conditions = conditions_of(recipe, world, training_prompts(recipe))
        roles = state.roles
        if not learnt:  # an assistant that has seen the generator's samples, and a generator that has moved
            for _ in post_train(state, method, conditions, **recipe.loop | {"steps": 2}):
                pass
            learnt = [{n: p.detach().clone() for n, p in trained_weights(r.module).items()} for r in roles[:3:2]]
        for role, weights in zip(roles[:3:2], learnt, strict=True):
            for name, parameter in trained_weights(role.module).items():
                parameter.data.copy_(weights[name])
        types = {str(p.dtype) for role in roles[:3:2] for p in trained_weights(role.module).values()}
        row = {"trained in": sorted(types), "computed in": str(world.pipeline.unet.dtype)}
        for step in (0, 1):
            batch = make_batch(
                state,
                method.time_law,
                conditions,
                seed=3,
                step=step,
                stream="generator",
                batch=BATCH,
                rows=slice(0, BATCH),
            )
            roles.generator.zero_grad()
            pulls = generator_step(state, method, batch)
            gradient = torch.cat([p.grad.flatten() for p in trained_weights(roles.generator.module).values()])
            row[f"gradient {step}"] = gradient
            if step == 0:
                types = {str(value.dtype) for at in (pulls.losses, pulls.at_x_t, pulls.at_x0) for value in at.values()}
                row |= {"pulls in": sorted(types), "gradients in": str(gradient.dtype)}
        roles.generator.update(0)
        slots = roles.generator.optimizer.state.values()
        row["optimizer in"] = sorted({str(v.dtype) for s in slots for v in s.values() if v.ndim})
        row["averages in"] = sorted({str(value.dtype) for value in roles.generator.ema.values()})
        x0 = world.noise(range(4)).requires_grad_()
        images = decode(world.pipeline.vae, x0).clamp(0, 1)
        (row["pull through the decoder"],) = torch.autograd.grad(
            judges.preference(images=images, prompts=["a red circle"] * 4).sum(), x0
        )
        found[str(dtype).removeprefix("torch.")] = row
    single = found["float32"]
    for row in found.values():
        for name in [name for name, value in row.items() if isinstance(value, torch.Tensor)]:
            row[f"cosine of {name}"] = (
                float(torch.nn.functional.cosine_similarity(row[name].flatten(), single[name].flatten(), dim=0))
                if row is not single
                else 1.0
            )
    single["cosine of two batches"] = float(
        torch.nn.functional.cosine_similarity(single["gradient 0"], single["gradient 1"], dim=0)
    )
    for row in found.values():
        for name in [name for name, value in row.items() if isinstance(value, torch.Tensor)]:
            del row[name]
    print(json.dumps(found))


main()
