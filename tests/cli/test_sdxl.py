"""distar train sdxl and distar export on the miniature's folders, which are in SDXL's formats: training, stopping, resuming,
and what is refused before a model is loaded.
"""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import StableDiffusionXLPipeline
from torchvision.io import read_image
from typer.testing import CliRunner

from distar_core.cli import doctor
from distar_core.cli import sdxl as commands
from distar_core.cli.main import app
from distar_core.methods import METHODS
from distar_core.rewards import published, shapes
from distar_core.rewards.base import FrozenReward
from distar_core.runs.logs import rows_before
from distar_core.runs.processes import Alone, Processes
from distar_core.runs.run import CHECKPOINT
from distar_core.runs.settings import RECIPE
from distar_core.sdxl import models, plan, post_training
from distar_core.sdxl.export import load_lora
from distar_core.sdxl.loading import quiet
from distar_core.sdxl.miniature import make_pipeline
from distar_core.sdxl.models import load_text_to_image
from distar_core.sdxl.post_training import load_run, run_recipe
from distar_core.sdxl.recipe import RECIPES, SdxlRecipe, find_recipe
from distar_core.world.judges import load_clip
from distar_core.world.models import SHIPPED

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 500  # only so long is waited for the processes; nothing else depends on time
CAPTIONS = ["a red circle left of a blue square", "a large green triangle"]
SMALL = {
    "reference": str(SHIPPED / "reference"),
    "generator": str(SHIPPED / "generator"),
    "device": "cpu",
    "base": "fp32",
    "reward": {"pickscore": 1.0},
    "reward_scale": 4.0,
    "cfg_scale": 1.0,
    "roles": "lora",
    "lr": 0.02,
    "assistant_lr": 0.02,
    "ema_decay": 0.5,
    "steps": 3,
    "batch": 2,
    "micro_batch": 1,
    "warmup": 1,
    "save_every": 1,
    "checkpoint_unets": True,
}


def distar(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result, " ".join((result.output + result.stderr).split())


class Brightness(FrozenReward):
    """A reward of any size, to be counted in PickScore's place."""

    def read(self, prompts):
        return ()

    def judge(self, images, read):
        return images.mean((1, 2, 3))

    def forward(self, *, images, prompts):
        return self.judge(images, self.read(prompts))


@pytest.fixture(autouse=True)
def small_reward(monkeypatch):
    """PickScore's place is taken by the miniature's own CLIP, which is a CLIP score, too."""
    small = dataclasses.replace(published.PUBLISHED["pickscore"], loader=lambda _: load_clip(SHIPPED / "clip"))
    monkeypatch.setitem(published.PUBLISHED, "pickscore", small)
    monkeypatch.setitem(shapes.MAKERS, "pickscore", Brightness)


@pytest.fixture
def recipe(tmp_path):
    """A recipe's file, with prompts beside it."""
    (tmp_path / "prompts.txt").write_text("\n".join(CAPTIONS), "utf-8")
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL | {"prompts": "prompts.txt"}), "utf-8")
    return path


def test_a_card_that_is_full_ends_a_run_with_one_sentence(recipe, tmp_path, monkeypatch):
    def full(*inputs, **options):
        yield next(run_recipe(*inputs, **options))
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 256.00 MiB. GPU 0 has a total capacity of 24 GiB"
        )

    monkeypatch.setattr(post_training, "run_recipe", full)
    for graphs, remedy in (("true", "cuda_graphs=false"), ("false", "micro_batch=1")):
        folder = tmp_path / graphs
        result, said = distar("train", "sdxl", folder, "--recipe", recipe, "--set", f"cuda_graphs={graphs}")
        assert result.exit_code == 1
        for words in ("Tried to allocate 256.00 MiB", remedy, f"train sdxl {folder} --resume"):
            assert words in said
        assert "Traceback" not in said


def test_a_run_that_was_stopped_equals_one_that_was_not_and_is_exported(recipe, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    result, said = distar("train", "sdxl", whole, "--recipe", recipe)
    assert result.exit_code == 0, said
    assert f"distar export {whole} FOLDER" in said
    written = yaml.safe_load((whole / RECIPE).read_text("utf-8"))
    assert (written["huber_c"], written["pixels"], written["prompts"]) == (1.6, 32, "prompts.txt")
    assert [row["step"] for row in rows_before(9, whole / "log.csv")] == ["-1", "0", "1", "2"]
    assert all(row["peak_gib"] == "" for row in rows_before(9, whole / "log.csv")), "nobody counts on a CPU"

    def interrupted(*inputs, **options):
        for record in run_recipe(*inputs, **options):
            if record.step == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            yield record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(post_training, "run_recipe", interrupted)
        result, said = distar("train", "sdxl", stopped, "--recipe", recipe)
    assert result.exit_code == 143
    assert f"train sdxl {stopped} --resume" in said
    assert (stopped / CHECKPOINT).read_bytes() != (whole / CHECKPOINT).read_bytes()
    for words, expected in (
        (("--recipe", recipe), "already holds a run"),
        (("--resume", "--set", "steps=9"), "has steps 3, not 9"),
        (("--resume", "--recipe", recipe), "leave out --recipe"),
    ):
        result, said = distar("train", "sdxl", stopped, *words)
        assert result.exit_code == 1
        assert expected in said
    recipe.unlink()
    (tmp_path / "prompts.txt").unlink()
    result, said = distar("train", "sdxl", stopped, "--resume", "--set", "save_every=2")
    assert result.exit_code == 0, said
    assert (stopped / CHECKPOINT).read_bytes() == (whole / CHECKPOINT).read_bytes()

    model = load_text_to_image(SMALL["reference"], generator=SMALL["generator"])
    generator = load_run(SdxlRecipe.of_run(whole), model, None, whole).roles.generator
    drawn = {
        "averaged": model.draw(CAPTIONS, [0, 1], generator.averaged),
        "last": model.draw(CAPTIONS, [0, 1], generator.module),
        "start": model.draw(CAPTIONS, [0, 1]),
    }
    result, said = distar("sample", whole, *CAPTIONS, "--seed", 3, "--out", tmp_path / "drawn")
    assert result.exit_code == 0, said
    wanted = (model.draw(CAPTIONS, [3, 3], generator.averaged) * 255).round()
    for number, picture in enumerate(wanted):
        assert (read_image(str(tmp_path / "drawn" / f"{number}.png")) - picture).abs().max() <= 1
    for words, told in (
        (("sample", whole, " "), "prompt 0 is empty"),
        (("sample", tmp_path / "nothing", "a"), "there is no run in"),
        (("sample", whole, "a", "--out", whole), "belongs to a run"),
    ):
        result, said = distar(*words)
        assert result.exit_code == 1
        assert told in said
    for folder, options in (("pipeline", []), ("lora", ["--lora"])):
        result, said = distar("export", whole, tmp_path / folder, *options)
        assert result.exit_code == 0, said
    assert f"load_text_to_image({SMALL['reference']!r}, generator={SMALL['generator']!r})" in said
    for pipeline in (
        StableDiffusionXLPipeline.from_pretrained(tmp_path / "pipeline"),
        load_lora(
            load_text_to_image(SMALL["reference"], generator=SMALL["generator"]).one_step_pipeline(), tmp_path / "lora"
        ),
    ):
        options = {"num_inference_steps": 1, "timesteps": [399], "guidance_scale": 0.0, "output_type": "pt"}
        pictures = pipeline(CAPTIONS, latents=model.noise([0, 1]), **options).images
        far = {name: float((pictures - other).abs().max()) for name, other in drawn.items()}
        assert far["averaged"] < 1e-4
        assert min(far["last"], far["start"]) > 1e-3, "control: neither the last weights nor the start's"


def test_two_processes_are_one_with_micro_batches_to_the_byte_and_one_resumes_them(recipe, tmp_path):
    """The command under torchrun, as docs/processes.md has it; one process says what there is to say."""
    keys = SMALL | {
        "reward_scale": 0.0,
        "steps": 2,
        "warmup": 0,
        "keep": 2,
        "also_log": ["jsonl"],
        "prompts": "prompts.txt",
    }
    recipe.write_text(yaml.safe_dump(keys), "utf-8")
    one, two, resumed = tmp_path / "one", tmp_path / "two", tmp_path / "resumed"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    command = [sys.executable, "-m", "distar_core.cli.main", "train", "sdxl", two, "--recipe", recipe]
    ended = subprocess.run(
        [*torchrun, *command],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert ended.stdout.count("counted at the peak") == ended.stdout.count(f"distar export {two} FOLDER") == 1
    result, said = distar("train", "sdxl", one, "--recipe", recipe)
    assert result.exit_code == 0, said
    names = {CHECKPOINT, "checkpoint_at_1.safetensors", "config.json", "log.csv", "log.jsonl", RECIPE, "prompts.txt"}
    assert names <= {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    for name in names - {"log.csv", "log.jsonl"}:
        assert (two / name).read_bytes() == (one / name).read_bytes()
    assert (two / "checkpoint_at_1.safetensors").read_bytes() != (two / CHECKPOINT).read_bytes(), "control"
    logs = [[row | {"seconds": ""} for row in rows_before(9, run / "log.csv")] for run in (one, two)]
    assert logs[0] == logs[1]

    shutil.copytree(two, resumed)
    (resumed / "checkpoint_at_1.safetensors").replace(resumed / CHECKPOINT)
    result, said = distar("train", "sdxl", resumed, "--resume", "--set", "keep=1")
    assert result.exit_code == 0, said
    assert (resumed / CHECKPOINT).read_bytes() == (one / CHECKPOINT).read_bytes()


def test_a_batch_that_processes_and_micro_batches_do_not_divide_is_refused():
    class OfTwo(Alone):
        count, number, rows = 2, 1, Processes.rows

    own = SdxlRecipe.read(SMALL | {"prompts": "prompts.txt", "batch": 12, "micro_batch": 3})
    assert commands.share_of(own, OfTwo()) == 6
    assert commands.share_of(own, Alone()) == 12
    with pytest.raises(ValueError, match=r"micro_batch is 4.* the 6 samples"):
        commands.share_of(own.replace(micro_batch=4), OfTwo())
    with pytest.raises(ValueError, match=r"batch 9 .* 2 processes"):
        commands.share_of(own.replace(batch=9), OfTwo())


def test_a_method_without_a_reward_loads_none(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("distar_core.rewards.mix.load_reward", lambda *_: pytest.fail("loaded"))
    changes = ["method=diff-instruct", "roles=full", "steps=1", "optimizer=rmsprop", "micro_batch=2"]
    words = [word for change in changes for word in ("--set", change)]
    result, said = distar("train", "sdxl", tmp_path / "run", "--recipe", recipe, *words)
    assert result.exit_code == 0, said
    assert "diff-instruct, no reward" in said
    (_, row) = rows_before(9, tmp_path / "run" / "log.csv")
    assert row["reward"] == ""
    assert float(row["pull_regularizer"]) > 0


def test_a_dry_run_says_what_a_run_takes_and_leaves_nothing(recipe, tmp_path, monkeypatch):
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(models, "load_text_to_image", lambda *_, **__: pytest.fail("loaded"))
    result, said = distar("train", "sdxl", tmp_path / "run", "--recipe", recipe, "--dry-run", "--set", "peak_tflops=1")
    assert result.exit_code == 0, said
    for told in (
        "generator: backward",
        "GiB counted at the peak",
        "an estimate at 50%",
        "disk:",
        "reward pickscore, about 3.9 GB",
    ):
        assert told in said
    assert "reference, about" not in said, "it is on the disk"
    changes = ("--processes", 2, "--set", "roles=full", "--set", "optimizer=rmsprop")
    result, said = distar("train", "sdxl", tmp_path / "run", "--recipe", recipe, "--dry-run", *changes)
    assert result.exit_code == 0, said
    assert "memory, in each of 2 processes:" in said
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--recipe 24gb"),
        (["--recipe", "SMALL", "--processes", "2"], "torchrun --standalone --nproc-per-node 2"),
        (["--recipe", "SMALL", "--dry-run", "--processes", "3"], "batch 2 is not divisible by the 3 processes"),
        (["--recipe", "23gb"], "'23gb'; known are 24gb, 80gb"),
        (["--recipe", "SMALL", "--set", "steps"], "--set steps is no setting"),
        (["--recipe", "SMALL", "--set", "=3"], "--set =3 is no setting"),
        (["--recipe", "SMALL", "--set", "steps="], "--set steps= gives no value"),
        (["--recipe", "SMALL", "--set", "resume=true"], "'resume' is True, but there is no such key"),
        (["--recipe", "SMALL", "--set", "step=3"], "'step' is 3, but there is no such key"),
        (["--recipe", "SMALL", "--set", "steps=3", "--set", "steps=4"], "--set steps stands twice"),
        (["--recipe", "SMALL", "--set", "reward={"], "--set reward"),
        (["--recipe", "SMALL", "--set", "reward=beauty"], "'beauty' is unknown; known are imagereward"),
        (["--recipe", "SMALL", "--set", "reward={imagereward: {weight: 1, unit: logit}}"], "unit 'logit'"),
        (["--recipe", "SMALL", "--set", "micro_batch=3"], "should divide the batch of 2"),
        (["--recipe", "SMALL", "--set", "best=beauty"], "'best' is 'beauty'"),
        (["--recipe", "SMALL", "--set", "best=pull_cfg"], "which a run by diff-instruct* does not log"),
        (["--recipe", "SMALL", "--set", "best=reward", "--set", "method=sim"], "which a run by sim does not log"),
        (["--recipe", "SMALL", "--set", "also_log=[csv]"], "known are jsonl, tensorboard"),
        (["--recipe", "SMALL", "--set", "keep=0"], "'keep' is 0"),
        (["--recipe", "SMALL", "--set", "times=[979, 20]"], "'times' is [979, 20]"),
        (["--recipe", "SMALL", "--set", "assistant_times=[0, 1000]"], "has times from 0 to 999"),
        (["--recipe", "SMALL", "--set", "targets=[to_v, to_w]"], "'to_w'"),
        (["--recipe", "SMALL", "--set", "pixels=33"], "pixels is 33"),
        (["--recipe", "SMALL", "--set", "vae_type=fp16"], "overflows in float16"),
        (["--recipe", "SMALL", "--set", "prompts=picture.png"], "picture.png"),
        (["--recipe", "SMALL", "--set", "prompts=nowhere.txt"], "nowhere.txt"),
        (["--recipe", "SMALL", "--set", "reference=nowhere"], "nowhere is no pipeline folder"),
        (["--recipe", "24gb", "--set", "device=cpu"], "--set prompts=FILE"),
    ],
)
def test_what_cannot_work_is_one_sentence_before_anything_is_loaded(recipe, tmp_path, monkeypatch, words, told):
    monkeypatch.setattr(models, "load_text_to_image", lambda *_, **__: pytest.fail("loaded"))
    monkeypatch.setattr("distar_core.rewards.mix.load_reward", lambda *_: pytest.fail("loaded"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    result, said = distar("train", "sdxl", "run", *(recipe if word == "SMALL" else word for word in words))
    assert result.exit_code == 1, said
    assert result.stderr.startswith("distar: ")
    assert result.stderr.count("\n") == 1
    assert told in said


def test_what_the_machine_or_the_hub_does_not_have_is_one_sentence(recipe, tmp_path, monkeypatch, hub):
    monkeypatch.setattr(models, "load_text_to_image", lambda *_, **__: pytest.fail("loaded"))
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "notes.txt").write_text("mine", "utf-8")
    hub.models["some/gated"] = SHIPPED / "reference"
    hub.gated.add("some/gated")
    refiner = tmp_path / "refiner"
    refiner.mkdir()
    (refiner / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}', "utf-8")

    def refused(*words, run="run"):
        result, said = distar("train", "sdxl", tmp_path / run, "--recipe", recipe, *words)
        assert result.exit_code == 1, said
        assert result.stderr.count("\n") == 1
        return said

    assert "holds other files" in refused(run="others")
    assert "some/gated is gated" in refused("--set", "reference=some/gated")
    assert "holds a StableDiffusionPipeline" in refused("--set", f"reference={refiner}")
    hub.go("unplugged")
    assert "the hub cannot be reached" in refused("--set", "reference=some/model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        assert "torch finds none here" in refused("--set", "device=cuda")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "memory_gib", lambda: 0.25)
        thrifty = ("--set", "optimizer=rmsprop", "--set", "checkpoint_decoder=true")  # nothing is left to save
        assert "but there are 0.25" in refused(*thrifty)
    with pytest.MonkeyPatch.context() as patch:
        usage = plan.shutil.disk_usage(tmp_path)
        patch.setattr(plan.shutil, "disk_usage", lambda _: usage._replace(free=1))
        said = refused()
        assert str(tmp_path / "run") in said
        assert "a checkpoint of" in said
    assert doctor.memory_gib() > 0.25, "control"
    assert not (tmp_path / "run").exists(), "a refused run leaves nothing"


def test_an_untrained_pipeline_of_another_size_is_a_legal_model(recipe, tmp_path):
    """Its own pixels, and a huber_c that follows from them; the generator is a file, as DMD2's is."""
    folder = tmp_path / "pipeline"
    torch.manual_seed(0)
    with quiet():
        make_pipeline(("a", "red", "circle"), pixels=16).save_pretrained(folder)
    changes = (f"reference={folder}", f"generator={folder / 'unet' / 'diffusion_pytorch_model.safetensors'}", "steps=1")
    words = [word for change in changes for word in ("--set", change)]
    result, said = distar("train", "sdxl", tmp_path / "run", "--recipe", recipe, *words)
    assert result.exit_code == 0, said
    own = SdxlRecipe.of_run(tmp_path / "run")
    assert (own.pixels, own.huber_c) == (16, 0.1 * (4 * 4 * 4) ** 0.5)


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_every_value_of_a_recipe_is_explained(name):
    for line in find_recipe(name).read_text("utf-8").splitlines():
        assert not line or line.startswith("#") or "  # " in line, line
    own = SdxlRecipe.read(find_recipe(name))
    assert SdxlRecipe.read(own.written) == own
    for method, row in METHODS.items():
        if method != "didr":
            written = SdxlRecipe.read(find_recipe(name), method=method).written
            assert written["method"] == method
            assert ("cfg_scale" in written) == (row.guidance != "none")
            assert ("reward_scale" in written) == (row.reward_at != "nowhere")
