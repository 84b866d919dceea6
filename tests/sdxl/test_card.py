"""The model card of an export: facts from the run and its recipe, licences, and what an evaluation's folder says."""

import json
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from distar_core.evaluation.harness import read_table, seal
from distar_core.evaluation.report import Writer, panel_table, write_panels
from distar_core.evaluation.summary import summarise
from distar_core.methods import METHODS
from distar_core.runs.settings import read_value
from distar_core.sdxl.card import (
    CARD,
    CURVES,
    curves,
    evaluated,
    formula,
    front_matter,
    loading_lines,
    origins_of,
    public,
    read_log,
    start_and_end,
    where,
    without_place,
    write_card,
)
from distar_core.sdxl.published import BY_NC, MIT, OPEN_RAIL
from distar_core.sdxl.recipe import SdxlRecipe, find_recipe
from distar_core.world.models import ORIGINS
from distar_core.world.recipe import WorldRecipe
from tests.evaluation import fakes, test_hacking
from tests.evaluation.test_harness import finish, perform

SHIPPED = SdxlRecipe.read(find_recipe("24gb"), huber_c=25.6, steps=20)
WORLD = WorldRecipe.read({})


def card_of(text):
    return ModelCard(text, ignore_metadata_errors=False)


def log_of(steps, **columns):
    lines = [",".join(["step", "seconds", *columns])]
    lines += [
        ",".join(map(str, [step, 0.5, *(values(step) for values in columns.values())])) for step in range(-2, steps)
    ]
    return "\n".join(lines) + "\n"


@pytest.fixture
def run(tmp_path):
    """The folder of a run with a log of 20 steps, the reward rising from 0."""
    folder = tmp_path / "run"
    folder.mkdir()
    facts = {"unet": "aaaa", "start": "bbbb", "vae": "cccc", "prompts": "dddd"}
    (folder / "config.json").write_text(json.dumps(facts), "utf-8")
    columns = {"reward": lambda step: step, "gap_norm": lambda step: 40 - step, "pull_reward": lambda _: 3}
    (folder / "log.csv").write_text(log_of(20, **columns), "utf-8")
    return folder


def written(run, recipe, origins, **changes):
    folder = run.parent / "exported"
    folder.mkdir(exist_ok=True)
    settings = {"done": recipe.steps, "lora": False, "fingerprint": "eeee", "pixels": 64, "prompt": "a fox"}
    write_card(folder, run, recipe, origins, **settings | changes)
    return (folder / CARD).read_text("utf-8")


# What was minimised.


@pytest.mark.parametrize("name", [name for name in METHODS if name != "didr"])
def test_a_formula_has_the_terms_of_its_method(name):
    changes = {"method": name} | ({"reward_scale": 3.0} if METHODS[name].reward_at != "nowhere" else {})
    recipe = WorldRecipe.read(changes)
    method, said = recipe.method, formula(recipe.method) + "; ".join(where(recipe.method))
    assert (r"r(x_0,c)" in formula(method)) == (method.reward_at == "sample")
    assert (r"\nabla_{x_t} r" in said) == (method.reward_at == "every_level_by_proxy")
    assert (r"s_\psi" in said) == (method.regularizer is not None)
    assert (r"s_\varnothing" in said) == (method.guidance != "none")
    assert (r"s_\varnothing" in formula(method)) == (method.guidance == "outside")
    assert ("d'" in formula(method)) == ("pseudo-Huber" in said) == (method.distance is not None)
    assert ("mean" in formula(method)) == (name == "dmd")
    for value in (method.reward_scale, method.cfg_scale):
        assert not value or f"{value:g}" in said


def test_guidance_and_reward_that_are_off_are_in_no_formula():
    said = formula(WorldRecipe.read({"cfg_scale": 0.0, "reward_scale": 0.0}).method)
    assert "r(x_0" not in said
    assert "varnothing" not in said + "".join(where(WorldRecipe.read({"cfg_scale": 0.0}).method))


# What is read by others.


def test_paths_of_the_trainers_disk_are_not_told(tmp_path):
    model = tmp_path / "somewhere" / "model"
    model.mkdir(parents=True)
    recipe = SHIPPED.replace(reference=str(model), prompts=str(tmp_path / "mine.txt"))
    recipe = recipe.replace(reward={"pickscore": {"weight": 1.0, "folder": str(tmp_path / "pick")}})
    told = public(recipe)
    assert (told["reference"], told["prompts"], told["reward"]["pickscore"]["folder"]) == ("model", "mine.txt", "pick")
    assert told["generator"] == SHIPPED.generator
    assert told.keys() == recipe.written.keys(), "every key"
    assert str(tmp_path) not in str(told)
    assert str(tmp_path) in str(recipe.written), "control"
    lines = loading_lines(recipe, "lora", lora=True, place=without_place)
    assert lines[-1].startswith("pipeline = load_lora(load_text_to_image('model', generator='tianweiy/DMD2/")


def test_a_runs_numbers_are_means_over_its_first_and_last_tenth(run):
    log = read_log(run, 20)
    assert [row["step"] for row in log] == list(range(20)), "the warm-up moves no generator"
    rows = {row[0]: row[1:] for row in start_and_end(log)}
    assert rows["mean over the batch"] == ["first 2 steps", "last 2 steps"]
    assert rows["reward"] == ["0.5", "18.5"]
    assert rows["gap, ‖σ (s_ψ − s_ref)‖"] == ["39.5", "21.5"]
    assert "pull of the guidance" not in rows
    picture = curves(log)
    assert [axes.get_title() for axes in picture.figure.axes] == ["reward", "pulls", "gap"]
    assert "reward from 0 to 19" in picture.alt
    assert read_log(run, 10) == log[:10], "what an earlier checkpoint has"
    (run / "log.csv").unlink()
    assert read_log(run, 20) == []
    assert curves([]) is None


# Licences.


def test_the_front_matter_has_the_licence_of_all_parts(tmp_path):
    def data(recipe, origins):
        return card_of(f"---\n{front_matter(recipe, origins, lora=False)}\n---\n").data

    world = data(WORLD, ORIGINS)
    assert (world.license, world.base_model, world.library_name) == ("mit", None, "diffusers")
    both = data(SHIPPED, origins_of(SHIPPED))
    assert (both.license, both.license_name) == ("other", "openrail++-and-cc-by-nc-4.0")
    assert both.base_model == ["stabilityai/stable-diffusion-xl-base-1.0", "tianweiy/DMD2"]
    own = tmp_path / "own"
    own.mkdir()
    assert data(SHIPPED, origins_of(SHIPPED.replace(generator=str(own)))).license == "unknown"


def test_what_started_from_non_commercial_weights_says_so_first(run):
    text = written(run, SHIPPED, origins_of(SHIPPED))
    assert text.index("**Not for commercial use**") < text.index("## Draw with it")
    assert card_of(text).data.pipeline_tag == "text-to-image"
    for licence in (OPEN_RAIL, BY_NC):
        assert f"[{licence.name}]({licence.url}) allows {licence.allows}." in text
    assert "tianweiy/DMD2/dmd2_sdxl_1step_unet_fp16.bin may not be used commercially" in text
    assert "No weights of yuvalkirstain/PickScore_v1" in text
    alone = SHIPPED.replace(generator="stabilityai/stable-diffusion-xl-base-1.0/unet")
    control = written(run, alone, origins_of(alone))
    assert "Not for commercial use" not in control
    assert f"[{MIT.name}]({MIT.url})" in written(run, WORLD, ORIGINS)
    assert "commercially" not in written(run, WORLD, ORIGINS)


def test_a_card_has_the_run_in_it(run):
    text = written(run, SHIPPED, origins_of(SHIPPED), done=7)
    assert "**The run is not finished: 7 of 20 steps are done.**" in text
    for fact in ("aaaa", "bbbb", "cccc", "dddd", "eeee", formula(SHIPPED.method), f"]({CURVES})", "| 0 | 6 |"):
        assert fact in text
    assert read_value(text.split("```yaml\n")[1].split("```")[0]) == public(SHIPPED)
    assert "It was not evaluated" in text
    assert (run.parent / "exported" / CURVES).stat().st_size > 1000
    assert "not finished" not in written(run, SHIPPED, origins_of(SHIPPED))
    assert "adapters of rank 64" in text


# Evaluation.


def no_weights(dtype):
    raise AssertionError("no type is told, so a model is known by its place")


def test_the_tables_of_an_evaluation_are_those_of_its_summary(run, tmp_path):
    own, out = run, tmp_path / "evaluation"
    plan = fakes.plan()
    models = [fakes.model("a"), fakes.model("b", source=str(own))]
    plan = type(plan)(models, plan.sets, plan.scorers, plan.seeds)
    with pytest.raises(FileNotFoundError, match=str(out)):
        evaluated(out, [own], no_weights)
    perform(out, plan)
    finish(out, plan)
    found = evaluated(out, [own, tmp_path / "exported"], no_weights)
    (summary,) = summarise(read_table(out / "table.csv"))
    writer = Writer({"bright": 1.0, "red": 1.0})
    assert found["own"] == "b"
    assert found["sets"][0]["means"] == writer.means(summary)
    assert found["sets"][0]["gaps"] == writer.gaps(summary)
    text = written(run, WORLD, ORIGINS, evaluation=found)
    assert "this model is b there" in text
    assert "by other rewards than bright, red" in text
    assert "It was not evaluated" not in text
    for line in writer.means(summary):
        assert f"| {' | '.join(line)} |" in text
    assert "Is it a hack?" not in text
    assert "how much the pictures of one prompt differ" in text
    with pytest.raises(ValueError, match=r"a \(nowhere\).*another"):
        evaluated(out, [tmp_path / "another"], no_weights)


def test_a_model_is_known_by_its_weights_wherever_they_lay(run, tmp_path):
    out, asked = tmp_path / "evaluation", []

    def weights(dtype):
        asked.append(dtype)
        return {"w7"}

    def typed(name, found, source="nowhere", **more):
        settings = {"source": source, "draws": "noise", "computes": "in bfloat16 on cuda"} | more
        return replace(fakes.model(name, weights=found), settings=settings)

    models = [
        typed("start", "w0"),
        typed("moved", "w7"),
        typed("earlier", "w6", str(run)),
        typed("lora", "w8", lora=str(tmp_path / "exported")),
        typed("same", "w7", lora=str(tmp_path / "elsewhere")),
    ]
    plan = replace(fakes.plan(), models=models)
    perform(out, plan)
    finish(out, plan)
    assert evaluated(out, [run, tmp_path / "exported"], weights)["own"] == "moved and same", "never by its place"
    assert asked == ["bfloat16"]
    with pytest.raises(ValueError, match="earlier and lora with other weights"):
        evaluated(out, [run, tmp_path / "exported"], lambda dtype: {"w9"})


def test_a_panel_of_hacking_is_on_the_card_with_its_verdict(run, tmp_path):
    out = tmp_path / "evaluation"
    plan = test_hacking.asked()
    models = [plan.models[0], replace(plan.models[1], settings={"source": str(run), "draws": "noise"})]
    whole, rows, panels = test_hacking.performed(out, replace(plan, models=models))
    seal(out, "table.csv", "plan.json")
    write_panels(out, whole, rows, panels)
    found = evaluated(out, [run], no_weights)
    assert [one["verdict"] for one in found["panels"]] == [panels[0].verdict]
    text = written(run, WORLD, ORIGINS, evaluation=found)
    assert f"**{panels[0].verdict}**" in text
    for line in panel_table(panels[0]):
        assert f"| {' | '.join(line)} |" in text
    assert "how much the pictures of one prompt differ" not in text, "it is known"
    assert panels[0].is_alarm == ("give an alarm" in text.partition("## Draw")[0])
    assert "give an alarm" in written(run, WORLD, ORIGINS, evaluation=found | {"alarm": True})
    assert "give an alarm" not in written(run, WORLD, ORIGINS, evaluation=found | {"alarm": False})
