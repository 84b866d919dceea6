"""What post-training SDXL costs: counts against hand computations, the clock on the world, and a step by hand against the loop."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from distar_core import probes
from distar_core.cli.main import app
from distar_core.evaluation.tables import markdown_table
from distar_core.lab import bench_sdxl, clock
from distar_core.lab.bench_sdxl import (
    DRAWS,
    Drawn,
    count_reward,
    facts,
    plain_step,
    tables,
    time_step,
)
from distar_core.rewards.published import PUBLISHED
from distar_core.rewards.shapes import reward_on_meta
from distar_core.sdxl.ledger import count_step
from distar_core.sdxl.phases import PHASES
from distar_core.sdxl.post_training import conditions_of, make_state
from distar_core.training import make_batch, post_train
from distar_core.world.judges import load_judges
from distar_core.world.models import load_world
from distar_core.world.recipe import WorldRecipe, training_prompts

RECIPE = WorldRecipe.read({"roles": "lora", "batch": 2, "prompts": 4, "ema_decay": 0.9, "checkpoint_unets": True})
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def world():
    return load_world()


@pytest.fixture(scope="module")
def timed(world):
    return time_step(RECIPE, world, load_judges().preference, training_prompts(RECIPE), rounds=1, size=32)


@pytest.fixture(scope="module")
def counted(world):
    """The world's facts in place of SDXL's."""
    ledger = count_step(RECIPE, world, load_judges().preference, training_prompts(RECIPE))
    once = count_step(RECIPE.replace(checkpoint_unets=False), world, load_judges().preference, training_prompts(RECIPE))
    return ledger, once


# Counts.


def test_a_rewards_flops_by_hand():
    """PickScore's network: a layer of width w on L tokens has 12 w² weights in its products, two FLOPs each and token, and
    attention, 4 L² w. Backward to the picture the products are as many again, and attention two and a half times as many.
    """

    def layers(depth, tokens, width):
        return depth * 2 * tokens * 12 * width**2, depth * 4 * tokens**2 * width

    products, attention = layers(32, 1 + 16**2, 1280)
    products += 2 * 16**2 * (3 * 14**2) * 1280 + 2 * 1280 * 1024
    words = sum(layers(24, 77, 1024)) + 2 * 1024 * 1024
    found = count_reward(reward_on_meta("pickscore"))
    assert found.value == products + attention + words
    assert found.gradient == products + 5 * attention // 2
    assert found.held == pytest.approx(4 * found.parameters, rel=1e-3)
    picture_and_gradient = 2 * 4 * 3 * 1024**2
    assert found.peak > found.held + picture_and_gradient


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_reward_has_an_architecture_with_a_gradient(name):
    recorded = json.loads((ROOT / "notebooks" / "records" / "sdxl_costs.json").read_text("utf-8"))["rewards"][name]
    found = count_reward(reward_on_meta(name), pixels=256)
    assert found.parameters == recorded["parameters"]
    assert (found.value, found.gradient) == (recorded["value"], recorded["gradient"]), (
        "any picture is resized to one size"
    )
    assert found.peak < recorded["peak"]


def test_a_reward_that_is_not_published_has_no_architecture():
    with pytest.raises(ValueError, match="nice"):
        reward_on_meta("nice")


def test_in_true_size_the_algorithm_itself_takes_less_than_what_is_executed():
    """Without recomputation; test_ledger.py counts what is executed, and holds it to a GPU's record."""
    recorded = json.loads((ROOT / "notebooks" / "records" / "sdxl_costs.json").read_text("utf-8"))["settings"]["LoRA"]
    found = bench_sdxl.count(**bench_sdxl.SETTINGS["LoRA"], **bench_sdxl.ONCE)
    assert found.flops == pytest.approx(recorded["flops_once"], rel=0.01)
    assert found.peak == pytest.approx(recorded["peak_once"], rel=0.01)


def test_the_page_has_the_recorded_tables():
    page = (ROOT / "docs" / "sdxl_costs.md").read_text("utf-8")
    recorded = json.loads((ROOT / "notebooks" / "records" / "sdxl_costs.json").read_text("utf-8"))
    for cells in tables(recorded).values():
        assert markdown_table(cells) in page


# The clock.


def test_seconds_by_phase_run_from_mark_to_mark(monkeypatch):
    now = iter([0.0, 1.0, 3.0, 6.0, 7.0, 9.0])
    monkeypatch.setattr(probes.time, "perf_counter", lambda: next(now))
    watch = probes.Clock(torch.device("cpu"))
    for phase in ("a", "b", "a"):
        watch.enter(phase)
    assert watch.seconds() == {"a": 1.0 + 3.0, "b": 2.0}
    watch.enter("c")
    assert watch.seconds() == {"c": 2.0}, "what was said is not said again"


def test_the_rate_is_the_flops_of_the_products_over_their_seconds(monkeypatch):
    monkeypatch.setattr(clock, "seconds_on", lambda device, action: 0.5)
    assert clock.matrix_rate(torch.device("cpu"), size=8, products=3) == 3 * 2 * 8**3 / 0.5


def test_on_a_cpu_a_call_is_made_and_has_no_peaks():
    made = []
    assert clock.peaks_of(torch.device("cpu"), lambda: made.append(1)) is None
    assert made == [1]


@pytest.mark.gpu
def test_on_a_gpu_the_allocator_and_its_events_are_read():
    device = torch.device("cuda")
    watch, held = probes.Clock(device), torch.zeros(2**20, device=device)
    peaks = clock.peaks_of(device, lambda: torch.zeros(2**22, device=device))
    assert 4 * (2**20 + 2**22) <= peaks.allocated <= peaks.reserved
    watch.enter("sum")
    held.sum()
    assert watch.seconds()["sum"] > 0


def test_every_phase_of_a_step_is_timed(timed):
    assert tuple(timed.phases) == (DRAWS, *PHASES)
    assert all(seconds > 0 for seconds in (*timed.phases.values(), timed.loop, timed.plain, timed.rate))
    assert timed.finite
    assert timed.loop_peaks is timed.plain_peaks is None


def motion_of(recipe, world, step):
    """How generator, its averages and assistant move in a step, by plain gradient descent."""
    state = make_state(recipe, world, load_judges().preference)
    generator, assistant = state.roles.generator, state.roles.assistant
    for learner in (generator, assistant):
        learner.optimizer = torch.optim.SGD(learner.parameters().values(), lr=1e-4)
        learner.lr = None

    def now():
        parts = generator.parameters(), generator.ema, assistant.parameters()
        return [torch.cat([value.detach().flatten() for value in part.values()]) for part in parts]

    start = now()
    step(state, conditions_of(recipe, world, training_prompts(recipe)))
    return [after - before for before, after in zip(start, now(), strict=True)]


def by_loop(state, conditions):
    list(post_train(state, RECIPE.method, conditions, **RECIPE.loop | {"steps": 1, "warmup": 0}))


def by_hand(recipe, world):
    def step(state, conditions):
        rows = slice(0, RECIPE.batch)

        def drawn(stream, law):
            batch = make_batch(
                state, law, conditions, seed=RECIPE.seed, step=0, stream=stream, batch=RECIPE.batch, rows=rows
            )
            return Drawn(batch.z, batch.t, batch.noise(batch.z))

        first = drawn("assistant/0", RECIPE.method.assistant_time_law)
        second = drawn("generator", RECIPE.method.time_law)
        plain_step(state, recipe, world, conditions(0, rows), first, second)

    return step


def off(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


def test_a_step_by_hand_moves_what_the_loop_moves(world):
    wanted = motion_of(RECIPE, world, by_loop)
    found = motion_of(RECIPE, world, by_hand(RECIPE, world))
    assert all(off(*pair) < 2e-5 for pair in zip(found, wanted, strict=True))
    for change in ({"cfg_scale": 4.0}, {"reward_scale": 0.6}, {"huber_c": 16.0}):
        other = motion_of(RECIPE, world, by_hand(RECIPE.replace(**change), world))
        assert off(other[0], wanted[0]) > 5e-2, f"control: {change}"


def test_a_step_by_hand_is_that_of_one_method(world):
    recipe = WorldRecipe.read({"roles": "lora", "batch": 2, "prompts": 4, "method": "diff-instruct++"})
    state = make_state(recipe, world, load_judges().preference)
    with pytest.raises(ValueError, match=r"not for diff-instruct\+\+"):
        plain_step(state, recipe, world, None, None, None)


# The command.


def test_the_command_shows_tables_and_writes_what_they_are_made_of(monkeypatch, tmp_path, counted):
    ledger, once = counted
    monkeypatch.setattr(bench_sdxl, "count", lambda checkpoint_unets=True, **_: ledger if checkpoint_unets else once)
    monkeypatch.setattr(bench_sdxl, "PUBLISHED", ["laion-aesthetic"])
    result = CliRunner().invoke(app, ["bench", "sdxl", "--out", str(tmp_path / "costs.json")])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "costs.json").read_text("utf-8"))
    assert found["settings"]["LoRA"] == facts(ledger, once)
    assert sum(found["settings"]["LoRA"]["flops"].values()) == ledger.flops_per_sample
    assert sum(once.flops.values()) < sum(ledger.flops.values())
    assert found["made"]["with"]["torch"] == version("torch")
    for title in tables(found):
        assert title in result.stdout
    for phase in PHASES:
        assert phase in result.stdout


def test_measured_seconds_stand_beside_counted_flops(timed, counted):
    card = {"name": "a card", "memory": 2**34}
    small, large = facts(*counted), facts(*counted) | {"need": 2**35}
    found = {
        "settings": {"one": small, "other": large},
        "rewards": {},
        "card": card,
        "seconds": {"one": timed._asdict() | {"loop_peaks": [2**30, 2**31], "plain_peaks": [2**31, 2**31]}},
    }
    shown = tables(json.loads(json.dumps(found)))
    rows = {row[0]: row[1:] for row in shown["one: on the clock, a card"]}
    model = sum(small["flops_once"].values()) / timed.loop / timed.rate
    assert rows["a step, by the algorithm's FLOP (utilisation)"][2] == f"{model:.1%}"
    assert rows["scores"][0] == f"{timed.phases['scores']:.4f}"
    assert rows["loop: GiB allocated, reserved at the peak"][0] == "1.00, 2.00"
    assert shown["other: not measured, it does not fit"][1] == ["32.0", "16.0"]
