"""distar doctor --sdxl: what is here of what SDXL needs, and the estimates for common cards."""

import pytest
from rich.console import Console
from typer.testing import CliRunner

from distar_core import extras
from distar_core.cli import doctor, terminal
from distar_core.cli.main import app
from distar_core.runs.hub import fetched, named
from distar_core.sdxl.cards import CARDS, USABLE, Card
from distar_core.sdxl.plan import counted, flops_of_run, is_cached
from distar_core.sdxl.recipe import RECIPES, SdxlRecipe, find_recipe
from distar_core.world.models import SHIPPED

GIB = 2**30


@pytest.fixture
def told(monkeypatch, hub):
    """told(options): what the command prints, on a wide terminal and with an empty cache."""
    monkeypatch.setattr(terminal, "console", Console(width=200))

    def run(*words):
        result = CliRunner().invoke(app, ["doctor", *map(str, words)])
        return result, " ".join(result.output.split())

    return run


def test_every_recipe_was_counted():
    found = counted()
    assert set(found) == {path.stem for path in RECIPES.glob("*.yaml")}
    for name, one in found.items():
        assert one.ledger.peak > one.ledger.static > 10 * GIB
        assert SdxlRecipe.read(find_recipe(name)).batch % one.processes == 0


@pytest.mark.parametrize(("share", "price"), [(0.5, None), (0.25, 3.0)])
def test_hours_and_cost_follow_from_counted_flops_and_stated_rates(share, price):
    head, *rows = doctor.estimates(share, price)
    assert f"hours at {share:.0%} of its peak" in head
    assert len(rows) == len(counted()) * len(CARDS)
    by_place = {(row[0], row[1]): row[3:] for row in rows}
    ledger = counted()["24gb"].ledger
    recipe = SdxlRecipe.read(find_recipe("24gb"))
    seconds = flops_of_run(recipe, ledger) / (share * 165.2e12)
    hours, *cost = by_place["24gb", "RTX 4090, 165.2 TFLOP/s"]
    assert float(hours) == pytest.approx(seconds / 3600, abs=0.05)
    assert [float(each) for each in cost] == pytest.approx([] if price is None else [price * seconds / 3600], abs=0.01)
    assert by_place["80gb", "RTX 4090, 165.2 TFLOP/s"][0] == "too small"
    assert "too small" not in by_place["80gb", "A100 80 GB, 312 TFLOP/s"]


def test_a_card_has_what_is_usable_of_its_memory():
    card = Card("a card", 10, 1.0, "nowhere")
    assert card.has(int(USABLE * 10 * GIB))
    assert not card.has(int(USABLE * 10 * GIB) + 1)
    assert all(card.source and card.tflops > 0 for card in CARDS)


def test_the_command_lists_models_licences_disk_and_estimates(told, hub):
    result, said = told("--sdxl", "--price", 2)
    assert result.exit_code == 0, said
    for word in ("not in the cache: stabilityai/stable-diffusion-xl-base-1.0", "licence: CC BY-NC 4.0", "PickScore_v1"):
        assert word in said
    for word in ("disk for downloads", "checkpoints of 80gb", "too small", "cost", "Estimates"):
        assert word in said
    assert not hub.sent, "nobody was asked"
    control, said = told("--sdxl")
    assert control.exit_code == 0
    assert "cost" not in said


@pytest.mark.parametrize(("option", "value"), [("--price", 2), ("--share", 0.5)])
def test_price_and_share_are_for_the_estimates(told, option, value):
    result, _ = told(option, value)
    assert result.exit_code == 1
    assert f"{option} {value}" in result.stderr


def test_without_the_packages_it_says_how_to_get_them(told, monkeypatch):
    monkeypatch.setattr(extras, "requires", lambda _: ["torch>=2", 'no-such-package>=1; extra == "models"'])
    result, said = told("--sdxl")
    assert result.exit_code == 0, said
    assert "without no-such-package" in said
    assert '-m pip install -e ".[models]"' in said
    assert "too small" in said, "the estimates need none of them"


def test_what_is_in_the_cache_is_whole_or_it_is_not_there(hub):
    hub.models["me/model"] = SHIPPED / "reference"
    whole, file = named("me/model"), named("me/model/unet/diffusion_pytorch_model.safetensors")
    assert not is_cached(whole)
    assert not is_cached(file)
    fetched(whole, ["*.json", "*/*.json"])
    assert not is_cached(whole), "its weights are not there"
    fetched(whole, ["*"])
    assert is_cached(whole)
    assert is_cached(file)
    assert not is_cached(whole, "fp16")
    sent = len(hub.sent)
    is_cached(whole)
    assert len(hub.sent) == sent
