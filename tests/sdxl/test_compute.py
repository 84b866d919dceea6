"""Less memory with the same numbers: blocks computed again, weights cast layer by layer, and the recipe's keys for them."""

import copy

import pytest
import torch
from torch import nn

from distar_core.optimizers import AdamWithoutMomentum
from distar_core.sdxl.compute import compute_in, recompute_blocks
from distar_core.sdxl.post_training import conditions_of, make_state
from distar_core.training import post_train
from distar_core.world.judges import load_judges
from distar_core.world.models import load_world
from distar_core.world.recipe import WorldRecipe, training_prompts


def gradients(unets, unet, dtype):
    """What a UNet gives, and the gradients at its input and in its weights."""
    network = unets.PromptedNetwork(unet)
    x = torch.randn(2, *unets.latent_shape, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    x = x.to(dtype).requires_grad_()
    value = network(x, torch.tensor([50, 700]), unets.prompts(2, dtype=torch.float32))
    value.to(torch.float64).square().sum().backward()
    return value.detach(), x.grad, [p.grad for p in unet.parameters()]


def kept_bytes(unets, unet):
    """Bytes that a forward pass keeps for the backward pass, weights left out."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x = torch.zeros(2, *unets.latent_shape, dtype=unet.dtype)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = unets.PromptedNetwork(unet)(x, torch.tensor([50, 700]), unets.prompts(2))
    weights = {p.untyped_storage().data_ptr() for p in unet.parameters()}
    assert value.requires_grad
    return sum(size for place, size in kept.items() if place not in weights)


def test_blocks_that_are_computed_again_keep_little_and_give_the_same_gradients(unets):
    unet = unets.tiny()
    twin = recompute_blocks(unets.tied_clone(unet))
    assert kept_bytes(unets, twin) < kept_bytes(unets, unet) / 3, (
        "and the network that it shares its weights with is as it was"
    )
    value, at_x, in_weights = gradients(unets, copy.deepcopy(unet), torch.float64)
    again, at_x_again, in_weights_again = gradients(unets, recompute_blocks(unet), torch.float64)
    assert torch.equal(value, again)
    assert torch.equal(at_x, at_x_again)
    assert all(torch.equal(one, other) for one, other in zip(in_weights, in_weights_again, strict=True))


def test_weights_that_are_cast_compute_as_those_of_the_type_and_learn_in_their_own(unets):
    """float64 in place of float32, and float32 in place of bfloat16, which some CPUs do not compute in."""
    narrow, wide = unets.tiny(torch.float32), unets.tiny(torch.float32).double()
    cast = compute_in(copy.deepcopy(wide), torch.float32)
    value, at_x, in_weights = gradients(unets, narrow, torch.float32)
    ours, ours_at_x, ours_in_weights = gradients(unets, cast, torch.float64)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, value)
    assert torch.equal(ours_at_x.float(), at_x)
    for found, wanted in zip(ours_in_weights, in_weights, strict=True):
        assert found.dtype == torch.float64
        assert torch.equal(found, wanted.double())
    control, *_ = gradients(unets, wide, torch.float64)
    assert not torch.equal(control.float(), value)
    assert list(cast.state_dict()) == list(narrow.state_dict())
    again = compute_in(compute_in(copy.deepcopy(wide), torch.float16), torch.float32)
    assert torch.equal(gradients(unets, again, torch.float64)[0], value), "and it may be told another type later"
    other = copy.deepcopy(cast)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    assert torch.equal(gradients(unets, cast, torch.float64)[0], value), "a copy casts weights of its own"


def test_a_layer_that_cannot_be_cast_is_refused_and_nothing_is_changed():
    network = nn.Sequential(nn.Linear(2, 2), nn.Embedding(3, 2))
    with pytest.raises(ValueError, match="layer 1 is a Embedding"):
        compute_in(network, torch.float32)
    assert type(network[0]) is nn.Linear


def trained(world, judges, **keys):
    """The weights that two steps of a recipe lead to, and how far they have come."""
    recipe = WorldRecipe.read({"steps": 2, "batch": 2, "warmup": 1, "prompts": 4, "reward_scale": 0.3} | keys)
    state = make_state(recipe, world, judges.preference)

    def weights():
        roles = (state.roles.generator, state.roles.assistant)
        return torch.cat([p.detach().flatten() for role in roles for p in role.parameters().values()])

    begin = weights().clone()
    list(post_train(state, recipe.method, conditions_of(recipe, world, training_prompts(recipe)), **recipe.loop))
    assert state.roles.reference.network.unet is not world.pipeline.unet
    return weights(), weights() - begin, state


@pytest.mark.parametrize("roles", ["lora", "full"])
def test_a_run_is_the_same_with_checkpointed_networks_and_with_rmsprop(roles):
    world, judges = load_world(), load_judges()
    plain, way, _ = trained(world, judges, roles=roles)
    thrifty, _, state = trained(world, judges, roles=roles, checkpoint_unets=True, checkpoint_decoder=True)
    assert torch.equal(plain, thrifty)
    networks = [state.roles.generator.module, state.roles.assistant.module, state.roles.reference]
    for network in [role.network.unet for role in networks]:
        assert network.mid_block.gradient_checkpointing
    assert not world.unet.mid_block.gradient_checkpointing, "the model is as it was"
    assert not world.pipeline.unet.mid_block.gradient_checkpointing
    rms, _, state = trained(world, judges, roles=roles, optimizer="rmsprop")
    assert isinstance(state.roles.generator.optimizer, AdamWithoutMomentum)
    assert 0 < float((rms - plain).norm() / way.norm()) < 1e-2, (
        "rounding, which Adam's first steps amplify where g is small"
    )
