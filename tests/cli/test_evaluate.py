"""distar evaluate: the miniature's models end to end, and what it refuses before anything is drawn."""

import json
import re

import pytest
import torch
from torchvision.io import read_image
from typer.testing import CliRunner

from distar_core.cli.evaluate import find_model, find_prompts, find_scorer
from distar_core.cli.main import app
from distar_core.evaluation.harness import read_table
from distar_core.rewards.published import CLIP_EXAMPLE
from distar_core.sdxl.card import CARD
from distar_core.sdxl.published import MODELS

CAPTIONS = ["a red circle", "a blue square on a dark background", "a green triangle above a red square"]


def distar(*words):
    result = CliRunner().invoke(app, ["evaluate", *map(str, words)])
    return result, re.sub(r"\s+", " ", result.output)


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "captions.txt"
    path.write_text("\n".join(CAPTIONS) + "\n", "utf-8")
    return path


def asked(captions):
    """Two models of the world under two judges."""
    models = ("--model", "world", "--model", "ref=world-reference,steps=2,guidance_scale=1.5")
    return (*models, "--prompts", captions, "--rewards", "world:gold,world:clip", "--seeds", 2, "--device", "cpu")


def test_the_worlds_models_are_drawn_scored_and_compared_in_one_process_or_two(captions, tmp_path):
    whole, two = tmp_path / "whole", tmp_path / "two"
    result, said = distar(whole, *asked(captions))
    assert result.exit_code == 0, said
    assert "ref against world on captions:" in said
    rows = read_table(whole / "table.csv")
    assert [row["prompt"] for row in rows[:6:2]] == CAPTIONS
    assert {row["model"] for row in rows} == {"world", "ref"}
    assert all(float(row["world:clip"]) != float(row["world:gold"]) for row in rows)
    report = (whole / "report.md").read_text("utf-8")
    assert "2 steps of its own scheduler, guidance_scale 1.5" in report
    assert "one step at time 399" in report
    result, said = distar(two, *asked(captions), "--shard", "0/2")
    assert result.exit_code == 0
    assert "shard 0/2 is done" in said
    assert not (two / "table.csv").exists()
    result, said = distar(two, *asked(captions), "--shard", "1/2")
    assert "report.html" in said
    for name in ("table.csv", "report.html", "report.md"):
        assert (two / name).read_bytes() == (whole / name).read_bytes()
    before = (whole / "rows" / "0-of-1.jsonl").read_bytes()
    assert distar(whole, *asked(captions))[0].exit_code == 0
    assert (whole / "rows" / "0-of-1.jsonl").read_bytes() == before, "nothing was missing"


def picture_of(card):
    """The picture that the Python of a model card draws where the export is, its noise from a fixed seed."""
    code = card.split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) <= 5
    (load, draw), known = code.split("picture = "), {}
    exec(load, known)
    torch.manual_seed(0)  # loading draws, too
    exec(f"picture = {draw}", known)
    return read_image("picture.png").short()


def test_a_run_and_what_is_exported_of_it_draw_as_the_run_does(captions, tmp_path, monkeypatch):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{steps: 3, warmup: 0, batch: 4, prompts: 8, roles: lora, lr: 0.02, ema_decay: 0.5}", "utf-8")
    run, lora, export = tmp_path / "run", tmp_path / "lora", tmp_path / "export"
    for words in (
        ("train", "world", run, "--recipe", recipe, "--count", 2),
        ("export", run, lora, "--lora"),
        ("export", run, export),
    ):
        assert CliRunner().invoke(app, [str(word) for word in words]).exit_code == 0
    models = [f"start={'world'}", f"{run}", f"lora=world,lora={lora}", str(export)]
    words = [word for text in models for word in ("--model", text)]
    every = [tmp_path / "out", *words, "--prompts", captions, "--rewards", "world:clip", "--device", "cpu"]
    result, said = distar(*every)
    assert result.exit_code == 0, said
    rows = read_table(tmp_path / "out" / "table.csv")
    scores = {
        name: [float(row["world:clip"]) for row in rows if row["model"] == name]
        for name in ("start", "run", "lora", "export")
    }
    assert scores["lora"] == pytest.approx(scores["run"], abs=5e-4)
    assert scores["export"] == pytest.approx(scores["run"], abs=5e-4)
    far = max(abs(one - other) for one, other in zip(scores["start"], scores["run"], strict=True))
    assert far > 4e-3, "control: the run has moved"
    assert len({row["weights"] for row in rows}) == 4
    half = find_model(str(run), dtype="float16", device="cpu").load().draw.func.__self__.pipeline
    assert half.unet.dtype == torch.float16
    assert half.vae.dtype == torch.float32, "as its configuration says, since SDXL's own overflows in float16"
    words = ("--model", run, "--model", export, "--prompts", captions, "--rewards", "world:clip", "--device", "cpu")
    assert distar(tmp_path / "half", *words, "--dtype", "float16")[0].exit_code == 0
    run = run.rename(tmp_path / "moved")  # what an evaluation has seen is known by its weights
    for evaluation in ("half", "out"):
        words = ["export", run, export, "--evaluation", tmp_path / evaluation]
        assert CliRunner().invoke(app, [str(word) for word in words]).exit_code == 0
        assert "this model is run and export there" in (export / CARD).read_text("utf-8")
    words = ["export", run, lora, "--lora", "--evaluation", tmp_path / "out"]
    assert CliRunner().invoke(app, [str(word) for word in words]).exit_code == 0
    assert "this model is run and lora and export there" in (lora / CARD).read_text("utf-8")
    run.rename(tmp_path / "run")
    assert distar(*every)[0].exit_code == 0
    (file,) = lora.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    result, said = distar(*every)
    assert result.exit_code == 1
    assert "rows of model lora with lora on the disk" in said
    words = ["export", tmp_path / "run", lora, "--lora"]
    assert CliRunner().invoke(app, [str(word) for word in words]).exit_code == 0
    monkeypatch.chdir(tmp_path)
    drawn = [picture_of((folder / CARD).read_text("utf-8")) for folder in (export, lora)]
    assert drawn[0].shape == (3, 32, 32)
    assert (drawn[0] - drawn[1]).abs().max() <= 2
    result, said = distar(tmp_path / "two", "--model", lora, "--prompts", captions, "--rewards", "world:clip")
    assert result.exit_code == 1
    assert f"world,lora={lora}" in said


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (("--model", "world"), "two models are called 'world'"),
        (
            ("--model", "nothing"),
            "there is no nothing, and no model of that name; known are world, world-reference, sdxl",
        ),
        (("--model", "x=world,steps=4"), "has steps, but it draws in one step"),
        (("--model", "x=world-reference,steps=many"), "has steps 'many'"),
        (("--model", "x=world,colour=red"), "the setting 'colour'; known are steps"),
        (("--model", "x=dmd2,steps=4"), "a UNet alone draws in one step"),
        (("--prompts", "party"), "no prompt file party, and no set of that name; known are world, parti, hpsv2"),
        (("--prompts", "parti=nowhere.tsv"), "there is no nowhere.tsv; name a copy of PartiPrompts.tsv"),
        (("--rewards", "beauty"), "reward 'beauty' is unknown"),
        (
            ("--rewards", "world:beauty"),
            "the world has world:gold, world:faithful, world:preference, world:preference-2",
        ),
        (("--hacking", "world:preference"), "trained on world:preference, which is not among the rewards world:gold"),
        (("--hacking", "world:clip"), "judged by two other rewards or more, and here there is none"),
        (("--shard", "2/2"), "shard '2/2'"),
        (("--dtype", "float8"), "dtype 'float8'"),
        (("--device", "cuda:99"), "device 'cuda:99' is none here; torch finds cpu"),
        (("--device", "abacus"), "device 'abacus' is none here; torch finds cpu"),
        (("--layouts",), "but not captions; leave out --layouts"),
        (("--distances", "nowhere"), "nowhere has no pictures"),
    ],
)
def test_what_cannot_be_honoured_is_refused_in_a_sentence_before_anything_is_drawn(captions, tmp_path, changed, told):
    result, said = distar(tmp_path / "out", *asked(captions), *changed)
    assert result.exit_code == 1
    assert told in said
    assert result.stderr.startswith("distar: ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def hacking(*models):
    """The panel of these models, trained on the world's preference."""
    words = [word for text in models for word in ("--model", text)]
    rewards = "world:preference,world:clip,world:preference-2,world:gold"
    return (*words, "--rewards", rewards, "--hacking", "world:preference", "--seeds", 2, "--device", "cpu")


def test_a_model_beside_itself_is_no_hack(captions, tmp_path):
    result, said = distar(tmp_path, *hacking("start=world", "same=world"), "--prompts", captions)
    assert result.exit_code == 0, said
    assert "same against start on captions: no sign of a hack." in said
    assert "hacking.html" in said
    lines = {row["line"]: row for row in read_table(tmp_path / "hacking.csv")}
    changes = {float(row["change"]) for name, row in lines.items() if name != "distance"}
    assert changes == {0.0}
    assert float(lines["path-length"]["start"]) > 0
    assert {row["verdict"] for row in lines.values()} == {"no sign"}
    assert lines["world:gold"]["sign"] == ""
    assert "jpeg" not in (tmp_path / "report.md").read_text("utf-8"), "the controls are the panel's"
    words = hacking("start=world", "same=world")
    words = [*words[: words.index("--hacking")], "--seeds", 2, "--prompts", captions]
    again, said = distar(tmp_path, *words)
    assert again.exit_code == 0
    assert "hacking.csv" not in said, "the same table"
    words[words.index("--rewards") + 1] = "world:gold"
    other, said = distar(tmp_path, *words)
    assert other.exit_code == 0
    assert "hacking.csv is not of the table.csv that lies beside it" in said


@pytest.mark.parametrize(
    ("models", "told"),
    [
        (("world",), "world has no start to be compared with"),
        (("world", "world"), "two models are called 'world'"),
        (("world", "x=nowhere"), "there is no nowhere"),
    ],
)
def test_a_panel_without_its_models_is_refused_in_a_sentence(captions, tmp_path, models, told):
    result, said = distar(tmp_path / "out", *hacking(*models), "--prompts", captions)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert told in said
    assert not (tmp_path / "out").exists()


def test_a_picture_that_was_spoilt_is_told_with_its_remedy(captions, tmp_path):
    words = ("--model", "world", "--prompts", captions, "--device", "cpu")
    assert distar(tmp_path, *words, "--rewards", "world:gold")[0].exit_code == 0
    picture = tmp_path / "pictures" / "world" / "captions" / "00001-0.png"
    picture.write_text("spoilt", "utf-8")
    result, said = distar(tmp_path, *words, "--rewards", "world:gold,world:clip")
    assert result.exit_code == 1
    assert f"{picture} is no picture; remove it" in said
    picture.unlink()
    assert distar(tmp_path, *words, "--rewards", "world:gold,world:clip")[0].exit_code == 0


def test_every_published_model_has_a_place_on_the_hub_and_is_drawn_as_published():
    for name in MODELS:
        model = find_model(name, dtype="float16", device="cuda:1")
        assert model.name == name
        assert model.settings["source"] == MODELS[name].source
        assert model.settings["computes"] == "in float16 on cuda"
        assert ("50 steps" if name in ("sdxl", "flux-dev") else "one step at time 399") in model.settings["draws"]
    other = find_model("mine=owner/unets/one.safetensors,base=owner/base", dtype="float32", device="cpu")
    assert (other.name, other.settings["base"]) == ("mine", "owner/base")
    assert find_model("owner/unets/one.safetensors", dtype="float32", device="cpu").name == "one"
    whole = find_model("owner/pipeline-1.0,steps=25", dtype="float32", device="cpu")
    assert whole.name == "pipeline-1.0"
    assert "25 steps of its own scheduler, guidance_scale 5" in whole.settings["draws"]


def test_a_model_is_known_by_its_files_and_not_by_how_its_path_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "unets" / "mine.safetensors"
    place.parent.mkdir()
    place.write_bytes(b"weights")

    def settings(text):
        return find_model(text, dtype="float32", device="cpu").settings

    before = settings("unets")
    assert settings("unets/") == settings("./unets") == before
    place.with_name("notes.txt").write_text("no weights")
    assert settings("unets") == before
    place.write_bytes(b"others.")
    assert settings("unets") != before
    assert settings("dmd2,lora=unets")["lora on the disk"] == settings("unets")["source on the disk"]
    run = tmp_path / "run" / "checkpoint.safetensors"
    run.parent.mkdir()
    run.write_bytes((4).to_bytes(8, "little") + b"head" + b"numbers")
    before = settings("run")
    run.write_bytes((4).to_bytes(8, "little") + b"head" + b"others.")
    assert settings("run") == before, "a checkpoint's header has the digests of its tensors"
    run.write_bytes((4).to_bytes(8, "little") + b"hare" + b"numbers")
    assert settings("run") != before


def test_prompts_and_rewards_by_name(tmp_path):
    (tmp_path / "mine.jsonl").write_text("\n".join(json.dumps({"prompt": text}) for text in CAPTIONS), "utf-8")
    found = find_prompts(str(tmp_path / "mine.jsonl"))
    assert (found.name, [entry.prompt for entry in found.entries]) == ("mine", CAPTIONS)
    assert find_prompts(f"other={tmp_path / 'mine.jsonl'}").name == "other"
    world = find_prompts("world")
    assert {entry.category for entry in world.entries} == {"one object", "two objects"}
    assert len({entry.prompt for entry in world.entries}) == len(world.entries) > 100
    one, two = (find_scorer(text, "cpu") for text in ("hpsv2.1", f"hpsv2.1={tmp_path}"))
    assert one.identity == two.identity
    assert "xswu/HPSv2" in one.identity
    assert one.factor == 100
    with pytest.raises(FileNotFoundError, match="HPS_v2"):
        two.load()
    clip = find_scorer(f"{CLIP_EXAMPLE}={tmp_path / 'nowhere'}", "cpu")
    assert clip.name == CLIP_EXAMPLE
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        clip.load()
