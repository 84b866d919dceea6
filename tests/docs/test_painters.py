"""The playground docs/web/painters.js, held to the library: the built script itself is asked, in Node."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from distar_core.sdxl.models import TextToImage
from distar_core.sdxl.post_training import make_state
from distar_core.world.judges import GoldPreference, Judges, load_judges
from distar_core.world.models import SHIPPED, load_world
from distar_core.world.oracle import compare, read
from distar_core.world.recipe import WorldRecipe
from distar_core.world.scenes import (
    BACKGROUNDS,
    COLOURS,
    RELATIONS,
    SHAPES,
    Stated,
    Thing,
    both_groups,
    caption_of,
    lay_out,
    read_caption,
    render,
)
from tests.browser import ask_node
from tools import painters, painters_data

ROOT = Path(__file__).parents[2]
WEB = ROOT / "docs" / "web"
HARNESS = Path(__file__).with_name("painters_harness.mjs")
Ask = Callable[..., Any]


def packed(values: Tensor) -> str:
    return base64.b64encode(values.detach().float().contiguous().numpy().tobytes()).decode()


def unpacked(text: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), np.float32).copy())


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """Asks the built script, with weights.js as `make site` writes it."""
    weights = tmp_path_factory.mktemp("painters") / "weights.js"
    weights.write_text(painters_data.script(), "utf-8")

    def asked(task: str, **question: Any) -> Any:
        return ask_node(HARNESS, WEB / "painters.js", weights, task=task, **question)

    return asked


@pytest.fixture(scope="module")
def world() -> TextToImage:
    return load_world()


@pytest.fixture(scope="module")
def judges() -> Judges:
    return load_judges()


def every_caption() -> list[str]:
    """All sentences of the world's grammar."""
    things = [Thing(*pair) for pair in product(range(len(COLOURS)), range(len(SHAPES)))]
    backgrounds = (None, *range(len(BACKGROUNDS)))
    one = [Stated((thing,), size, None, ground) for thing in things for size in (None, 0, 1) for ground in backgrounds]
    two = [
        Stated(pair, None, relation, ground)
        for pair in product(things, things)
        for relation in range(len(RELATIONS))
        for ground in backgrounds
    ]
    return [caption_of(stated) for stated in one + two]


# ------------------------------------------------------------------------------------------------------------- pictures

SENTENCES = ("a red circle left of a blue square", "a small green triangle on a dark background", "seven red dragons!")


@pytest.mark.filterwarnings("ignore:the model has never seen")
def test_pictures_are_those_of_torch(ask: Ask, world: TextToImage) -> None:
    """One step and the guided reference, from the library's noise; control: another noise."""
    seeds = [3, 4, 5]
    z = world.noise(seeds)
    wishes = [
        {"sentence": sentence, "z": packed(own), "method": method}
        for method in ("start", "reference")
        for sentence, own in zip(SENTENCES, z, strict=True)
    ]
    found = torch.stack([unpacked(text).view(3, 32, 32) for text in ask("paint", wishes=wishes)])
    known = torch.cat([world.draw(SENTENCES, seeds), world.draw_reference(SENTENCES, seeds)])
    assert (found - known).abs().max() < 1e-5
    assert (found[:3] - world.draw(SENTENCES, [6, 7, 8])).abs().max() > 0.1


def test_adapters_paint_what_the_library_paints_with_them(ask: Ask, world: TextToImage, judges: Judges) -> None:
    """Every method at its first and last stop and another strength; control: the start."""
    seeds, sentence = [3], SENTENCES[0]
    z = world.noise(seeds)
    cases = [
        (name, stop, strength) for name in painters.METHODS for stop, strength in ((10, 1.0), (200, 1.0), (200, 2.5))
    ]
    wishes = [
        {"sentence": sentence, "z": packed(z), "method": name, "stop": stop, "strength": strength}
        for name, stop, strength in cases
    ]
    found = [unpacked(text).view(1, 3, 32, 32) for text in ask("paint", wishes=wishes)]
    start = world.draw([sentence], seeds)
    for (name, stop, strength), pictures in zip(cases, found, strict=True):
        generator = make_state(painters.recipe_of(name, 0), world, judges.preference).roles.generator.module
        adapters = load_file(painters.SHIPPED / f"{name}.safetensors")
        known = painters.drawer(world, generator, adapters, stop, strength)([sentence], seeds)
        assert (pictures - known).abs().max() < 1e-5, (name, stop, strength)
        assert (pictures - start).abs().max() > 1e-3, (name, stop, strength)


def test_a_picture_depends_on_its_noise_alone(ask: Ask) -> None:
    """Any seeded normal numbers: 64 seeds have their moments, and no two are alike."""
    seeds = list(range(64))
    first, again = (ask("noise", seeds=seeds) for _ in range(2))
    assert first == again
    assert len(set(first)) == len(seeds)
    values = torch.stack([unpacked(text) for text in first]).double()
    standard_error = values.numel() ** -0.5
    assert abs(values.mean()) < 4 * standard_error
    assert abs(values.square().mean() - 1) < 4 * 2**0.5 * standard_error
    assert abs(values.pow(4).mean() - 3) < 4 * 96**0.5 * standard_error


# ------------------------------------------------------------------------------------------------------------- language


def test_captions_and_tokens_are_those_of_the_library(ask: Ask, world: TextToImage) -> None:
    """All sentences of the grammar, and random ones of letters, words, signs, digits, accents and other scripts."""
    rng = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz ABCXYZ 0189 .,;!?'-&<|>()\"\t\néßÉİΣñ赤い円🙂\u00a0\u0301"
    words = ["a", "red", "Circle", "BLUE", "square.", "it's", "we're", "don't", "left'of", "ſ", "Ⅷ"]
    words += ["<|endoftext|>", "<|startoftext|>", "<|ENDOFTEXT|>"]
    free = ["".join(rng.choices(letters, k=rng.randrange(1, 40))) for _ in range(1500)]
    mixed = [
        "".join(rng.choice(words) + rng.choice(["", " ", "  "]) for _ in range(rng.randrange(1, 20)))
        for _ in range(1500)
    ]
    captions = every_caption()
    texts = captions + free + mixed
    tokenizer = world.pipeline.tokenizer
    known = tokenizer(texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True).input_ids
    assert ask("tokens", texts=texts) == known
    stated = [read_caption(caption) for caption in captions]
    assert ask("captions", texts=captions) == [
        {
            "things": [thing._asdict() for thing in one.things],
            "size": one.size,
            "relation": one.relation,
            "background": one.background,
        }
        for one in stated
    ]


def test_what_is_no_caption_is_none(ask: Ask) -> None:
    texts = [
        "",
        "red circle",
        "a red circle on a blue square",
        "a small red circle left of a blue square",
        "a red  circle",
    ]
    for text in texts:
        with pytest.raises(ValueError, match="cannot be read"):
            read_caption(text)
    assert ask("captions", texts=texts) == [None] * len(texts)


def test_a_sentence_outside_the_language_is_said_to_be_so_in_one_sentence(ask: Ask) -> None:
    """It names the words that are unknown, the first that stands where it cannot, and those for which there is no room."""
    assert ask("remarks", texts=["A red circle.", "a  red\ncircle"]) == [["a red circle", ""]] * 2
    named = {
        "a small dragon": ["dragon"],
        "a purple hexagon on a dark background": ["purple", "hexagon", "a dark background"],
        "red circle": ["red"],
        "a small green circle left of a large red triangle": ["left", "a small green circle"],
        "a red circle left of a blue square on a light background triangle": ["triangle", "… a light background"],
        "a red circle left of a blue square on a dark background above a small": [
            "above",
            "… a dark background",
            "small",
        ],
        "a red": [],
        f"a {'x' * 150} circle": ["xxxxxxxxx…", "xxxxxxxxxxxxxxxxx…"],
    }
    said = [remark for _, remark in ask("remarks", texts=list(named))]
    assert [re.findall("“(.*?)”", one) for one in said] == list(named.values())
    assert all(one.count(".") == 1 and len(one) < 150 for one in said)


def test_a_caption_goes_on_with_these_words_alone(ask: Ask) -> None:
    """After every beginning of a caption; nothing follows a whole one, and nothing what begins none."""
    known: dict[str, set[str]] = {"a red triangle triangle": set(), "red": set(), "a small red circle left": set()}
    for caption in every_caption():
        words = caption.split()
        known.setdefault(caption, set())
        for at, word in enumerate(words):
            known.setdefault(" ".join(words[:at]), set()).add(word)
    assert known["a red circle"] == {"on", "left", "right", "above", "below"}
    assert ask("following", beginnings=list(known)) == [sorted(words) for words in known.values()]


# --------------------------------------------------------------------------------------------------------------- judges


def looked_at(world: TextToImage) -> tuple[Tensor, list[str]]:
    """500 pictures: rendered scenes, one-step pictures of right and of other captions, and what is no scene at all."""
    draws = both_groups(100)
    rng = torch.Generator().manual_seed(0)
    drawn = world.draw(draws.captions, draws.seeds)
    noisy = (drawn[:60] + 0.25 * torch.randn(60, 3, 32, 32, generator=rng)).clamp(0, 1)
    mixed = (drawn[:20] + drawn[100:120]) / 2
    plain = torch.rand(20, 3, 1, 1, generator=rng).expand(-1, -1, 32, 32)
    pictures = torch.cat([render(lay_out(draws.stated, rng)), drawn, noisy, mixed, plain])
    captions = draws.captions + draws.captions[3:] + draws.captions[:3] + draws.captions[:60] + draws.captions[:40]
    return pictures, captions


def test_the_oracle_is_the_librarys(ask: Ask, world: TextToImage) -> None:
    pictures, captions = looked_at(world)
    assert len(pictures) == 500
    reading = read(pictures)
    verdicts = compare(reading, [read_caption(caption) for caption in captions])
    gold = GoldPreference.of(reading, verdicts.all)
    found = ask("oracle", pictures=[packed(picture) for picture in pictures], sentences=captions)
    assert [one["number"] for one in found] == reading.number.tolist()
    assert [one["background"] for one in found] == reading.scenes.background.tolist()
    # which of two equally large objects is the first is left to torch
    order = reading.scenes.centre[:, :, 0].argsort(1)
    things = [sorted(one["things"], key=lambda thing: thing["centre"][0]) for one in found]
    for name in ("colour", "shape", "radius", "centre", "brightness"):
        known = getattr(reading.scenes, name)
        known = known.gather(1, order.view(len(order), 2, *[1] * (known.dim() - 2)).expand_as(known))
        here = torch.tensor([[thing[name] for thing in pair] for pair in things])
        torch.testing.assert_close(here, known, atol=2e-4, rtol=0)
    for name, values in verdicts._asdict().items():
        assert [one["verdict"][name] for one in found] == values.tolist(), name
        assert 0 < values.float().mean() < 1  # both kinds are there
    torch.testing.assert_close(torch.tensor([one["gold"] for one in found]), gold, atol=2e-4, rtol=0)


def test_the_reward_is_the_librarys(ask: Ask, world: TextToImage, judges: Judges) -> None:
    draws = both_groups(10)
    pictures = world.draw(draws.captions, draws.seeds)
    known = judges.preference(images=pictures, prompts=draws.captions)
    found = ask("judge", pictures=[packed(picture) for picture in pictures], sentences=draws.captions)
    torch.testing.assert_close(torch.tensor([one["proxy"] for one in found]), known, atol=1e-4, rtol=0)
    gold = judges.gold(images=pictures, prompts=draws.captions)
    torch.testing.assert_close(torch.tensor([one["gold"] for one in found]), gold, atol=2e-4, rtol=0)
    assert ask("judge", pictures=[packed(pictures[0])], sentences=["circle red"]) == [None]


# -------------------------------------------------------------------------------------------------------- what is refused


CHANGES = [
    {"config": ("pipeline", "force_zeros_for_empty_prompt", False)},
    {"config": ("scheduler", "timestep_spacing", "trailing")},
    {"config": ("generator", "block_out_channels", [32, 128])},
    {"config": ("reference", "act_fn", "gelu")},
    {"config": ("vae", "scaling_factor", 0.13)},
    {"config": ("text_encoder", "hidden_act", "gelu")},
    {"config": ("text_encoder_2", "architectures", ["CLIPTextModel"])},
    {"config": ("clip", "preprocess_cfg", {})},
    {"file": "preference"},
]


def test_a_part_of_another_kind_is_refused_by_name(ask: Ask) -> None:
    """One thing changed in each part's configuration, or a file left out; control: the shipped world is taken."""
    *refused, taken = ask("changed", changes=[*CHANGES, {}])
    for change, said in zip(CHANGES, refused, strict=True):
        assert (change["config"][1] if "config" in change else change["file"]) in said
    assert taken is None


# --------------------------------------------------------------------------------------------------------------- worker


def test_the_worker_paints_what_is_wished_for_first_and_judges_it(ask: Ask) -> None:
    wish = {"sentence": SENTENCES[0], "seed": 2, "stop": 60, "strength": 1}
    ready, remark, *painted = ask("messages", requests=[{"kind": "load"}, {"kind": "wish", "wish": wish}], most=22)
    assert (ready["kind"], ready["stops"]) == ("ready", [0, *painters.STOPS])
    assert remark == {"kind": "remark", "sentence": SENTENCES[0], "text": ""}
    keys = [(one["key"], one["column"]) for one in painted]
    wanted = [(key, column) for key in ("start", "star 60 1", "greedy 60 1") for column in range(6)]
    assert keys[: len(wanted)] == wanted
    assert {one["key"] for one in painted[len(wanted) :]} == {"reference"}
    assert all(one["size"] == 4 * 1024 and one["seed"] == 2 for one in painted)
    assert all(set(one["judgement"]) == {"verdict", "gold", "proxy"} for one in painted[: len(wanted)])


# ------------------------------------------------------------------------------------------------------------- snapshots


def shipped() -> dict[str, Any]:
    return json.loads((painters.SHIPPED / "measured.json").read_text("utf-8"))


@pytest.mark.parametrize("name", painters.METHODS)
def test_the_shipped_adapters_are_those_of_the_recorded_run(name: str) -> None:
    path = painters.SHIPPED / f"{name}.safetensors"
    found = shipped()[name]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == found["sha256"]
    assert path.stat().st_size <= 1.5e6
    written = painters.recipe_of(name, found["seed"]).written
    moves_nothing = {"panels_every", "cuda_graphs"}
    assert found["recipe"] == {key: value for key, value in written.items() if key not in moves_nothing}
    runs = {int(seed): {"stops": stops} for seed, stops in found["runs"].items()}
    assert set(runs) == set(painters.SEEDS)
    assert found["seed"] == painters.median_seed(runs)
    stops = {int(key.partition(".")[0]) for key in load_file(path)}
    assert stops == set(painters.STOPS) == {int(stop) for stop in found["runs"]["0"]}


def test_the_answers_to_the_questions_hold(ask: Ask) -> None:
    """In every run; the numbers that are told are those of the runs that paint."""
    found = shipped()
    start = found["start"]
    ends = {name: [stops["200"] for stops in found[name]["runs"].values()] for name in painters.METHODS}
    own = {name: found[name]["runs"][str(found[name]["seed"])] for name in painters.METHODS}
    star, greedy = own["star"]["200"], own["greedy"]["200"]
    truth, when, left_open, much = ask("questions")

    for led, free in product(ends["star"], ends["greedy"]):
        assert free["preference"] > led["preference"] > start["preference"]
        assert free["gold"] < start["gold"] < led["gold"]
        assert free["open_entropy"] < 0.05 < led["open_entropy"] < start["open_entropy"]
    assert truth["answers"][truth["right"]] == "Reward alone in the reward, Diff-Instruct* in the true preference"
    numbers = [f"{one['preference']:.1f}" for one in (greedy, star, start)]
    numbers += [f"{one['gold']:.2f}" for one in (greedy, star, start)]
    draws = found["draws"]
    wrong, wrong_before = (round(draws * (1 - one["faithful"])) for one in (greedy, start))
    numbers += [f"Of {draws} pictures by reward alone {wrong} are not", f"it was {wrong_before}."]
    # the runs of docs/world.md, whose numbers the first page shows
    row = re.search(
        r"\| gold \| ([\d.]+) .*? \| ([\d.]+) .*? \| ([\d.]+) ", (ROOT / "docs/world.md").read_text("utf-8")
    )
    assert row
    adapters = painters.recipe_of("greedy", 0)
    whole = WorldRecipe.read({"method": "reward-only"})
    assert (whole.roles, adapters.roles, adapters.lr / whole.lr) == ("full", "lora", pytest.approx(10))
    numbers += [f"at {row[2]} and at {row[3]}, from {row[1]}, where all weights", f"for {whole.steps} steps at a tenth"]
    assert all(number in truth["tell"] for number in numbers)

    best = [max(stops, key=lambda stop: stops[stop]["gold"]) for stops in found["greedy"]["runs"].values()]
    assert all(20 < int(stop) < 80 for stop in best)  # of 200
    assert when["answers"][when["right"]] == "after about a quarter"
    top = max(own["greedy"], key=lambda stop: own["greedy"][stop]["gold"])
    assert f"Near step {top}, at {own['greedy'][top]['gold']:.2f}" in when["tell"]

    assert left_open["answers"][left_open["right"]] == "Diff-Instruct*, less than before"
    values = [f"{one['open_entropy']:.2f}" for one in (start, star, greedy)]
    assert all(value in left_open["tell"] for value in values)

    assert much["answers"][much["right"]] == "Diff-Instruct*’s"
    assert much["strength"] == 2.5
    strong = {name: found[name]["strengths"] for name in painters.METHODS}
    assert strong["star"]["2.5"]["faithful"] > 0.8
    assert strong["greedy"]["2.5"]["faithful"] == 0
    right, right_before = (round(draws * one["faithful"]) for one in (strong["star"]["2.5"], strong["greedy"]["1.5"]))
    assert f"of {draws} that were measured, {right} are" in much["tell"]
    assert f"none of reward alone’s {draws}" in much["tell"]
    assert f"only {right_before} of them" in much["tell"]


def test_the_numbers_of_the_page_are_those_of_the_card(world: TextToImage) -> None:
    text = (WEB / "painters.html").read_text("utf-8")
    card = json.loads((SHIPPED / "card.json").read_text("utf-8"))
    right, pairs = card["judges"]["preference"]
    said = dict(re.findall(r'data-fact="(\w+)">([\d%]+)<', text))
    room = world.pipeline.tokenizer.model_max_length - 2
    assert said == {"pairs": str(card["recipe"]["pairs"]), "agreement": f"{right / pairs:.0%}", "room": str(room)}
    size = len(painters_data.script().encode()) / 1e6
    assert f"{size:.0f} MB" in text
