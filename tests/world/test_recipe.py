"""Post-training in the world: recipes, runs that stop and go on, what is measured, and the commands."""

import copy
import json
import os
import shutil
import signal

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner

from distar_core import extras
from distar_core.cli import world as commands
from distar_core.cli.main import app
from distar_core.errors import NonFiniteError
from distar_core.lab.bench_world import megabytes_of_roles
from distar_core.losses import Noised
from distar_core.methods import METHODS
from distar_core.probes import motion
from distar_core.runs.run import CHECKPOINT, _seal, load_checkpoint
from distar_core.runs.settings import RECIPE, RecipeError
from distar_core.sdxl import post_training
from distar_core.sdxl.export import load_lora
from distar_core.sdxl.models import TextToImage
from distar_core.sdxl.post_training import conditions_of, identity_of, load_run, make_state, run_recipe
from distar_core.training import scores_at
from distar_core.world.evaluation import evaluate, verdict
from distar_core.world.judges import load_judges
from distar_core.world.models import load_world
from distar_core.world.recipe import REWARD_SCALES, WorldRecipe, training_prompts
from distar_core.world.scenes import combinations, read_caption

CAPTIONS = ["a red circle left of a blue square", "a large green triangle"]
SHORT = {"steps": 3, "warmup": 1, "batch": 4, "prompts": 8, "panels_every": 0}


@pytest.fixture(scope="module")
def world():
    return load_world()


@pytest.fixture(scope="module")
def judges():
    return load_judges()


def distar(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result, " ".join((result.output + result.stderr).split())


def conditions_for(world, recipe):
    return conditions_of(recipe, world, training_prompts(recipe))


def run_again(recipe, world, judges, folder, **options):
    state = make_state(recipe, world, judges.preference)
    return run_recipe(recipe, world, state, training_prompts(recipe), folder, **options)


def write(path, **keys):
    path.write_text(yaml.safe_dump(keys), "utf-8")
    return path


@pytest.mark.parametrize("name", [name for name in METHODS if name != "didr"])
def test_a_recipe_written_out_reads_as_itself(name, tmp_path):
    recipe = WorldRecipe.read({"method": name, "seed": 3})
    recipe.write(tmp_path / "r.yaml")
    assert WorldRecipe.read(tmp_path / "r.yaml") == recipe
    assert recipe.replace(seed=4) != recipe
    assert recipe.method.guides == (recipe.method.guidance != "none"), "guided rows have the scale of the distillation"
    assert recipe.method.reward_scale == REWARD_SCALES.get(name, 0.0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("reward", "beauty"),
        ("roles", "qlora"),
        ("ema_decay", 1.5),
        ("ema_decay", -0.1),
        ("rank", 0),
        ("prompts", 0),
        ("prompts", 2.5),
    ],
)
def test_a_wrong_recipe_names_the_key_and_the_value(key, value):
    with pytest.raises(RecipeError) as caught:
        WorldRecipe.read({key: value})
    assert (caught.value.key, caught.value.value) == (key, value)


def test_clip_has_no_default_scale():
    with pytest.raises(RecipeError) as caught:
        WorldRecipe.read({"reward": "clip"})
    assert caught.value.key == "reward_scale"
    assert WorldRecipe.read({"reward": "clip", "reward_scale": 4}).method.reward_scale == 4
    assert WorldRecipe.read({"reward": "clip", "method": "sim"}).method.reward_scale == 0


def test_a_wrong_recipe_loads_no_model(monkeypatch, tmp_path):
    monkeypatch.setattr("distar_core.world.models.load_world", lambda *_: pytest.fail("loaded"))
    result, said = distar("train", "world", tmp_path / "run", "--recipe", write(tmp_path / "r.yaml", step=3))
    assert result.exit_code == 1
    assert f"{tmp_path / 'r.yaml'}: recipe key 'step' is 3" in said
    assert not (tmp_path / "run").exists()


def test_nothing_held_out_is_trained_on(world):
    prompts = conditions_for(world, WorldRecipe.read({"batch": 500}))(0, slice(0, 500)).words
    known = combinations()
    held_out = [*known["one held out"], *known["two held out"]]
    # two objects are held out on both backgrounds or on none, so a caption that leaves it open tells too
    told = [s if len(s.things) == 1 else s._replace(background=0) for s in map(read_caption, prompts)]
    assert not [stated for stated in told if stated in held_out]
    assert [stated for stated in told if stated in known["two"]], "control: these are the scenes of the two lists"
    assert len(set(prompts)) > 200


def test_prompts_of_ones_own(world, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a red circle\n\na blue square\n", "utf-8")
    conditions = conditions_for(world, WorldRecipe.read({"prompts": str(path)}))
    assert set(conditions(0, slice(0, 32)).words) == {"a red circle", "a blue square"}
    path.write_text("\n \n", "utf-8")
    with pytest.raises(ValueError, match="is empty; write one prompt a line"):
        conditions_for(world, WorldRecipe.read({"prompts": str(path)}))


@pytest.mark.parametrize("roles", ["full", "lora"])
def test_a_run_that_was_stopped_equals_one_that_was_not(roles, tmp_path):
    recipe = write(tmp_path / "r.yaml", roles=roles, **SHORT)
    result, said = distar("train", "world", tmp_path / "whole", "--recipe", recipe, "--count", 2)
    assert result.exit_code == 0, said
    for name in (RECIPE, "log.csv", CHECKPOINT, "evaluation.csv", "samples.png"):
        assert (tmp_path / "whole" / name).is_file()
    calls = []

    def interrupted(*inputs, **options):
        for record in run_recipe(*inputs, **options):
            calls.append(record.step)
            if record.step == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            yield record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(post_training, "run_recipe", interrupted)
        result, said = distar("train", "world", tmp_path / "stopped", "--recipe", recipe, "--count", 2)
    assert result.exit_code == 143
    assert f"train world {tmp_path / 'stopped'} --save-every 50 --count 2 --resume" in said
    assert calls[-1] < 2
    same = ("--method", "di-star", "--steps", SHORT["steps"])
    result, said = distar("train", "world", tmp_path / "stopped", *same, "--resume", "--count", 2)
    assert result.exit_code == 0, said
    assert (tmp_path / "stopped" / CHECKPOINT).read_bytes() == (tmp_path / "whole" / CHECKPOINT).read_bytes()
    for words, expected in (
        ((tmp_path / "whole", "--recipe", recipe), "already holds a run"),
        ((tmp_path / "whole", "--resume", "--steps", 9), "has steps 3, not 9"),
        ((tmp_path / "whole", "--resume", "--recipe", recipe), "leave out --recipe"),
        ((tmp_path / "nowhere", "--resume"), f"there is no run in {tmp_path / 'nowhere'}"),
    ):
        result, said = distar("train", "world", *words)
        assert result.exit_code == 1
        assert expected in said
    if roles == "lora":
        for name in ("evaluation.csv", "samples.png"):
            (tmp_path / "whole" / name).unlink()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(commands, "print_table", lambda *_: (_ for _ in ()).throw(BrokenPipeError))
            assert distar("train", "world", tmp_path / "whole", "--resume", "--count", 2)[0].exit_code == 1
        for name in ("evaluation.csv", "samples.png"):
            assert (tmp_path / "whole" / name).is_file(), "what was measured is kept though no table can be printed"
    shutil.rmtree(tmp_path / "whole")


def test_a_run_is_bound_to_the_weights_it_started_from(world, judges, tmp_path):
    recipe = WorldRecipe.read(SHORT)
    state = make_state(recipe, world, judges.preference)
    for _ in run_recipe(recipe, world, state, training_prompts(recipe), tmp_path):
        pass
    assert WorldRecipe.of_run(tmp_path) == recipe
    loaded = load_run(recipe, world, judges.preference, tmp_path)
    for name, parameter in loaded.roles.generator.parameters().items():
        assert torch.equal(parameter, state.roles.generator.parameters()[name])
    config = {**identity_of(recipe, world, state, training_prompts(recipe)), "method": recipe.method, **recipe.loop}
    with pytest.raises(ValueError, match="start is 'other' here but"):
        load_checkpoint(make_state(recipe, world, judges.preference), tmp_path, config | {"start": "other"})


def test_a_run_from_before_a_setting_is_one_at_its_default(world, judges, tmp_path):
    recipe = WorldRecipe.read(SHORT)
    for _ in run_again(recipe, world, judges, tmp_path):
        pass
    path, meta = tmp_path / CHECKPOINT, {}
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        meta = json.loads(file.metadata()["distar_core"])

    def without(key):
        older = copy.deepcopy(meta)
        del (older["config"] if key in ("diffusion", "types") else older["config"]["recipe"])[key]
        save_file(tensors, path, metadata={"distar_core": json.dumps(older | {"seal": _seal(older)})})
        return list(run_again(recipe, world, judges, tmp_path, resume=True))

    assert without("ema_decay") == []
    assert without("rank") == []
    assert without("diffusion") == []
    assert without("types") == []
    with pytest.raises(ValueError, match=r"^recipe\.steps is 3 here but 300"):
        without("steps")


def test_a_file_of_ones_own_in_the_folder_is_kept(tmp_path):
    mine = write(tmp_path / RECIPE, steps=7)
    for options in ((), ("--resume",)):
        assert distar("train", "world", tmp_path, *options)[0].exit_code == 1
        assert yaml.safe_load(mine.read_text()) == {"steps": 7}


def test_options_win_over_the_recipe(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(commands, "post_train_and_measure", lambda recipe, *_, **__: seen.append(recipe))
    recipe = write(tmp_path / "r.yaml", guidance_scale=3.0, steps=9)
    assert distar("train", "world", tmp_path / "run", "--recipe", recipe, "--cfg-scale", 0.5)[0].exit_code == 0
    assert (seen[0].method.cfg_scale, seen[0].steps) == (0.5, 9)


def test_a_run_keeps_its_prompts_and_goes_on_elsewhere(world, judges, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeffa red circle\r\n\r\na blue square\r\n", "utf-8")
    recipe = WorldRecipe.read(SHORT | {"prompts": str(path)})
    assert training_prompts(recipe) == ["a red circle", "a blue square"]
    for _ in run_again(recipe, world, judges, tmp_path / "run"):
        pass
    path.unlink()
    moved = (tmp_path / "run").rename(tmp_path / "moved")

    def resume():
        recipe = WorldRecipe.of_run(moved)
        return list(run_again(recipe, world, judges, moved, resume=True))

    assert resume() == []
    (moved / "prompts.txt").write_text("a red circle\na green square\n", "utf-8")
    with pytest.raises(ValueError, match="prompts is '"):
        resume()
    load_run(
        WorldRecipe.of_run(moved), world, judges.preference, moved
    )  # what was learnt is there whatever the prompts


def test_prompts_may_be_a_data_set_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for said, kept in (
        ("me/set", "me/set"),
        ("me/set/data/train.parquet", "me/set/data/train.parquet"),
        ("mine/prompts.tsv", str(tmp_path / "mine" / "prompts.tsv")),
        ("prompts", str(tmp_path / "prompts")),
    ):
        assert WorldRecipe.read({"prompts": said}).prompts == kept
        assert WorldRecipe.read(write(tmp_path / "r.yaml", prompts=said)).prompts == kept
    (tmp_path / "me" / "set").mkdir(parents=True)
    assert WorldRecipe.read({"prompts": "me/set"}).prompts == str(tmp_path / "me" / "set"), (
        "what is on the disk comes first"
    )


def test_a_cache_of_prompts_changes_nothing_that_a_run_is_bound_to(world, tmp_path):
    plain = WorldRecipe.read(SHORT)
    cached = WorldRecipe.read(write(tmp_path / "r.yaml", **SHORT, prompt_cache="cache.safetensors"))
    assert cached.prompt_cache == str(tmp_path / "cache.safetensors")
    prompts = training_prompts(plain)
    first, second = (conditions_of(recipe, world, prompts)(1, slice(0, plain.batch)) for recipe in (plain, cached))
    assert first.words == second.words
    torch.testing.assert_close(first.text, second.text, rtol=1e-4, atol=1e-4)
    assert (tmp_path / "cache.safetensors").is_file()
    assert identity_of(plain, world, make_state(plain, world), prompts) == identity_of(
        cached, world, make_state(cached, world), prompts
    )


def test_a_run_is_bound_to_all_weights_that_it_does_not_train(world, judges):
    recipe = WorldRecipe.read(SHORT)

    def told(world=world, judges=judges):
        return identity_of(recipe, world, make_state(recipe, world, judges.preference), training_prompts(recipe))

    before = told()
    assert told() == before
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        other = TextToImage(copy.copy(world.pipeline), world.unet)
        part = copy.deepcopy(getattr(world.pipeline, name))
        next(part.parameters()).data.mul_(1.00001)
        setattr(other.pipeline, name, part)
        assert {key for key, value in told(world=other).items() if value != before[key]} == {name}
    preference = copy.deepcopy(judges.preference)
    next(preference.clip.parameters()).data.mul_(1.00001)
    other = told(judges=judges._replace(preference=preference))
    assert {key for key, value in other.items() if value != before[key]} == {"judge"}


def test_a_model_is_the_one_in_its_files_in_whatever_type_it_computes(world):
    recipe = WorldRecipe.read(SHORT | {"reward": "preference", "prompts": 2})
    single, half = (
        identity_of(recipe, model, make_state(recipe, model), ["a", "b"])
        for model in (world, load_world(dtype=torch.bfloat16))
    )
    assert {key for key, value in single.items() if value != half[key]} == {"types"}
    assert (set(single["types"].values()), set(half["types"].values())) == ({"float32"}, {"bfloat16"})


@pytest.mark.parametrize(
    ("what", "other"),
    [
        ("alphas", {"beta_end": 0.0121}),
        ("prediction", {"prediction_type": "v_prediction"}),
        ("null", {"force_zeros_for_empty_prompt": False}),
        ("latents", {"scaling_factor": 0.99}),
    ],
)
def test_a_run_is_bound_to_how_the_model_is_asked(world, judges, tmp_path, what, other):
    recipe = WorldRecipe.read(SHORT | {"steps": 1})
    assert len(list(run_again(recipe, world, judges, tmp_path))) == 2
    pipeline = copy.copy(world.pipeline)
    if what in ("alphas", "prediction"):
        pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, **other)
    elif what == "null":
        pipeline._internal_dict = type(pipeline.config)(pipeline.config | other)
    else:
        pipeline.vae = copy.deepcopy(pipeline.vae)
        pipeline.vae.register_to_config(**other)
    edited = TextToImage(pipeline, world.unet, vocabulary=world.vocabulary)
    with pytest.raises(ValueError, match=rf"^diffusion\.{what}"):
        list(run_again(recipe, edited, judges, tmp_path, resume=True))
    assert list(run_again(recipe, world, judges, tmp_path, resume=True)) == [], "control: as it was"


def test_a_run_from_other_weights_is_not_exported(world, judges, tmp_path):
    recipe = WorldRecipe.read(SHORT)
    for _ in run_again(recipe, world, judges, tmp_path):
        pass
    unet = copy.deepcopy(world.unet)
    next(unet.parameters()).data.add_(0.1)
    with pytest.raises(ValueError, match="started from weights"):
        load_run(recipe, TextToImage(world.pipeline, unet), judges.preference, tmp_path)


def test_a_generator_that_diverged_stops_the_run_and_says_why(world, judges, tmp_path):
    recipe = WorldRecipe.read(SHORT | {"lr": 1e29})
    with pytest.raises(NonFiniteError, match="what drew them has diverged"):
        list(run_again(recipe, world, judges, tmp_path))


def test_export_by_command(world, judges, tmp_path):
    recipe = write(tmp_path / "r.yaml", roles="lora", lr=0.02, **SHORT)
    assert distar("train", "world", tmp_path / "run", "--recipe", recipe, "--count", 2)[0].exit_code == 0
    result, said = distar("export", tmp_path / "run", tmp_path / "lora", "--lora")
    assert result.exit_code == 0, said
    assert "load_lora(load_world().one_step_pipeline()" in said
    result, said = distar("export", tmp_path / "run", tmp_path / "whole")
    assert result.exit_code == 0, said
    assert "timesteps=[399]" in said
    run = tmp_path / "run"
    generator = load_run(WorldRecipe.of_run(run), world, judges.preference, run).roles.generator
    drawn = {
        "averaged": world.draw(CAPTIONS, [0, 1], generator.averaged),
        "last": world.draw(CAPTIONS, [0, 1], generator.module),
        "start": world.draw(CAPTIONS, [0, 1]),
    }
    from diffusers import StableDiffusionXLPipeline

    for pipeline in (
        load_lora(load_world().one_step_pipeline(), tmp_path / "lora"),
        StableDiffusionXLPipeline.from_pretrained(tmp_path / "whole"),
    ):
        options = {"num_inference_steps": 1, "timesteps": [399], "guidance_scale": 0.0, "output_type": "pt"}
        pictures = pipeline(CAPTIONS, latents=world.noise([0, 1]), **options).images
        far = {name: float((pictures - other).abs().max()) for name, other in drawn.items()}
        assert far["averaged"] < 1e-4
        assert min(far["last"], far["start"]) > 1e-3, "control: neither the last weights nor the start's"
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "model_index.json").write_text("mine")
    for run, folder, why in (
        ("run", "run", "belongs to a run; choose another one for the export"),
        ("run", "foreign", "holds other files"),
        ("nothing", "out", "distar train world starts one"),
    ):
        result, said = distar("export", tmp_path / run, tmp_path / folder)
        assert result.exit_code == 1
        assert why in said
    assert (foreign / "model_index.json").read_text() == "mine"
    assert not (tmp_path / "out").exists()


def test_the_world_needs_its_packages_and_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(extras, "requires", lambda _: ['no_such_package>=1; extra == "models"'])
    for words in (
        ("train", "world", tmp_path),
        ("export", tmp_path, tmp_path),
        ("world", "evaluate"),
        ("lab", "world"),
    ):
        result, said = distar(*words)
        assert result.exit_code == 1
        assert "no_such_package is not installed" in said
        assert '-m pip install -e ".[models]"' in said


def test_the_verdict_is_the_interval(world, judges):
    before = evaluate(world.draw, judges, count=4, samples=2)
    better = before._replace(gold=before.gold + 0.1 + 0.01 * torch.rand(8))
    assert "the gold preference, which no run has seen, rose" in verdict({"a": before, "b": better})
    assert "fell" in verdict({"a": better, "b": before})
    assert "did not change beyond chance" in verdict({"a": before, "b": before})
    assert "+0.0 points" in verdict({"a": before, "b": before})


def test_lora_roles_need_at_most_half_the_memory_of_three_full_copies(world):
    full, lora = (
        megabytes_of_roles(world, WorldRecipe.read(SHORT | {"roles": roles, "steps": 1})) for roles in ("full", "lora")
    )
    weights = sum(p.numel() for p in world.unet.parameters())
    assert full == pytest.approx(7 * weights * 4 / 1e6, rel=0.01), (
        "three copies, and two optimizers with two moments each"
    )
    assert lora < full / 2


def test_the_motion_of_latents_is_minus_the_pulls_on_them(world, judges):
    recipe = WorldRecipe.read({"method": "di-star", "reward_scale": 0.7, **SHORT})
    state = make_state(recipe, world, judges.preference)
    prompt = world.encoder(["a large red circle", "a small blue square"])
    with torch.no_grad():
        x0 = state.roles.generator.module(world.noise([0, 1]), prompt)
    moves = motion(state, recipe.method, x0, draws=2, condition=prompt)
    assert {term: move.shape for term, move in moves.items()} == dict.fromkeys(("reward", "regularizer"), x0.shape)
    at = x0.clone().requires_grad_()
    (climb,) = torch.autograd.grad(state.roles.reward(at, prompt).sum(), at)
    torch.testing.assert_close(moves["reward"], 0.7 * climb)
    # the leash's, by hand at the same levels and noise: alpha carries a pull at x_t to x_0
    level = recipe.method.time_law.quantile(torch.tensor([0.25, 0.75]).repeat(2))
    noise = torch.randn(4, *x0.shape[1:], generator=torch.Generator().manual_seed(0))
    both = prompt.rows(torch.tensor([0, 0, 1, 1]))
    alpha, sigma = state.schedule.coefficients(level, noise)
    x_t = (alpha * x0.repeat_interleave(2, 0) + sigma * noise).requires_grad_()
    noised = Noised(x0.repeat_interleave(2, 0), x_t, noise, level, alpha, sigma)
    scores = scores_at(state.roles, recipe.method, noised, both, state.schedule)
    (pull,) = torch.autograd.grad(recipe.method.loss(noised, scores).sum(), x_t)
    by_hand = -(alpha * pull).unflatten(0, (2, 2)).mean(1)
    torch.testing.assert_close(moves["regularizer"], by_hand, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(by_hand, -pull.unflatten(0, (2, 2)).mean(1), rtol=1e-2), "control: without alpha"
