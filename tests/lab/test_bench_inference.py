"""What a picture costs: parts against the pipelines that they are parts of, and FLUX-dev's network by hand."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from distar_core.cli.main import app
from distar_core.evaluation.tables import markdown_table
from distar_core.lab import bench_inference
from distar_core.lab.bench_inference import (
    FLUX,
    MAKERS,
    ONE,
    count_route,
    flux_route,
    need,
    peak,
    sdxl_routes,
    tables,
    time_route,
    total_flops,
)
from distar_core.sdxl.ledger import Tally
from distar_core.sdxl.models import TextToImage
from distar_core.sdxl.shapes import FLUX_DEV, untrained_flux
from distar_core.world.models import load_world

RECORD = Path(__file__).parents[2] / "notebooks" / "records" / "inference_costs.json"
PAGE = Path(__file__).parents[2] / "docs" / "sdxl_costs.md"
TINY_FLUX = {
    "transformer": {
        **FLUX_DEV["transformer"],
        "in_channels": 16,
        "num_layers": 1,
        "num_single_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 24,
        "axes_dims_rope": (4, 6, 6),
    },
    "vae": {
        **FLUX_DEV["vae"],
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "latent_channels": 4,
    },
    "text_encoder": {
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "projection_dim": 24,
    },
    "text_encoder_2": {
        **FLUX_DEV["text_encoder_2"],
        "vocab_size": 64,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 4,
    },
}


@pytest.fixture(scope="module")
def routes():
    """Small routes: one step, three guided steps, and three of a FLUX of two thousand weights."""
    world = load_world()
    one, many = sdxl_routes(TextToImage(world.pipeline, world.pipeline.unet), steps=3)
    torch.manual_seed(0)
    flux = untrained_flux(TINY_FLUX, device="cpu", dtype=torch.float32)
    return {"one": one, "many": many, "flux": flux_route(flux, pixels=32, steps=3, tokens=8)}


@pytest.mark.parametrize("name", ["one", "many", "flux"])
def test_the_parts_are_what_a_picture_takes(name, routes):
    """The FLOPs of a picture drawn by diffusers' own pipeline, to the last one."""
    route = routes[name]
    tally = Tally("cpu")
    with torch.no_grad(), tally:
        picture = route.draw()
    assert picture.isfinite().all()
    counted = count_route(route)
    assert total_flops(counted) == tally.flops.total()
    assert all(part["flops"] > 0 for part in counted["parts"].values())
    assert counted["weights"] == pytest.approx(
        sum(t.nbytes for network in route.networks for t in network.state_dict().values()), rel=0.5
    ), "rounded up tensor by tensor"
    assert all(part["peak"] > counted["weights"] for part in counted["parts"].values())


def test_guidance_doubles_the_networks_calls(routes):
    one, many = (count_route(routes[name])["parts"] for name in ("one", "many"))
    assert many["network"]["calls"] == 3 * one["network"]["calls"]
    assert many["network"]["flops"] == 2 * one["network"]["flops"]
    assert many["decoder"]["flops"] == one["decoder"]["flops"]
    assert many["text"]["flops"] == one["text"]["flops"], "the null condition is zeros"


def test_flux_devs_network_by_hand():
    """Products two FLOPs a weight and token, attention 4 L² w; modulations and embeddings of times see one row."""
    width, text, image = 3072, 512, 64**2
    both = text + image
    attention = 4 * both**2 * width
    double = 2 * both * 12 * width**2 + 2 * 2 * 6 * width**2 + attention
    single = 2 * both * 12 * width**2 + 2 * 3 * width**2 + attention
    ends = 2 * image * 64 * width * 2 + 2 * text * 4096 * width
    embeddings = 2 * (2 * (256 * width + width**2) + 768 * width + width**2) + 2 * 2 * width**2
    route = MAKERS[FLUX]("meta")
    weights = sum(p.numel() for p in route.networks[2].parameters())
    assert weights == pytest.approx(11.9e9, rel=0.01), "FLUX-dev has twelve billion"
    t5 = sum(p.numel() for p in route.networks[1].parameters())
    assert t5 == pytest.approx(4.76e9, rel=0.01), "the encoder of T5-XXL, once"
    counted = count_route(route)
    assert counted["parts"]["network"]["flops"] == 19 * double + 38 * single + ends + embeddings


def test_calls_are_timed_where_the_networks_are(routes):
    for route in routes.values():
        found = time_route(route, repeats=1)
        assert found["parts"].keys() == route.parts.keys()
        assert found["picture"] > 0
        assert found["peaks"] is None


def test_the_command_compares_with_flux_and_with_what_is_published(monkeypatch, tmp_path, routes):
    monkeypatch.setattr(
        bench_inference, "MAKERS", {ONE: lambda device: routes["one"], FLUX: lambda device: routes["flux"]}
    )
    result = CliRunner().invoke(app, ["bench", "inference", "--out", str(tmp_path / "costs.json")])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "costs.json").read_text("utf-8"))
    one, there = (total_flops(found["counted"][name]) for name in (ONE, FLUX))
    assert f"{one / there:.2%}" in result.stdout
    assert "1.88%" in result.stdout
    assert "29.30%" in result.stdout


def test_measured_pictures_stand_beside_flux_where_it_fits(routes):
    counted = {name: count_route(routes[key]) for name, key in ((ONE, "one"), (FLUX, "flux"))}
    seconds = {
        name: {"parts": {"text": 0.5}, "picture": value, "peaks": {"allocated": size, "reserved": size}}
        for name, value, size in ((ONE, 1.0, 2**30), (FLUX, 4.0, 2**31))
    }
    found = {"counted": counted, "seconds": seconds, "card": {"name": "a card", "memory": 2**34}}

    def first_row():
        return tables(found)["Pictures, on the clock, a card"][1]

    assert first_row()[1:5] == ["1", "25.00%", "1.00", "50.0%"]
    del seconds[FLUX]
    assert first_row()[1:5] == ["1", "", "1.00", ""]
    del seconds[ONE]
    assert first_row()[1].startswith("does not fit")
    assert need(counted[ONE]) > peak(counted[ONE]) > counted[ONE]["weights"]


def test_the_page_has_the_recorded_tables():
    recorded = json.loads(RECORD.read_text("utf-8"))
    page = PAGE.read_text("utf-8")
    for cells in tables(recorded).values():
        assert markdown_table(cells) in page
