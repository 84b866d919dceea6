"""Panels of a run: they show what is there, change nothing, and are the same after a stop."""

from __future__ import annotations

import csv
import json
import shutil
from itertools import islice

import matplotlib.image
import pytest
import torch

from distar_core.evaluation.pictures import clipped_share, pixel_distance, saturation
from distar_core.runs.run import CHECKPOINT
from distar_core.runs.watch import read_log, read_panels
from distar_core.sdxl.panels import PROMPTS, SEEDS, fixed_prompts
from distar_core.sdxl.post_training import load_run, make_state, run_recipe
from distar_core.world.models import load_world
from distar_core.world.recipe import WorldRecipe, training_prompts

STEPS = 4
KEYS = {"steps": STEPS, "batch": 2, "warmup": 1, "lr": 1e-3, "prompts": 2}


class Redness:
    differentiable = True

    def __call__(self, *, images, prompts):
        return images[:, 0].mean((1, 2)) - images[:, 1:].mean((1, 2, 3))


@pytest.fixture(scope="module")
def world():
    return load_world()


def start(world, folder, *, resume=False, **keys):
    recipe = WorldRecipe.read(KEYS | {"panels_every": 0} | keys)
    state = make_state(recipe, world, Redness())
    options = {"resume": resume, "save_every": 100}
    return state, run_recipe(recipe, world, state, training_prompts(recipe), folder, **options)


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """A run with a panel at every second step."""
    folder = tmp_path_factory.mktemp("whole")
    state, records = start(world, folder, panels_every=2)
    list(records)
    left = [p.grad for role in (state.roles.generator, state.roles.assistant) for p in role.module.parameters()]
    assert all(gradient is None for gradient in left)
    return folder


def learnt(folder):
    with open(folder / "log.csv", newline="") as file:
        log = [{**row, "seconds": ""} for row in csv.DictReader(file)]
    return (folder / CHECKPOINT).read_bytes(), (folder / "config.json").read_text(), log


def panels_of(folder):
    """What a run's panels hold but for times, and each of their sheets as pixels."""
    rows = [{**row, "seconds": list(row["seconds"])} for row in read_panels(folder)]
    sheets = {path.name: path.read_bytes() for path in sorted((folder / "panels").glob("step_*.png"))}
    return rows, sheets


def test_a_run_with_panels_learns_what_one_without_them_learns(world, whole, tmp_path):
    list(start(world, tmp_path / "without")[1])
    assert learnt(whole) == learnt(tmp_path / "without")
    assert not (tmp_path / "without" / "panels").exists()
    list(start(world, tmp_path / "another", seed=1)[1])
    assert learnt(whole)[0] != learnt(tmp_path / "another")[0], "a run that differs is told apart"


def test_panels_are_due_at_the_start_every_so_many_steps_and_at_the_end(whole):
    rows, sheets = panels_of(whole)
    assert [row["step"] for row in rows] == [-1, 0, 2, 4]
    assert list(sheets) == ["step_-00001.png", "step_000000.png", "step_000002.png", "step_000004.png"]
    assert rows[2]["seconds"] == ["assistant", "samples", "scores", "decoder and reward", "pulls", "backward, update"]
    assert {path.name for path in (whole / "panels").iterdir()} == {
        *sheets, "curves.png", "panels.jsonl", "first.safetensors"
    }  # fmt: skip
    assert sum(read_panels(whole)[2]["seconds"].values()) < 1.05 * read_log(whole)[2]["seconds"]


def test_numbers_of_a_panel_are_those_of_its_pictures(world, whole):
    recipe = WorldRecipe.read(KEYS | {"panels_every": 2})
    texts = fixed_prompts(training_prompts(recipe))
    generator = load_run(recipe, world, Redness(), whole).roles.generator
    prompts = [text for text in texts for _ in range(SEEDS)]
    pictures = world.draw(prompts, list(range(SEEDS)) * len(texts), generator.averaged)
    last = read_panels(whole)[-1]
    assert last["saturation"] == pytest.approx(float(saturation(pictures).mean()), rel=1e-4)
    assert last["clipped"] == pytest.approx(float(clipped_share(pictures).mean()), rel=1e-3)
    by_prompt = pictures.unflatten(0, (len(texts), SEEDS))
    assert last["diversity"] == pytest.approx(float(pixel_distance(by_prompt).mean()), rel=1e-4)
    assert last["reward"] == pytest.approx(float(Redness()(images=pictures, prompts=prompts).mean()), rel=1e-3)
    assert last["reward"] != pytest.approx(read_panels(whole)[0]["reward"], rel=1e-3)


def test_without_guidance_the_gap_begins_at_nothing_since_the_assistant_is_the_reference(world, whole, tmp_path):
    list(start(world, tmp_path, cfg_scale=0.0, steps=1, panels_every=1)[1])
    first, *_, last = read_panels(tmp_path)
    assert list(first["gap"]) == list(last["gap"])
    assert set(first["gap"].values()) == {0.0}
    assert all(value > 0 for value in last["gap"].values())
    assert all(value > 0 for value in read_panels(whole)[0]["gap"].values()), "control: guidance is a gap"


@pytest.mark.parametrize(("stop", "save_every"), [(2, 1), (3, 1), (3, 100)])
def test_a_stop_changes_no_panel(world, whole, tmp_path, stop, save_every):
    """At the step of a panel; between two; and with the last panel newer than the checkpoint, which is that of the warm-up."""
    recipe = WorldRecipe.read(KEYS | {"panels_every": 2})
    state = make_state(recipe, world, Redness())
    steps = run_recipe(recipe, world, state, training_prompts(recipe), tmp_path, save_every=save_every)
    list(islice(steps, recipe.warmup + stop))
    steps.close()
    assert read_panels(tmp_path)[-1]["step"] == 2
    list(start(world, tmp_path, resume=True, panels_every=2)[1])
    assert learnt(tmp_path)[0] == learnt(whole)[0]
    assert panels_of(tmp_path)[1] == panels_of(whole)[1]
    timeless = [[row | {"seconds": []} for row in panels_of(folder)[0]] for folder in (tmp_path, whole)]
    assert timeless[0] == timeless[1]


def test_a_method_without_an_assistant_shows_its_pictures_alone(world, tmp_path):
    list(start(world, tmp_path, method="reward-only", steps=1, warmup=0, panels_every=1)[1])
    rows = read_panels(tmp_path)
    assert [row["step"] for row in rows] == [0, 1]
    assert all(row["gap"] == {} and row["diversity"] > 0 for row in rows)
    assert list(rows[1]["seconds"]) == ["samples", "decoder and reward", "pulls", "backward, update"]


def test_a_damaged_first_panel_is_told_and_replaced(world, whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "panels" / "first.safetensors").write_bytes(b"no pictures")
    with pytest.warns(UserWarning, match=r"first\.safetensors"):
        list(start(world, folder, resume=True, panels_every=2)[1])
    assert panels_of(folder)[1] == panels_of(whole)[1]


def test_fixed_prompts_are_spread_over_the_list_and_all_different():
    many = [f"prompt {number}" for number in range(100)]
    assert fixed_prompts(many) == ["prompt 0", "prompt 25", "prompt 50", "prompt 75"]
    assert fixed_prompts(["a", "b", "a"]) == ["a", "b"]
    assert len(fixed_prompts(many)) == PROMPTS


def test_sheets_are_pictures_of_a_row_for_each_prompt(whole):
    sheet = torch.tensor(matplotlib.image.imread(whole / "panels" / "step_000004.png"))
    assert sheet.shape[0] > 400
    assert sheet.shape[1] > sheet.shape[0]
    text = (whole / "panels" / "panels.jsonl").read_text()
    assert all(json.loads(line) for line in text.splitlines())


def test_one_noise_level_is_shown_once(world, tmp_path):
    list(start(world, tmp_path / "run", panels_every=2, steps=1, times=[399, 399])[1])
    assert {tuple(row["gap"]) for row in read_panels(tmp_path / "run")} == {("399",)}
