"""What notebook 11 says of its recorded runs, of the records of true size and of its pencil, against all of them."""

import json
from pathlib import Path

import pytest
import torch

from distar_core.course import EXERCISES
from distar_core.course.recorded import DATA, RECORDED, sheet
from distar_core.evaluation.report import read_panels
from distar_core.runs.watch import look_at, read_log
from distar_core.runs.watch import read_panels as panels_of
from distar_core.sdxl.plan import counted, hours_at
from distar_core.sdxl.recipe import SdxlRecipe, find_recipe
from distar_core.world.recipe import WorldRecipe

ROOT = Path(__file__).parents[2]
SOURCE = (ROOT / "notebooks" / "source" / "11_sdxl_post_training.py").read_text("utf-8").replace("\n# ", " ")
TOLD = ("healthy", "hacked", "stale")
TRUE_SIZE = ROOT / "notebooks" / "records" / "sdxl_true_size.jsonl"


@pytest.fixture(scope="module")
def judged():
    return {panel.model: panel for panel in read_panels(DATA / "hacking.csv")}


def signs(name):
    return {sign.name: sign for sign in look_at(RECORDED[name]).signs}


def test_the_bill_is_the_doctors_but_for_the_warm_up_and_launching_is_recorded():
    rows = [json.loads(line) for line in TRUE_SIZE.read_text("utf-8").splitlines()]
    (eager,) = [
        row["seconds_a_sample"] for row in rows if row["asked"] == {"roles": "lora", "cap_gib": 22, "steps": 54}
    ]
    assert f"launch = {eager:.2f}  #" in SOURCE
    for name in ("24gb", "80gb"):
        recipe, ledger = SdxlRecipe.read(find_recipe(name)), counted()[name].ledger
        given = (ledger.flops_per_sample / 1e12, 312.0, 0.5, 0.0, recipe.steps, recipe.batch, 1.0)
        hours, _ = EXERCISES["11.1"].reference(*given)
        assert hours < hours_at(recipe, ledger, 312.0) < 1.05 * hours


def test_one_key_of_each_recipe_was_wrong():
    written = {name: WorldRecipe.of_run(folder).written for name, folder in RECORDED.items()}
    plain = WorldRecipe.read({"steps": 150, "warmup": 30, "batch": 8, "panels_every": 25}).written
    assert written["healthy"] == plain
    assert written["hacked"] == plain | {"reward_scale": 100 * plain["reward_scale"]}
    assert written["stale"] == plain | {"assistant_lr": plain["assistant_lr"] / 200}
    alone = written["alone"]
    assert (alone["method"], alone["steps"], alone["batch"]) == ("reward-only", 300, 16)


def test_the_records_are_small_and_whole():
    assert sum(path.stat().st_size for path in DATA.rglob("*")) < 600_000
    for name, folder in RECORDED.items():
        recipe = WorldRecipe.of_run(folder)
        assert [row["step"] for row in read_log(folder)] == list(range(-recipe.warmup, recipe.steps))
        assert panels_of(folder)[-1]["step"] == recipe.steps
        if name in TOLD:
            assert f"step {recipe.steps}" in sheet(folder, recipe.steps).alt


def test_what_the_signs_say_of_the_records():
    """One alarm, by the sign that was added for it; the others miss both failures, which the notebook says."""
    assert {name: look_at(folder).worst for name, folder in RECORDED.items()} == {
        "healthy": "fine",
        "hacked": "alarm",
        "stale": "fine",
        "alone": "look",
    }
    seen = {sign.name: sign.state for sign in signs("hacked").values() if sign.state != "fine"}
    assert seen == {"strong reward": "alarm", "saturation": "look"}
    assert f"a pull {signs('hacked')['strong reward'].measured:.0f} times as long as the leash's" in SOURCE
    lost = {name: signs(name)["collapse"].measured for name in RECORDED}
    assert f"{lost['healthy']:.0%} in the healthy run, {lost['hacked']:.0%} in the hacked one" in SOURCE
    assert f"It lost {lost['alone']:.0%}" in SOURCE
    assert lost["hacked"] < lost["healthy"] < lost["alone"] < signs("alone")["collapse"].look
    assert 0.9 < signs("hacked")["runaway reward"].measured < 1.1, "one spread"


def test_the_columns_tell_what_the_answer_says():
    moving = {name: [row for row in read_log(folder) if row["step"] >= 0] for name, folder in RECORDED.items()}

    def ends(name, column):
        return [sum(row[column] for row in part) / len(part) for part in (moving[name][:10], moving[name][-37:])]

    ratio = {name: ends(name, "pull_reward")[0] / ends(name, "pull_regularizer")[0] for name in ("healthy", "hacked")}
    assert 65 < ratio["hacked"] < 75
    assert ratio["healthy"] == pytest.approx(0.6, abs=0.05)
    gaps, losses = ({name: ends(name, column) for name in TOLD} for column in ("gap_norm", "loss_assistant"))
    assert gaps["healthy"][1] < 0.75 * gaps["healthy"][0]
    assert gaps["hacked"][1] > 1.25 * gaps["hacked"][0]
    assert gaps["stale"][1] == pytest.approx(gaps["stale"][0], rel=0.05)
    assert gaps["stale"][1] < min(gaps["healthy"][1], gaps["hacked"][1])
    assert losses["stale"][1] > losses["stale"][0]
    assert all(losses[name][1] < 0.9 * losses[name][0] for name in ("healthy", "hacked"))


def test_the_gap_of_an_assistant_that_learns_moves_in_the_warm_up():
    moved = {}
    for name in TOLD:
        first, warm = (panels_of(RECORDED[name])[place]["gap"]["140"] for place in (0, 1))
        moved[name] = warm / first
    assert moved["healthy"] == moved["hacked"] > 2
    assert moved["stale"] < 1.05


def test_what_the_judges_say(judged):
    assert {name: panel.kind for name, panel in judged.items()} == {
        "healthy": "no sign",
        "hacked": "hacked",
        "stale": "no sign",
        "alone": "hacked",
    }
    assert judged["hacked"].evidence == ["falls", "style"]
    assert [line.id for line in judged["hacked"].lines if line.sign] == ["world:clip", "margin"]
    for other in ("world:preference-2", "world:preference-3"):
        assert judged["hacked"][other].change.low > 0
    gold = {name: panel["world:gold"].change for name, panel in judged.items()}
    assert gold["hacked"].low < 0 < gold["hacked"].high
    assert min(gold["healthy"].low, gold["stale"].low) > 0 > gold["alone"].high
    faithful = {name: panel["world:faithful"].change.mean for name, panel in judged.items()}
    assert round(100 * faithful["hacked"]) == -13
    assert faithful["alone"] == pytest.approx(-1 / 3, abs=0.03)


def test_the_pencils_lag():
    """(m − m′)/(m′ − g), by the scores of Gaussians in float64, and its values in the words."""
    x = torch.linspace(-3, 3, 7, dtype=torch.float64, requires_grad=True)

    def score(mean):
        noised = torch.distributions.Normal(x.new_tensor(mean), x.new_tensor((1 + 0.7**2) ** 0.5))
        return torch.autograd.grad(noised.log_prob(x).sum(), x)[0]

    def lag(m, believed, g):
        y, rest = score(believed) - score(g), score(m) - score(believed)
        return float((y * rest).mean() / (y * y).mean())

    for m, believed, g in ((1.0, 0.5, 0.0), (0.3, 0.0, 1.5), (1.5, 0.0, 1.5), (0.75, 0.0, 1.5)):
        assert lag(m, believed, g) == pytest.approx((m - believed) / (believed - g), rel=1e-9)
    assert (lag(1.0, 0.5, 0.0), lag(0.75, 0.0, 1.5), lag(1.5, 0.0, 1.5)) == pytest.approx((1.0, -0.5, -1.0))
    assert EXERCISES["11.4"].reference(torch.tensor([1.0, 2.0, 3.0]), 1.0) == pytest.approx(1.42, abs=0.005)
    assert EXERCISES["11.1"].reference(3600.0, 2.0, 0.5, 0.0, 1, 1, 1.0) == (1.0, 1.0)
