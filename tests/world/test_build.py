"""A much shortened build, end to end: it trains, stops, goes on where it stopped, and leaves what diffusers loads."""

import copy
import hashlib
import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from distar_core.cli.main import app
from distar_core.rates import decay
from distar_core.runs.signals import Interrupted
from distar_core.sdxl.latents import encode
from distar_core.sdxl.miniature import make_pipeline
from distar_core.world.build import RECIPES, Captioned, StoredLatents, TextAndUNet, build, seconds_of
from distar_core.world.models import load_world
from distar_core.world.scenes import WORDS

TINY = RECIPES["ci"]


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.safetensors"))
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    told = []
    weights = build(folder, TINY, told.append)
    return weights, told


def test_a_shortened_build_leaves_what_loads_and_draws(whole):
    weights, told = whole
    assert [(p.stage, p.done) for p in told if p.done == p.total] == [
        ("autoencoder", 3),
        ("latents", 64),
        ("reference", 3),
        ("generator", 3),
        ("low noise", 2),
        ("CLIP", 3),
        ("preference", 3),
        ("preference-2", 3),
        ("preference-3", 3),
    ]
    world = load_world(weights)
    for pictures in (
        world.draw(["a red circle"] * 2, [0, 1]),
        world.draw_reference(["a red circle"] * 2, [0, 1], steps=2),
    ):
        assert pictures.shape == (2, 3, 32, 32)
        assert 0 <= float(pictures.min()) <= float(pictures.max()) <= 1
        assert not torch.equal(*pictures)
    for draw in (world.draw, world.draw_reference):
        with pytest.raises(ValueError, match="there are 2 prompts but 1 seeds; give one seed per prompt"):
            draw(["a red circle"] * 2, [0])
    # every stage has moved its weights
    torch.manual_seed(TINY.seed)
    fresh = make_pipeline(WORDS)
    for name in ("vae", "unet", "text_encoder", "text_encoder_2"):
        before, after = (
            torch.cat([v.flatten() for v in getattr(p, name).parameters()]) for p in (fresh, world.pipeline)
        )
        assert not torch.equal(before.half(), after.half()), name
    pair = (world.unet.parameters(), world.pipeline.unet.parameters())
    assert not all(torch.equal(a, b) for a, b in zip(*pair, strict=True))
    assert all(seconds > 0 for seconds in seconds_of(weights.parent).values())


@pytest.mark.parametrize(
    "moment",
    [("autoencoder", 2), ("reference", 1), ("generator", 2), ("low noise", 1), ("CLIP", 1), ("preference-2", 2)],
)
def test_a_build_that_was_stopped_equals_one_that_was_not(whole, tmp_path, moment):
    def stop(progress):
        if progress[:2] == moment:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        build(tmp_path, TINY, stop)
    assert digests(build(tmp_path, TINY)) == digests(whole[0])


def test_control_another_seed_gives_other_weights(whole, tmp_path):
    found = digests(build(tmp_path, replace(TINY, seed=1)))
    assert found.keys() == digests(whole[0]).keys()
    assert not set(found.values()) & set(digests(whole[0]).values())


def test_a_folder_with_another_build_is_refused(whole):
    with pytest.raises(ValueError, match="resume with the settings of the run"):
        build(whole[0].parent, replace(TINY, reference_steps=4))


def test_latents_are_normalised_by_the_vae_that_ships(whole):
    from distar_core.world.scenes import render, training_scenes

    vae = load_world(whole[0]).pipeline.vae
    pictures = render(training_scenes(500, torch.Generator().manual_seed(5))[0])
    with torch.no_grad():
        latents = encode(vae, pictures)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=0.15)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), rtol=0, atol=0.15)


def test_a_dropped_caption_is_the_null_condition():
    torch.manual_seed(0)
    pipeline = make_pipeline(WORDS)
    network = TextAndUNet(copy.deepcopy(pipeline.unet), (pipeline.text_encoder, pipeline.text_encoder_2), tokens=16)
    ids = pipeline.tokenizer(["a red circle"] * 2, padding="max_length", return_tensors="pt").input_ids
    condition = Captioned(torch.tensor([0, 1]), ids, torch.tensor([True, False]))
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([100, 100])
    with torch.no_grad():
        found, null = network(x, t, condition), network.network(x, t, None)
    torch.testing.assert_close(found[1], null[1], rtol=0, atol=1e-6)
    assert float((found[0] - null[0]).abs().max()) > 1e-4
    stored = torch.randn(5, 4, 8, 8)
    assert torch.equal(StoredLatents(stored)(torch.empty(0), condition), stored[:2])


def test_rates_rise_and_fall():
    rate = decay(2.0, 100, rise=9)
    rates = [rate(step) for step in range(-100, 0)]
    assert rates.index(max(rates)) == 9
    assert max(rates) < 2.0
    assert rates[0] == pytest.approx(0.2)
    assert rates[-1] < 0.01


def test_the_command_builds_measures_and_says_what_is_below_the_bar(tmp_path):
    result = CliRunner().invoke(app, ["world", "build", str(tmp_path), "--profile", "ci"])
    assert result.exit_code == 0, result.output
    assert result.output.count("below the bar: ") == 4
    card = json.loads((tmp_path / "weights" / "card.json").read_text("utf-8"))
    assert card["measured"]["renders"]["one"]["all"] == [20, 20]
    assert card["measured"]["reference"]["two"]["all"][0] < 5
    text = (tmp_path / "weights" / "README.md").read_text("utf-8")
    for name in ("reference.png", "one_step.png"):
        assert (tmp_path / "weights" / name).is_file()
        assert f"]({name})" in text
    result = CliRunner().invoke(app, ["world", "build", str(tmp_path), "--profile", "large"])
    assert result.exit_code == 1
    assert "profile 'large' is unknown" in result.output
