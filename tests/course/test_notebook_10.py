"""What notebook 10 says of SDXL in true size, against the library's count, its records and the types' own constants."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

from distar_core.course import EXERCISES
from distar_core.runs.settings import Defaults
from distar_core.sdxl.adapters import LORA_TARGETS
from distar_core.sdxl.ledger import count_step
from distar_core.sdxl.loading import describe_pipeline
from distar_core.sdxl.recipe import PictureRecipe
from distar_core.sdxl.shapes import SDXL, TOKENS, described_on_meta
from distar_core.world.models import SHIPPED

ROOT = Path(__file__).parents[2]
SOURCE = (ROOT / "notebooks" / "source" / "10_sdxl_dry_run.py").read_text("utf-8")
RECORDS = ROOT / "notebooks" / "records" / "sdxl_true_size.jsonl"
RANK = 8
KEYS = {
    "reward_scale": 1.0, "cfg_scale": 7.5, "huber_c": 1.6, "steps": 1, "warmup": 0, "batch": 1, "prompts": 1, "lr": 5e-7,
    "assistant_lr": 5e-7, "ema_decay": 0.99, "rank": RANK, "checkpoint_unets": True, "checkpoint_decoder": True,
}  # fmt: skip


class Recipe(PictureRecipe):
    DEFAULTS = Defaults(None)


class Brightness(torch.nn.Module):
    differentiable = True

    def forward(self, *, images, prompts):
        return images.mean((1, 2, 3))


@pytest.fixture(scope="module")
def model():
    """The miniature in bf16, without its numbers."""
    return described_on_meta(describe_pipeline(SHIPPED / "reference", dtype=torch.bfloat16))


def numbers(*networks):
    return sum(p.numel() for network in networks for p in network.parameters())


@pytest.mark.parametrize(
    ("roles", "learns", "optimizer", "slots"), [("lora", 0, "rmsprop", 1), ("full", 1, "adam", 2)], ids=["lora", "full"]
)
def test_what_10_1_asks_for_is_what_is_held_and_10_3_what_is_executed(model, roles, learns, optimizer, slots):
    pipeline = model.pipeline
    layers = [layer for name, layer in pipeline.unet.named_modules() if name.endswith(LORA_TARGETS)]
    adapter = sum(RANK * sum(layer.weight.shape) for layer in layers)
    rest = numbers(pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
    wanted = EXERCISES["10.1"].reference(numbers(pipeline.unet), rest, adapter, slots)[learns]
    recipe = Recipe.read(KEYS, reward="brightness", roles=roles, optimizer=optimizer)
    found = count_step(recipe, model, Brightness(), ["a red circle"], grain=1)
    assert found.static == pytest.approx(wanted, rel=0.01), "prompts, buffers and counts of updates are the rest"
    forward, decoder = (found.flops[phase] for phase in ("assistant: samples", "decoder"))
    hand, once = (EXERCISES["10.3"].reference(3, learns, again) * forward for again in (1, 0))
    assert 0.8 < found.flops_per_sample / (hand + 3 * decoder) < 1, "the rules round up"
    assert found.flops_per_sample > once + 2 * decoder, "control: with nothing computed again it is less"


def test_seconds_that_the_notebook_calls_recorded_are():
    rows = [json.loads(line) for line in RECORDS.read_text("utf-8").splitlines()]
    graphs = {}
    for row in rows:
        if "graph_seconds_a_sample" in row and not row["asked"].get("channels_last"):
            graphs[{"lora": "lora", "cast": "full"}[row["asked"]["roles"]]] = row["graph_seconds_a_sample"]
    said = dict(re.findall(r'"(lora|full)": ([0-9.]+)', re.search(r"^recorded = .*$", SOURCE, re.MULTILINE).group()))
    assert {roles: float(seconds) for roles, seconds in said.items()} == graphs
    (eager,) = [
        row["seconds_a_sample"] for row in rows if row["asked"] == {"roles": "lora", "cap_gib": 22, "steps": 54}
    ]
    assert f"took {eager:.2f} s" in SOURCE.replace("\n# ", " ")
    assert rows[0]["name"] == "NVIDIA H200"
    assert "an H200" in SOURCE


def test_numbers_in_the_prose():
    values = 4 * SDXL["unet"]["sample_size"] ** 2
    assert f"n = {values:,} values" in SOURCE
    spacing = torch.finfo(torch.bfloat16).eps
    assert (math.sqrt(values), 1 / spacing, math.sqrt(values) * spacing) == (256, 128, 2)
    width = SDXL["text_encoder"]["hidden_size"] + SDXL["text_encoder_2"]["hidden_size"]
    assert f"{TOKENS} tokens, {width} wide, and a pooled vector of {SDXL['text_encoder_2']['projection_dim']}" in SOURCE
    assert spacing / 2 <= 0.004, "what rounding once does at most to a frozen weight"
    for slots, size in ((1, 20), (2, 28)):
        one, more = (EXERCISES["10.1"].reference(0, 0, adapter, slots)[0] for adapter in (0, 1))
        assert more - one == size
    assert "for each learning weight 20 (28 with Adam)" in SOURCE
    forwards = [EXERCISES["10.3"].reference(*given) for given in ((3, 1, 1), (3, 0, 1), (3, 0, 0), (2, 0, 0))]
    assert forwards == [18, 16, 11, 9]
    assert EXERCISES["10.1"].reference(1000, 370, 90, 1)[0] == 6540
