"""The walking skeleton to SDXL: a tiny network of SDXL's kind plays all three roles under the unchanged core.

Twice, as in the recipes: LoRAs on tied clones of one base, and full copies. The gradients of the loop, which cuts the
graph at x_t and x_0, are held to plain joint autograd through three separate networks without any adapter, into which
the LoRAs are merged here by hand, W + (alpha/rank) B A.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from distar_core import METHODS, Method, NetworkScore, OneStep, Roles, State, TimeLaw, Trainable, post_train
from distar_core.losses import Noised, Scores, cfg_reward
from distar_core.roles import ProxyTilt, Recomputed, guided
from distar_core.training import generator_step, make_batch

BATCH, STEPS, SEED = 2, 3, 17
LEVELS = TimeLaw.levels(range(20, 980))
# DIDR with the exact tilt needs a reference that is a formula; test_exact_tilt_of_a_network_is_refused covers it.
NETWORK_METHODS = [name for name in METHODS if name != "didr"]


def darkness(x0: Tensor, condition: Any) -> Tensor:
    """A bounded reward on latents, with a gradient that is zero nowhere that matters: [B, ...] -> [B]."""
    return -(x0 - 0.5).tanh().square().flatten(1).mean(1)


def for_network(name: str, guidance: str | None = None) -> Method:
    """A row of the table with the times that the network knows, and guidance on wherever the row has any."""
    method = replace(METHODS[name], time_law=LEVELS, assistant_time_law=LEVELS)
    guidance = guidance or method.guidance
    return replace(method, guidance=guidance, cfg_scale=0.0 if guidance == "none" else 1.5)  # type: ignore[arg-type]


def conditions_of(unets: SimpleNamespace, dtype: torch.dtype = torch.float64) -> Any:
    """Prompts by position, as the loop asks for them."""
    prompts = unets.prompts(7, dtype)

    def conditions(step: int, rows: slice) -> Any:
        index = (torch.arange(rows.start, rows.stop) + max(step, 0)) % 7
        return unets.Prompt(prompts.text[index], prompts.pooled[index])

    return conditions


def start(cast: Any, unets: SimpleNamespace, *, recomputed: bool = False) -> State:
    generator, assistant, reference = cast.generator, cast.assistant, cast.reference
    optimizers = [unets.adam(generator, 1e-3), unets.adam(assistant, 1e-3)]
    if recomputed:
        generator, assistant, reference = (Recomputed(role) for role in (generator, assistant, reference))
    roles = Roles(Trainable(generator, optimizers[0]), reference, Trainable(assistant, optimizers[1]), darkness)
    return State(roles, cast.generator.schedule, place=unets.to_double)


def values(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def check_movement(module: nn.Module, before: dict[str, Tensor], *, learns: bool) -> None:
    """Every trainable tensor has moved if the role learns; all others are the same to the last bit."""
    for name, p in module.named_parameters():
        assert torch.equal(p, before[name]) != (learns and p.requires_grad), name


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize(
    ("name", "guidance"),
    [
        *[(name, None) for name in NETWORK_METHODS],
        ("diff-instruct", "outside"),
        ("dmd", "outside"),
        ("diff-instruct", "none"),
        ("diff-instruct*", "none"),
        ("reward-only", "outside"),
    ],
)
def test_three_steps_of_every_method(name: str, guidance: str | None, kind: str, unets: SimpleNamespace) -> None:
    method = for_network(name, guidance)
    cast = unets.cast(kind)
    # The copy lets the shared base be compared with what it was even if a role replaced one of its tensors.
    base, reference = values(cast.base), values(cast.reference)
    generator, assistant = values(cast.generator), values(cast.assistant)
    state = start(cast, unets)
    records = list(
        post_train(state, method, conditions_of(unets), steps=STEPS, seed=SEED, batch=BATCH, warmup=1, micro_batch=1)
    )

    assert [record.step for record in records] == [-1, 0, 1, 2]
    for record in records[1:]:
        assert record.t.dtype == torch.int64
        terms = {term for term in record.losses if term != "assistant"}
        expected = {
            "regularizer": method.regularizer is not None,
            "cfg": method.guidance == "outside",
            "reward": method.reward_at == "sample",
        }
        assert terms == {term for term, present in expected.items() if present} == set(record.pull_norms)
        for value in [*record.losses.values(), *record.pull_norms.values()]:
            assert value.shape == (BATCH,)
            assert bool(value.isfinite().all())
    check_movement(cast.base, base, learns=False)
    check_movement(cast.reference, reference, learns=False)
    check_movement(cast.generator, generator, learns=True)
    check_movement(cast.assistant, assistant, learns=method.regularizer is not None)


def test_the_base_is_stored_once(unets: SimpleNamespace) -> None:
    cast = unets.cast("lora")
    shared = {p.data_ptr() for p in cast.base.parameters()}
    for role in (cast.generator, cast.assistant, cast.reference):
        frozen = [p for p in role.parameters() if not p.requires_grad]
        assert {p.data_ptr() for p in frozen} == shared
    adapters = [
        {p.data_ptr() for p in role.parameters() if p.requires_grad} for role in (cast.generator, cast.assistant)
    ]
    assert adapters[0]
    assert not adapters[0] & adapters[1]
    assert not (adapters[0] | adapters[1]) & shared
    assert not any("lora" in name for name, _ in cast.reference.named_parameters())
    # Control: full copies share nothing.
    full = unets.cast("full")
    assert not {p.data_ptr() for p in full.generator.parameters()} & {p.data_ptr() for p in full.base.parameters()}


def test_the_generator_runs_at_the_integer_time_399(unets: SimpleNamespace) -> None:
    seen = []
    cast = unets.cast("lora")
    cast.generator.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    cast.generator(torch.zeros(2, *unets.latent_shape, dtype=torch.float64), None)
    assert torch.equal(seen[0], torch.tensor([399, 399]))
    assert seen[0].dtype == torch.int64


def test_exact_tilt_of_a_network_is_refused(unets: SimpleNamespace) -> None:
    state = start(unets.cast("lora"), unets)
    method = for_network("didr")
    with pytest.raises(TypeError, match=r"NetworkScore has no closed-form tilt; use the method 'didr-proxy'"):
        list(post_train(state, method, conditions_of(unets), steps=1, seed=SEED, batch=BATCH))


# Gradients against three separate networks.


def merged(base: nn.Module, clone: nn.Module, adapter: dict[str, Tensor] | None = None) -> nn.Module:
    """A full copy of `base` with the LoRA of `clone` added to its weights; no adapter code runs in the result.

    Args:
        adapter: other values for the LoRA's parameters, by name.
    """
    network = copy.deepcopy(base)
    weights = {**values(clone), **(adapter or {})}
    with torch.no_grad():
        for name, scaling in lora_layers(clone):
            down, up = weights[f"{name}.lora_A.default.weight"], weights[f"{name}.lora_B.default.weight"]
            network.get_submodule(name).weight.add_(scaling * up @ down)
    return network.requires_grad_(True)


def lora_layers(unet: nn.Module) -> Iterator[tuple[str, float]]:
    """Name and alpha/rank of each layer with a LoRA."""
    for name, module in unet.named_modules():
        if hasattr(module, "lora_A"):
            yield name, module.scaling["default"]


class Separate(NamedTuple):
    """Three networks that share nothing."""

    generator: nn.Module
    assistant: nn.Module
    reference: nn.Module


def separate_copies(cast: Any, kind: str) -> Separate:
    generator, assistant, reference = (role.network.unet for role in (cast.generator, cast.assistant, cast.reference))
    if kind == "full":
        return Separate(*(copy.deepcopy(unet).requires_grad_(True) for unet in (generator, assistant, reference)))
    return Separate(merged(cast.base, generator), merged(cast.base, assistant), copy.deepcopy(reference))


def joint_gradients(networks: Separate, state: State, method: Method, batch: Any, wrap: Any) -> dict[str, Tensor]:
    """One graph from z to the mean of the whole loss, nothing cut, and one backward pass through all of it."""
    schedule = state.schedule
    generate = OneStep(wrap(networks.generator), schedule, "eps", 399, (4, 8, 8))
    assistant = NetworkScore(wrap(networks.assistant), schedule, "eps")
    reference: Any = NetworkScore(wrap(networks.reference), schedule, "eps")
    x0 = generate(batch.z, batch.condition)
    noise = batch.noise(x0)
    alpha, sigma = schedule.coefficients(batch.t, x0)
    x_t = alpha * x0 + sigma * noise
    noised = Noised(x0, x_t, noise, batch.t, alpha, sigma)
    plain, null = reference(x_t, batch.t, batch.condition), reference(x_t, batch.t, None)
    target = plain
    if method.reward_at == "every_level_by_proxy":
        target = ProxyTilt(reference, darkness, method.reward_scale, schedule)(x_t, batch.t, batch.condition)
    if method.guidance == "inside":
        # the guidance of the plain reference; the reward's score counts once
        target = target + guided(plain, null, method.cfg_scale) - plain
    scores = Scores(assistant(x_t, batch.t, batch.condition), target, null)
    loss = torch.zeros(len(x0), dtype=x0.dtype)
    weight = method.weight(noised, scores).detach()
    if method.regularizer is not None:
        loss = loss + weight * method.loss(noised, scores)
    if method.guidance == "outside":
        loss = loss + method.cfg_scale * weight * cfg_reward(noised, scores)
    if method.reward_at == "sample":
        loss = loss - method.reward_scale * darkness(x0, batch.condition)
    named = dict(networks.generator.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss.mean(), list(named.values())), strict=True))


def as_role_gradients(full: dict[str, Tensor], role: nn.Module) -> dict[str, Tensor]:
    """Gradients by the names of the role: for a LoRA dA = scaling Bᵀ dW and dB = scaling dW Aᵀ."""
    parameters = values(role)
    result = {}
    for name, scaling in lora_layers(role):
        d_weight = full[f"{name}.weight"]
        down, up = f"{name}.lora_A.default.weight", f"{name}.lora_B.default.weight"
        result[down] = scaling * parameters[up].mT @ d_weight
        result[up] = scaling * d_weight @ parameters[down].mT
    return result or full


def relative_error(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Largest ‖a − b‖/‖b‖ over the tensors, and no tensor may be missing."""
    assert a.keys() == b.keys()
    assert a
    return max(float((a[name] - b[name]).norm() / b[name].norm()) for name in a)


def loop_gradients(cast: Any, method: Method, unets: SimpleNamespace, *, recomputed: bool) -> tuple[Any, State, Any]:
    """What generator_step leaves in the generator's trainable parameters, and what it was computed from."""
    state = start(cast, unets, recomputed=recomputed)
    state.roles.generator.module.zero_grad()
    batch = make_batch(
        state,
        method.time_law,
        conditions_of(unets),
        seed=SEED,
        step=1,
        stream="generator",
        batch=BATCH,
        rows=slice(0, BATCH),
    )
    generator_step(state, method, batch)
    unet = cast.generator.network.unet
    gradients = {name: p.grad for name, p in unet.named_parameters() if p.requires_grad}
    for role in (cast.assistant, cast.reference, cast.base):
        assert all(p.grad is None for p in role.parameters())
    return gradients, state, batch


def set_block_checkpointing(cast: Any) -> None:
    for role in (cast.generator, cast.assistant, cast.reference):
        role.network.unet.enable_gradient_checkpointing()


@pytest.fixture(scope="module")
def prepared(unets: SimpleNamespace) -> Any:
    """(kind, blocks) -> roles and three separate networks, built once: the gradient tests change no weight of theirs."""
    known: dict[tuple[str, bool], tuple[Any, Separate]] = {}

    def prepare(kind: str, blocks: bool = False) -> tuple[Any, Separate]:
        if (kind, blocks) not in known:
            cast = unets.cast(kind, random=True)
            known[kind, blocks] = cast, separate_copies(cast, kind)
            if blocks:
                set_block_checkpointing(cast)
        return known[kind, blocks]

    return prepare


@pytest.mark.parametrize(
    ("kind", "blocks", "recomputed"),
    [
        ("lora", False, False),
        ("lora", True, False),
        ("lora", False, True),
        ("lora", True, True),
        ("full", False, False),
        ("full", True, True),
    ],
)
@pytest.mark.parametrize("name", NETWORK_METHODS)
def test_gradients_equal_those_of_three_separate_networks(
    name: str, kind: str, blocks: bool, recomputed: bool, prepared: Any, unets: SimpleNamespace
) -> None:
    method = for_network(name)
    cast, networks = prepared(kind, blocks)
    gradients, state, batch = loop_gradients(cast, method, unets, recomputed=recomputed)
    joint = joint_gradients(networks, state, method, batch, unets.PromptedNetwork)
    truth = as_role_gradients(joint, cast.generator.network.unet)
    assert all(float(gradient.norm()) > 0 for gradient in truth.values())
    assert relative_error(gradients, truth) < 1e-10


def after_three_steps(cast: Any, name: str, unets: SimpleNamespace, *, recomputed: bool = False) -> dict[str, Tensor]:
    state = start(cast, unets, recomputed=recomputed)
    before = {role: values(getattr(cast, role).network.unet) for role in ("generator", "assistant")}
    for _ in post_train(state, for_network(name), conditions_of(unets), steps=STEPS, seed=SEED, batch=BATCH):
        pass
    found = {}
    for role in ("generator", "assistant"):
        for key, p in getattr(cast, role).network.unet.named_parameters():
            if p.requires_grad:
                assert not torch.equal(p, before[role][key]), key
                found[f"{role}.{key}"] = p.detach()
    return found


@pytest.mark.parametrize("name", ["diff-instruct++", "diff-instruct*", "didr-proxy"])
def test_tied_clones_with_checkpointing_end_where_untied_copies_without_do(name: str, unets: SimpleNamespace) -> None:
    tied = unets.cast("lora", random=True)
    untied, other = (tied._replace(**{r: copy.deepcopy(getattr(tied, r)) for r in tied._fields}) for _ in range(2))
    storages = [{p.data_ptr() for p in role.parameters()} for role in untied]
    assert not storages[1] & storages[2]
    set_block_checkpointing(tied)
    found = after_three_steps(tied, name, unets, recomputed=True)
    assert relative_error(found, after_three_steps(untied, name, unets)) < 1e-10
    # Control: an assistant whose adapter differs by a thousandth ends elsewhere.
    with torch.no_grad():
        for key, p in other.assistant.network.unet.named_parameters():
            if "lora_B" in key:
                p.mul_(1.001)
    assert relative_error(found, after_three_steps(other, name, unets)) > 1e-5


@pytest.mark.parametrize("name", ["diff-instruct", "diff-instruct*", "didr-proxy"])
@pytest.mark.parametrize("wrong", ["perturbed", "generator's", "none"])
def test_control_another_adapter_of_the_assistant_shows(
    name: str, wrong: str, prepared: Any, unets: SimpleNamespace
) -> None:
    method = for_network(name)
    cast, networks = prepared("lora")
    adapter = {key: p for key, p in values(cast.assistant.network.unet).items() if "lora_" in key}
    if wrong == "perturbed":
        adapter = {key: p * (1 + 1e-3) for key, p in adapter.items()}
    elif wrong == "generator's":
        adapter = {key: values(cast.generator.network.unet)[key] for key in adapter}
    else:
        adapter = {key: torch.zeros_like(p) for key, p in adapter.items()}
    gradients, state, batch = loop_gradients(cast, method, unets, recomputed=False)
    networks = networks._replace(assistant=merged(cast.base, cast.assistant.network.unet, adapter))
    joint = joint_gradients(networks, state, method, batch, unets.PromptedNetwork)
    error = relative_error(gradients, as_role_gradients(joint, cast.generator.network.unet))
    assert error > (1e-5 if wrong == "perturbed" else 1e-2)


@pytest.mark.parametrize("name", ["sim", "diff-instruct*"])
def test_control_without_the_path_through_the_assistant_it_fails(
    name: str, prepared: Any, unets: SimpleNamespace
) -> None:
    """The exact form differentiates both scores; an assistant without a graph makes another method."""
    method = for_network(name)
    cast, networks = prepared("lora")

    class Detached(nn.Module):
        def __init__(self, unet: nn.Module) -> None:
            super().__init__()
            self.network = unets.PromptedNetwork(unet)
            self.live = unet is not networks.assistant

        def forward(self, x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
            return self.network(x_t if self.live else x_t.detach(), t, condition)

    gradients, state, batch = loop_gradients(cast, method, unets, recomputed=False)
    joint = joint_gradients(networks, state, method, batch, Detached)
    assert relative_error(gradients, as_role_gradients(joint, cast.generator.network.unet)) > 1e-2


@pytest.mark.parametrize("blocks", [False, True])
def test_a_reference_left_in_training_mode_has_no_dropout_and_keeps_its_checkpointing(
    blocks: bool, unets: SimpleNamespace
) -> None:
    """Its dropout would make s_c − s_null another direction at every call, off by more than its length."""
    put = unets.cast("full", random=True)
    left = put._replace(**{role: copy.deepcopy(getattr(put, role)) for role in put._fields})
    for cast in (put, left):
        for module in cast.reference.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.1
    put.reference.eval()
    left.reference.train()
    runs = []
    if blocks:
        left.reference.network.unet.enable_gradient_checkpointing()
    layer = left.reference.network.unet.get_submodule("down_blocks.1.attentions.0.transformer_blocks.0")
    layer.register_forward_pre_hook(lambda module, inputs: runs.append(torch.is_grad_enabled()))

    prompts = unets.prompts(BATCH)
    x_t = torch.randn(BATCH, *unets.latent_shape, generator=torch.Generator().manual_seed(0)).double()
    t = torch.full((BATCH,), 500)
    with torch.no_grad():
        true, noisy = (role(x_t, t, prompts) - role(x_t, t, None) for role in (put.reference, left.reference))
    assert float((noisy - true).norm() / true.norm()) > 1
    runs.clear()
    assert relative_error(after_three_steps(left, "sim", unets), after_three_steps(put, "sim", unets)) < 1e-10
    # the conditional and the null score in each step, and both once more in its backward pass
    assert len(runs) == STEPS * 2 * (2 if blocks else 1)


@pytest.mark.parametrize(("blocks", "recomputed", "runs"), [(False, False, 1), (True, False, 2), (False, True, 2)])
def test_recomputation_really_happens(blocks: bool, recomputed: bool, runs: int, unets: SimpleNamespace) -> None:
    """Otherwise the equalities above would compare joint autograd with itself."""
    cast = unets.cast("lora", random=True)
    if blocks:
        set_block_checkpointing(cast)
    counts = {"generator": 0, "assistant": 0}
    for role in counts:
        layer = getattr(cast, role).network.unet.get_submodule("down_blocks.1.attentions.0.transformer_blocks.0")

        def count(module: nn.Module, inputs: Any, role: str = role) -> None:
            counts[role] += 1

        layer.register_forward_pre_hook(count)
    loop_gradients(cast, for_network("diff-instruct*"), unets, recomputed=recomputed)
    assert counts == {"generator": runs, "assistant": runs}
