"""Networks in narrow types: what crosses their borders and what learns is float32, and the gradients are those of float32."""

import copy
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distar_core.roles import Trainable
from distar_core.sdxl import post_training
from distar_core.sdxl.adapters import add_lora
from distar_core.sdxl.post_training import make_state, run_recipe
from distar_core.world.models import load_world
from distar_core.world.recipe import WorldRecipe

LEARNERS = ("generator", "assistant")


@pytest.fixture(scope="module")
def measured():
    """What half_precision.py prints, on kernels that need no AMX, whose bfloat16 ends a program on some CPUs that list it."""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}
    script = Path(__file__).with_name("half_precision.py")
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    if done.returncode == -signal.SIGILL:
        pytest.skip("this CPU ends a program that computes in bfloat16 (illegal instruction)")
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize(("dtype", "least"), [("bfloat16", 0.99), ("float16", 0.999)])
def test_gradients_in_narrow_types_point_where_those_in_float32_do(measured, dtype, least):
    for name in ("gradient 0", "gradient 1", "pull through the decoder"):
        assert least < measured[dtype][f"cosine of {name}"] < 1 - 1e-9, name
    assert measured["float32"]["cosine of two batches"] < 0.9, "control: gradients of two batches are far apart"


def test_what_crosses_the_borders_and_what_learns_is_float32(measured):
    for dtype in ("bfloat16", "float16"):
        row = measured[dtype]
        assert row["computed in"] == f"torch.{dtype}"
        assert row["gradients in"] == "torch.float32"
        for what in ("pulls in", "trained in", "optimizer in", "averages in"):
            assert row[what] == ["torch.float32"], what


@pytest.mark.parametrize("roles", ["lora", "full"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_weights_that_learn_are_at_least_float32(roles, dtype):
    world = load_world(dtype=dtype)
    state = make_state(WorldRecipe.read({"roles": roles, "ema_decay": 0.5}), world)
    wide = torch.promote_types(dtype, torch.float32)
    for name in LEARNERS:
        learner = getattr(state.roles, name)
        assert {p.dtype for p in learner.parameters().values()} == {wide}
        assert {value.dtype for value in learner.ema.values()} <= {wide}
    assert {p.dtype for p in state.roles.reference.parameters()} == {dtype}
    assert world.unet.dtype == dtype, "the model is as it was"
    if roles == "lora":
        network = state.roles.generator.module.network.unet
        assert {p.dtype for p in network.parameters() if not p.requires_grad} == {dtype}
        assert network.dtype == dtype, "which is the type that inputs are cast to"


def moved(network, rate):
    """How far Adam's first step at a rate moves a network's trainable weights, on the average, over the rate."""
    trained = [p for p in network.parameters() if p.requires_grad]
    before = [p.detach().clone().double() for p in trained]
    learner = Trainable(network, torch.optim.Adam(trained, lr=rate, betas=(0.0, 0.99)))
    for p in trained:
        p.grad = torch.ones_like(p)
    learner.update(0)
    steps = torch.cat([(p.detach().double() - b).abs().flatten() for p, b in zip(trained, before, strict=True)])
    return float(steps.mean()) / rate


def test_steps_of_the_rate_at_which_sdxl_learns_are_not_rounded_away():
    """DMD2 trains SDXL at 5e-7; the spacing of bfloat16 at .02, a usual weight, is 1.2e-4."""
    world = load_world(dtype=torch.bfloat16)
    recipe = WorldRecipe.read({"roles": "full"})
    copied = make_state(recipe, world).roles.generator.module.network.unet
    assert 0.9 < moved(copied, 5e-7) < 1.1
    assert moved(copy.deepcopy(world.unet).requires_grad_(True), 5e-7) < 0.1, "control: without masters in float32"


def test_an_adapter_starts_the_same_on_a_base_of_any_type(unets):
    def begun(dtype):
        network = add_lora(unets.tiny(dtype), rank=2, seed=3)
        return {name: p for name, p in network.named_parameters() if p.requires_grad}

    wanted = begun(torch.float32)
    for dtype, tolerance in ((torch.bfloat16, 5e-3), (torch.float16, 1e-3), (torch.float64, 0)):
        for name, p in begun(dtype).items():
            torch.testing.assert_close(p.float(), wanted[name], rtol=tolerance, atol=0)


def test_the_log_is_told_below_which_size_a_gap_is_rounding(monkeypatch, tmp_path):
    """About 1 % of ‖eps‖, √256 here; nothing is said where float32 has digits enough."""
    handed = []
    monkeypatch.setattr(post_training, "run", lambda *_, gap_floor, **__: handed.append(gap_floor) or iter(()))
    recipe = WorldRecipe.read({"steps": 1})
    for dtype, part in ((torch.bfloat16, 0.01), (torch.float16, 0.001), (torch.float32, None), (torch.float64, None)):
        world = load_world(dtype=dtype)
        assert list(run_recipe(recipe, world, make_state(recipe, world), ["a circle"], tmp_path)) == []
        assert handed.pop() == (part and pytest.approx(16 * part, rel=0.3))
