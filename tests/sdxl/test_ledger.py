"""The ledger against hand counts, the CPU's allocator and, in true size, what a GPU recorded."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from distar_core.errors import DistarError, DoesNotFitError
from distar_core.sdxl import ledger
from distar_core.sdxl.ledger import TRANSIT, Ledger, Tally, count_step, require_fit
from distar_core.sdxl.loading import find_pipeline
from distar_core.sdxl.models import TextToImage
from distar_core.sdxl.phases import PHASES, phases_of
from distar_core.sdxl.post_training import conditions_of, make_state
from distar_core.sdxl.processes import blocks_of, part_of
from distar_core.sdxl.shapes import described_on_meta
from distar_core.training import post_train
from distar_core.world.models import load_world
from distar_core.world.recipe import WorldRecipe, training_prompts

KEYS = {"batch": 4, "prompts": 4, "steps": 1, "warmup": 0, "reward_scale": 0.3}
THRIFTY = {"roles": "lora", "checkpoint_unets": True, "checkpoint_decoder": True, "optimizer": "rmsprop"}
RECORDS = Path(__file__).parents[2] / "notebooks" / "records" / "sdxl_true_size.jsonl"


class Brightness(nn.Module):
    """A reward with one weight, on any device."""

    differentiable = True

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, *, images, prompts):
        return self.scale * images.mean((1, 2, 3))


@pytest.fixture(scope="module")
def world():
    return load_world()


@pytest.fixture(scope="module")
def count(world):
    """count(**keys): the ledger of a step of the world with these keys, to the byte; each is counted once."""
    known = {}

    def counted(micro_batch=None, **keys):
        place = (micro_batch, *sorted(keys.items()))
        if place not in known:
            recipe = WorldRecipe.read(KEYS | keys)
            prompts = training_prompts(recipe)
            known[place] = count_step(recipe, world, Brightness(), prompts, micro_batch=micro_batch, grain=1)
        return known[place]

    return counted


# What is counted, by hand.


def test_storages_count_once_from_birth_to_death_by_phase():
    tally = Tally("cpu", grain=1)
    weight = torch.zeros(25, 4)
    tally.adopt("weight", [weight, weight.T, weight[3:]])
    assert (tally.now, dict(tally.live)) == (400, {"weight": 400})
    with tally:
        tally.enter("one")
        a = weight + 1
        b = a.view(-1)[:10].add_(1)
        tally.enter("two")
        c = a.double()
        del a
        assert tally.now == 400 + 400 + 800, "b is a view of a"
        del b
        assert tally.now == 400 + 800
        c.zero_()
        torch.zeros(1000, device="meta")
        del c
        tally.enter("three")
    assert tally.now == 400
    assert tally.peaks == {"one": 800, "two": 1600, "three": 400}
    assert tally.at_peak == {"weight": 400, "one": 400, "two": 800}


def with_results(tally, made):
    """The layouts of what `made` returns while a tally is active, and its live bytes meanwhile."""
    with tally:
        results = made()
    return [(one.shape, one.stride(), one.dtype) for one in results], tally.now


def many_operations():
    """Twice, so that the second time nothing is asked: other types by a number's, strides, several results and none, views."""
    x, whole = torch.zeros(4, 6, device="meta"), torch.zeros(4, 6, device="meta", dtype=torch.int64)
    kept = []
    for _ in range(2):
        kept += [x * 1.5, x.T * 1.5, whole * 1, whole * 1.0, whole * True, x.to(torch.bfloat16), x[:, :3] + x[:, 3:]]
        kept += [
            *torch.max(x, dim=0),
            torch.cat([x, x.T.reshape(4, 6)]),
            x.new_zeros(3),
            torch.ops.aten._unsafe_view(x, [24]),
        ]
        kept += [x.view(24), x.T, x.expand(2, 4, 6), *x.split(2)]
        weight = torch.zeros(6, device="meta", requires_grad=True)
        kept += torch.autograd.grad(F.layer_norm(x, (6,), weight).sum(), [weight])
    return kept


def test_what_was_seen_before_is_counted_without_asking_torch_again(monkeypatch):
    tally = Tally("meta", grain=1)
    found = with_results(tally, many_operations)
    asked = sum(layouts is not None for layouts in tally._results._layouts.values())
    assert asked > 10
    monkeypatch.setattr(ledger._Results, "of", lambda self, func, types, args, kwargs: func(*args, **kwargs))
    assert found == with_results(Tally("meta", grain=1), many_operations)


def test_sizes_are_rounded_up_as_the_allocator_of_a_gpu_does():
    tally = Tally("cpu")
    held = [torch.zeros(1), torch.zeros(128), torch.zeros(129), torch.zeros(0)]
    tally.adopt("held", held)
    assert tally.now == 512 + 512 + 1024


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_flops_are_two_per_multiplication_and_addition(device):
    """By hand: a linear layer 2 B·in·out, as many again for each gradient; attention of L queries and keys of width d in h
    heads 2 · 2 h L² d, and two and a half times that backward, where the products are made again."""
    tally = Tally(device)
    layer = nn.Linear(7, 5, device=device)
    x = torch.ones(3, 7, device=device, requires_grad=True)
    q = torch.ones(1, 2, 8, 16, device=device, requires_grad=True)
    with tally:
        tally.enter("layer")
        y = layer(x)
        tally.enter("backward")
        y.sum().backward()
        tally.enter("attention")
        o = ledger._fused_attention(q, q, q)
        tally.enter("its backward")
        o.sum().backward()
    one = 2 * 3 * 7 * 5
    attention = 2 * 2 * 2 * 8 * 8 * 16
    assert tally.flops == {
        "layer": one,
        "backward": 2 * one,
        "attention": attention,
        "its backward": 5 * attention // 2,
    }


# A step, against the allocator of the CPU.


def allocated(work):
    """The most that the CPU's allocator gave out during some work, above what it had given out before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        kept = work()
    now = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most, now, kept


@pytest.mark.parametrize("keys", [{"roles": "lora"}, {"roles": "full"}, THRIFTY], ids=["lora", "full", "thrifty"])
def test_the_peak_of_a_step_is_the_allocators(keys, world, count):
    recipe = WorldRecipe.read(KEYS | keys)
    state = make_state(recipe, world, Brightness())
    for learner in (state.roles.generator, state.roles.assistant):
        ledger._fill(learner.optimizer)
    conditions = conditions_of(recipe, world, training_prompts(recipe))
    most, _, _ = allocated(lambda: list(post_train(state, recipe.method, conditions, **recipe.loop)))
    found = count(**keys)
    assert most == pytest.approx(found.peak - found.static, rel=0.02)
    assert most < 0.8 * (count(roles="lora").peak - count(roles="lora").static) or keys != THRIFTY, "control"


MARK = 54_321
"""Bytes that nothing else is as large as."""


class Marked(Tally):
    """Notes what is live after each operation, and leaves a mark among the allocator's events."""

    def __init__(self, device, grain):
        super().__init__(device, grain)
        self.after = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = super().__torch_dispatch__(func, types, args, kwargs)
        self.after.append(self.now)
        torch.empty(MARK, dtype=torch.uint8)
        return result


def test_after_every_operation_what_is_live_is_what_the_allocator_has_given_out(world):
    """Of a step with adapters and everything recomputed: a few thousand operations."""
    recipe = WorldRecipe.read(KEYS | THRIFTY | {"batch": 2})
    state = make_state(recipe, world, Brightness())
    for learner in (state.roles.generator, state.roles.assistant):
        ledger._fill(learner.optimizer)
    conditions = conditions_of(recipe, world, training_prompts(recipe))
    tally = Marked("cpu", grain=1)
    for name, tensors in ledger._held(world, state):
        tally.adopt(name, tensors)
    for learner in (state.roles.generator, state.roles.assistant):
        tally.adopt(
            "optimizer state", [tensor for kept in learner.optimizer.state.values() for tensor in kept.values()]
        )
    before = tally.now
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen, tally:
        list(post_train(state, recipe.method, conditions, **recipe.loop))
    now, given_out = 0, []
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            given_out += [now] if event.nbytes() == MARK else []
            now += event.nbytes()
    assert len(given_out) == len(tally.after) > 3000
    off = [abs(ours - before - theirs) for ours, theirs in zip(tally.after, given_out, strict=True)]
    assert max(off) < max(given_out) / 100, "but for numbers that autograd keeps, and what kernels work in"
    assert max(given_out) > 2**20, "control: there is something to be right about"


def test_what_a_forward_pass_leaves_is_what_the_allocator_has_given_out(unets):
    unet = unets.PromptedNetwork(unets.tiny(torch.float32))
    x, t, prompts = torch.zeros(2, *unets.latent_shape), torch.tensor([50, 700]), unets.prompts(2, torch.float32)
    unet(x, t, prompts)
    most, left, kept = allocated(lambda: unet(x, t, prompts))
    del kept
    tally = Tally("cpu", grain=1)
    tally.adopt("before", [*unet.parameters(), x, t, *prompts[:2]])
    before = tally.now
    with tally:
        tally.enter("forward")
        kept = unet(x, t, prompts)
    assert kept.requires_grad
    assert abs(tally.now - before - left) <= 512, "but for what kernels keep in tensors of their own"
    assert left > 2e5
    assert left <= tally.peaks["forward"] - before <= most


# What the ledger says.


def test_every_phase_has_bytes_and_flops_in_the_steps_order(count):
    found = count(**THRIFTY)
    assert tuple(found.peaks) == PHASES
    without_products = {"assistant: update", "generator: update", "reward"}
    assert {phase for phase, flops in found.flops.items() if flops} == set(PHASES) - without_products
    assert sum(found.at_peak.values()) == found.peak == max(found.peaks.values())
    assert found.samples == 4
    assert found.flops_per_sample == sum(found.flops.values()) / 4
    forward, full = found.flops["assistant: samples"], count(roles="full")
    assert found.flops["generator: samples"] == forward
    base = full.flops["assistant: samples"]
    assert full.flops["scores"] == 3 * base, "assistant, reference, null"
    assert found.flops["scores"] == forward + 2 * base, "of which only the assistant has an adapter"


@pytest.mark.parametrize(
    ("keys", "absent"),
    [
        ({"method": "reward-only"}, {phase for phase in PHASES if phase.startswith("assistant")} | {"scores"}),
        ({"method": "diff-instruct", "reward_scale": 0.0}, {"decoder", "reward", "pulls"}),
    ],
)
def test_a_method_has_the_phases_that_it_has_terms_for(keys, absent, count):
    assert set(PHASES) - set(count(**keys).peaks) == absent


def test_what_is_held_is_a_sum_over_shapes(world, count):
    def size(*modules):
        tensors = {id(t): t for module in modules for t in (*module.parameters(), *module.buffers())}
        return sum(t.numel() * t.element_size() for t in tensors.values())

    pipeline = world.pipeline
    unet = size(pipeline.unet)
    shared = {
        "reference": unet,
        "generator's start": unet,
        "autoencoder": size(pipeline.vae),
        "text encoders": size(pipeline.text_encoder, pipeline.text_encoder_2),
        "judge": 4,
    }
    full = count(roles="full", ema_decay=0.9)
    counters = 2 * 4 * len(list(pipeline.unet.parameters()))  # a number of updates for each tensor
    own = {"learning weights": 2 * unet, "averages": unet, "optimizer state": 4 * unet + counters}
    assert {name: full.held[name] for name in shared | own} == shared | own
    lora = count(**THRIFTY, ema_decay=0.0)
    rank = WorldRecipe.model_fields["rank"].default
    ends = ("to_q", "to_k", "to_v", "to_out.0")
    layers = [layer for name, layer in pipeline.unet.named_modules() if name.endswith(ends)]
    adapter = sum(4 * rank * sum(layer.weight.shape) for layer in layers)
    own = {"learning weights": 2 * adapter, "optimizer state": 2 * adapter + 2 * 4 * 2 * len(layers)}
    assert {name: lora.held[name] for name in shared | own} == shared | own
    assert "averages" not in lora.held
    assert lora.static == sum(lora.held.values())


def test_savings_save_what_they_should(count):
    lora, full = count(roles="lora"), count(roles="full")
    thrifty = count(**THRIFTY)
    assert thrifty.peak - thrifty.static < (lora.peak - lora.static) / 2
    assert lora.static < full.static / 2
    trained = full.held["learning weights"] // 2
    rms = count(roles="full", optimizer="rmsprop")
    assert full.held["optimizer state"] - rms.held["optimizer state"] == 2 * trained
    assert rms.flops == full.flops
    assert thrifty.flops_per_sample > 1.2 * lora.flops_per_sample
    one = count(roles="lora", micro_batch=2)
    assert one.peak - one.static < 0.6 * (lora.peak - lora.static)
    assert one.flops_per_sample == pytest.approx(lora.flops_per_sample)


def test_from_the_second_micro_batch_on_gradients_are_there(count):
    alone, more = count(roles="full", batch=2), count(roles="full", batch=8, micro_batch=2)
    assert more.samples == 4, "two micro-batches stand for all"
    gradients = more.held["learning weights"] // 2
    assert more.peaks["pulls"] - more.static - (alone.peaks["pulls"] - alone.static) == pytest.approx(
        gradients, rel=0.02
    )


def test_before_weights_are_read_it_says_the_same(folder, monkeypatch):
    """On the meta device from the configurations alone, against the CPU with the weights there."""
    found = find_pipeline(folder)
    model = found.load()

    def forbidden(*_, **__):
        raise AssertionError("a file of weights is read")

    monkeypatch.setattr(type(found), "load", forbidden)
    recipe = WorldRecipe.read(KEYS | THRIFTY | {"ema_decay": 0.0})
    prompts = ["a red circle", "a circle"]
    early = count_step(recipe, described_on_meta(found), Brightness().to("meta"), prompts, grain=1)
    late = count_step(recipe, TextToImage(model, copy.deepcopy(model.unet)), Brightness(), prompts, grain=1)
    assert early.peak == pytest.approx(late.peak, rel=0.01)
    assert early.flops_per_sample == pytest.approx(late.flops_per_sample, rel=0.01)
    assert early.held.keys() == late.held.keys()
    for name, size in late.held.items():
        assert early.held[name] == pytest.approx(size, rel=0.01), name
    assert F.scaled_dot_product_attention is torch._C._nn.scaled_dot_product_attention, "and attention is as it was"


def test_the_loop_is_as_it_was_when_counting_ends(world):
    recipe = WorldRecipe.read(KEYS | THRIFTY)
    state = make_state(recipe, world, Brightness())
    roles, entered = state.roles, []
    conditions = conditions_of(recipe, world, training_prompts(recipe))
    with phases_of(state, entered.append):
        list(post_train(state, recipe.method, conditions, **recipe.loop))
    seen = len(entered)
    assert tuple(dict.fromkeys(entered)) == PHASES
    assert state.roles is roles
    list(post_train(state, recipe.method, conditions, **recipe.loop | {"steps": 2}))
    assert len(entered) == seen


# One of several processes.


@pytest.mark.parametrize("rows", [1, 5, 8, 9])
@pytest.mark.parametrize("count", [2, 3, 8])
def test_a_part_is_the_first_of_torchs_chunks(rows, count):
    whole = torch.zeros(rows, 3)
    assert part_of(whole.shape, count) == tuple(whole.chunk(count)[0].shape)


def on_meta(world):
    model = copy.deepcopy(world)
    parts = model.pipeline
    for part in (model.unet, parts.unet, parts.vae, parts.text_encoder, parts.text_encoder_2):
        part.to("meta")
    return model


def test_what_is_spread_is_divided_and_the_rest_is_not(world):
    recipe = WorldRecipe.read(KEYS | THRIFTY | {"roles": "full", "ema_decay": 0.9, "batch": 2})
    prompts = ["a red circle"]

    def counted(recipe, processes):
        return count_step(recipe, on_meta(world), Brightness().to("meta"), prompts, processes=processes, grain=1)

    alone, one = counted(recipe, 1), counted(recipe, 4)
    unet = world.pipeline.unet
    parts = 4 * sum(-(-len(p) // 4) * p[0].numel() for p in unet.parameters())
    own = {"learning weights": 2 * parts, "averages": parts, "optimizer state": 2 * parts}
    assert {name: one.held[name] for name in own} == own
    shared = alone.held.keys() - own.keys()
    assert {name: one.held[name] for name in shared} == {name: alone.held[name] for name in shared}
    assert one.flops == alone.flops
    blocks = [sum(p.numel() for p in block.parameters()) for block in blocks_of(unet)]
    rest = sum(p.numel() for p in unet.parameters()) - sum(blocks)
    transit = 4 * rest + 12 * max(blocks)
    assert transit <= one.at_peak[TRANSIT] < 1.1 * transit, "two weights and a gradient of a block, and padding"
    assert one.peak < alone.peak, "control"
    assert (
        one.peaks["generator: update"] - one.static - one.at_peak[TRANSIT]
        < alone.peaks["generator: update"] - alone.static
    )
    with pytest.raises(ValueError, match="4 processes"):
        count_step(recipe, world, Brightness(), prompts, processes=4)
    lora = recipe.replace(roles="lora")
    assert counted(lora, 4) == counted(lora, 1)


# Whether it fits.


RMS, DECODER = {"optimizer": "rmsprop"}, {"checkpoint_decoder": True}
ALL = RMS | DECODER | {"checkpoint_unets": True, "micro_batch": 1, "roles": "lora"}


def test_what_does_not_fit_is_refused_with_settings_that_would(world, tmp_path):
    recipe = WorldRecipe.read(KEYS | {"method": "reward-only", "roles": "full", "ema_decay": 0.0})
    cache = tmp_path / "cache.safetensors"
    recipe = recipe.replace(prompt_cache=str(cache))
    prompts, reward = training_prompts(recipe), Brightness()
    need = count_step(recipe, world, reward, prompts).need
    assert require_fit(recipe, world, reward, prompts, memory=need).need == need
    with pytest.raises(DoesNotFitError, match="optimizer: rmsprop") as refused:
        require_fit(recipe, world, reward, prompts, memory=need - 1)
    assert isinstance(refused.value, DistarError)
    assert (refused.value.need, refused.value.memory, refused.value.changes) == (need, need - 1, RMS)
    assert count_step(recipe.replace(**RMS), world, reward, prompts).need < need
    assert not cache.exists(), "counting leaves nothing behind"


@pytest.mark.parametrize(
    ("memory", "keys", "changes"),
    [
        (70, {}, RMS | DECODER),
        (60, {}, RMS | DECODER | {"checkpoint_unets": True}),
        (50, {}, RMS | DECODER | {"checkpoint_unets": True, "micro_batch": 1}),
        (30, {}, ALL),
        (29, {}, None),
        (70, RMS, DECODER),
        (29, {"roles": "lora"}, None),
    ],
)
def test_savings_are_tried_from_the_cheapest_on(memory, keys, changes, monkeypatch):
    """With round numbers in place of counted ones: each saving needs ten bytes less, LoRA twenty."""

    def counted(recipe, *_, micro_batch, processes):
        done = [key for key, value in ALL.items() if (recipe.written | {"micro_batch": micro_batch})[key] == value]
        return Ledger({}, {"scores": 90 - 10 * len(done) - 10 * ("roles" in done)}, {}, {}, 1)

    monkeypatch.setattr(ledger, "CONTEXT", 0)
    monkeypatch.setattr(ledger, "SCRATCH", 0)
    monkeypatch.setattr(ledger, "count_step", counted)
    recipe = WorldRecipe.read(KEYS | {"roles": "full"} | keys)
    with pytest.raises(DoesNotFitError) as refused:
        require_fit(recipe, None, None, [], memory=memory)
    assert refused.value.changes == changes


def test_a_recorded_step_has_reserves_of_its_own(monkeypatch):
    """Gradients stay where they are, and a recording takes a pool for what comes and goes."""
    monkeypatch.setattr(ledger, "CONTEXT", 7)
    monkeypatch.setattr(ledger, "BESIDE", 5)
    recorded = Ledger({"weights": 100}, {"scores": 200}, {}, {}, 1, lent=40)
    assert recorded.need == 100 + 40 + int(ledger.POOL * 60) + 7 + 5
    assert recorded._replace(lent=None).need == 200 + 7 + int(ledger.SCRATCH * 100)

    def counted(recipe, *_, micro_batch, processes):
        return recorded if recipe.cuda_graphs else recorded._replace(lent=None)

    monkeypatch.setattr(ledger, "count_step", counted)
    recipe = WorldRecipe.read(KEYS | {"cuda_graphs": True})
    with pytest.raises(DoesNotFitError) as refused:
        require_fit(recipe, None, None, [], memory=240)
    assert refused.value.changes == {"cuda_graphs": False}
    assert require_fit(recipe, None, None, [], memory=recorded.need) == recorded
