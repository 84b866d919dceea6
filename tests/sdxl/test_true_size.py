"""A step of each method in true size, on the meta device: bytes and FLOPs of both recipes against sums over shapes that are
written here. Diff-Instruct* is in every run of the tests, in test_recipe.py; the others take a minute of CPU each, so they
wait for: pytest -m long.
"""

import re
from collections import Counter

import pytest
import torch
from torch import nn

from distar_core.methods import METHODS
from distar_core.sdxl.ledger import GRAIN, count_step
from distar_core.sdxl.plan import counted, counted_prompts, model_on_meta, rewards_on_meta
from distar_core.sdxl.recipe import SdxlRecipe, find_recipe
from tools import count_recipes

ADAPTED = re.compile(r"\.to_(q|k|v|out\.0)$")
FROM_TEXT = re.compile(r"attn2\.to_(k|v)$")
IN_NO_BLOCK = re.compile(r"conv_in|conv_out|proj_in|proj_out|samplers|time_embedding|add_embedding")
"""Layers of a UNet that are in no checkpointed block, so that they are computed once."""
LAST = re.compile(r"ff\.net\.2$|conv_shortcut$|upsamplers|mid_block\.attentions\.0\.to_out\.0$")
"""Layers that end a block, beside conv2 of residual blocks without a shortcut: a block is computed again only up to the input of
its last layer, which is what that layer's backward pass needs.
"""
BEFORE_ADAPTERS = re.compile(r"conv_in|time_embedding|add_embedding|down_blocks\.0")
"""Layers of SDXL's UNet that no gradient of an adapter passes."""


def is_last(name, layers):
    """Whether a layer ends its block."""
    without_shortcut = name.endswith("conv2") and name.removesuffix("conv2") + "conv_shortcut" not in layers
    return bool(LAST.search(name)) or without_shortcut


class Work(Counter):
    """FLOPs by layer; products, of which a layer has two per weight and place (token or pixel)."""

    def of(self, keep=lambda name: True):
        return sum(flops for name, flops in self.items() if keep(name))


def work_of(network, call):
    """Products and attention of a call by layer; attention has four per query, key and width."""
    names = {layer: name for name, layer in network.named_modules()}
    products, queries, keys = Work(), {}, {}

    def seen(layer, _, output):
        name = names[layer]
        products[name] += 2 * output.numel() * layer.weight[0].numel()
        for kept, ends in ((queries, ("to_q", "q_proj")), (keys, ("to_k", "k_proj"))):
            if name.endswith(ends):
                kept[name.rpartition(".")[0]] = output.shape

    handles = [layer.register_forward_hook(seen) for layer in names if isinstance(layer, nn.Linear | nn.Conv2d)]
    with torch.no_grad():
        call()
    for handle in handles:
        handle.remove()
    attention = Work({f"{name}.": 4 * q[0] * q[1] * keys[name][1] * q[2] for name, q in queries.items()})
    return products, attention


def by_hand(recipe, model):
    """FLOPs of a step for one sample."""
    method, lora = recipe.method, recipe.roles == "lora"
    unet, vae = model.pipeline.unet, model.pipeline.vae
    x, t = torch.zeros(1, *model.latent_shape, device="meta"), torch.zeros(1, device="meta")
    network = model.prompted(unet)
    products, attention = work_of(unet, lambda: network(x, t, None))
    shapes = dict(unet.named_parameters())
    adapters = Work()
    for name, flops in products.items() if lora else ():
        if ADAPTED.search(name):
            out, into = shapes[f"{name}.weight"].shape
            adapters[name] = flops * recipe.rank * (out + into) / (out * into)

    def forward(trained):
        return products.of() + attention.of() + trained * adapters.of()

    def backward(trained, *, weights):
        """The blocks again, and the gradients: at the inputs, at the weights that learn, and two and a half times attention."""

        def reached(name):
            return not (weights and lora and BEFORE_ADAPTERS.search(name))

        def again(name):
            return reached(name) and not IN_NO_BLOCK.search(name) and not is_last(name, products)

        def at_input(name):
            return reached(name) and not FROM_TEXT.search(name)

        found = products.of(again) + attention.of(again) + products.of(at_input) + 2.5 * attention.of()
        if trained:
            found += adapters.of(again) + adapters.of(at_input)
        return found + ((adapters if lora else products).of() if weights else 0)

    latent = torch.zeros(1, *model.latent_shape, device="meta", dtype=vae.dtype)
    decoder, its_attention = work_of(vae, lambda: vae.decode(latent))
    decode = decoder.of() + its_attention.of()
    through_decoder = decoder.of() + decoder.of(lambda name: not is_last(name, decoder)) + 3.5 * its_attention.of()
    look = through_look = 0
    if (mix := rewards_on_meta(recipe)) is not None:
        judge = mix.terms["pickscore"][1].model
        size = judge.config.vision_config.image_size
        picture = torch.zeros(1, 3, size, size, device="meta", dtype=judge.dtype)
        layers, heads = work_of(judge, lambda: judge.visual_projection(judge.vision_model(picture).pooler_output))
        look, through_look = layers.of() + heads.of(), layers.of() + 2.5 * heads.of()

    ids = torch.zeros(1, 77, dtype=torch.long, device="meta")
    encoders = (model.pipeline.text_encoder, model.pipeline.text_encoder_2)
    words = sum(part.of() for encoder in encoders for part in work_of(encoder, lambda encoder=encoder: encoder(ids)))

    total = forward(True) + backward(True, weights=True) + 2 * words  # the generator's turn, and both turns' prompts
    if method.regularizer is not None:
        total += 2 * forward(True) + backward(True, weights=True)  # the assistant's, on the generator's samples
        total += forward(True) + forward(False) * (2 if method.guides else 1)
        if method.exact:
            total += backward(True, weights=False)
            total += backward(False, weights=False) * (2 if method.guides and method.guidance == "inside" else 1)
    if method.reward_at == "sample":
        total += decode + through_decoder + look + through_look
    if method.reward_at == "every_level_by_proxy":  # the reference's guess is decoded, judged and differentiated
        total += decode + through_decoder + look + through_look + backward(False, weights=False)
        total += forward(False) if method.guides else 0  # and the plain reference again
    return total


def bytes_of(*tensors):
    """What an allocator gives out for tensors: each once, rounded up."""
    return sum(-(-t.numel() * t.element_size() // GRAIN) * GRAIN for t in {id(t): t for t in tensors}.values())


def held_by_hand(recipe, model):
    """Bytes between two steps, by what they are for."""

    def tensors(*modules):
        return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]

    parts = model.pipeline
    weights = list(parts.unet.parameters())
    if recipe.roles == "lora":
        layers = [layer for name, layer in parts.unet.named_modules() if ADAPTED.search(name)]
        weights = [
            torch.empty(*shape, device="meta")
            for layer in layers
            for shape in ((recipe.rank, layer.in_features), (layer.out_features, recipe.rank))
        ]
    learning = bytes_of(*(torch.empty(weight.shape, dtype=torch.float32, device="meta") for weight in weights))
    found = {
        "reference": bytes_of(*tensors(parts.unet)),
        "generator's start": bytes_of(*tensors(model.unet)) if recipe.roles == "lora" else 0,
        "autoencoder": bytes_of(*tensors(parts.vae)),
        "text encoders": bytes_of(*tensors(parts.text_encoder, parts.text_encoder_2)),
        "judge": 0 if (mix := rewards_on_meta(recipe)) is None else bytes_of(*tensors(mix.terms["pickscore"][1])),
        "learning weights": 2 * learning,
        "averages": learning,
        "optimizer state": 2 * learning,
    }
    return {name: size for name, size in found.items() if size}


def held_to_hand(name, method):
    """The ledger of a recipe that comes with the package, after it is held to the sums."""
    recipe = SdxlRecipe.read(find_recipe(name), method=method)
    model = model_on_meta(recipe, offline=True)
    recipe = recipe.for_model(model)
    found = count_step(recipe, model, rewards_on_meta(recipe), counted_prompts(2**31), micro_batch=recipe.micro_batch)
    assert found.held == held_by_hand(recipe, model)
    assert found.flops_per_sample == pytest.approx(by_hand(recipe, model), rel=0.01)
    return found


@pytest.mark.long
@pytest.mark.parametrize("name", ["24gb", "80gb"])
@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("didr", "diff-instruct*")])
def test_a_step_takes_what_a_sum_over_shapes_says(name, method):
    found = held_to_hand(name, method)
    assert found.need < {"24gb": 23, "80gb": 78}[name] * 2**30


@pytest.mark.long
def test_the_share_of_a_process_is_counted_beforehand():
    found = count_recipes.count("n-gpus")
    beforehand = counted()["n-gpus"]
    assert found["processes"] == beforehand.processes == 8
    assert found["ledger"] == {key: value for key, value in beforehand.ledger._asdict().items() if key != "at_peak"}
