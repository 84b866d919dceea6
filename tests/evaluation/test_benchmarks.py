"""Published prompt sets are read as published or refused, and laid out as their own scripts read them."""

import json

import pytest
from PIL import Image

from distar_core.evaluation import benchmarks
from distar_core.evaluation.benchmarks import BENCHMARKS, PUBLISHED, Entry, PromptSet
from distar_core.evaluation.harness import Plan
from distar_core.evaluation.layouts import write_layouts
from tests.evaluation import fakes
from tests.evaluation.test_harness import perform

QUOTED = '"G I G G L E" painted in thick colors'


@pytest.fixture
def parti(tmp_path, monkeypatch):
    """A file in PartiPrompts' form with as many prompts, which counts as the published one."""
    rows = [f"{QUOTED}\tWorld Knowledge\tBasic\t", *(f" prompt {k} \tAnimals\tBasic\tnote" for k in range(1, 1632))]
    path = tmp_path / "PartiPrompts.tsv"
    path.write_text("\n".join(["Prompt\tCategory\tChallenge\tNote", *rows]) + "\n", "utf-8")
    monkeypatch.setattr(benchmarks, "verify", lambda *_, **__: "")
    return path


def test_parti_keeps_its_quotes_and_loses_blanks_at_the_ends(parti):
    found = BENCHMARKS["parti"].load(parti)
    assert len(found.entries) == 1632
    assert found.entries[0] == Entry(QUOTED, "World Knowledge")
    assert found.entries[1] == Entry("prompt 1", "Animals")


def test_another_file_or_another_number_of_prompts_is_refused(parti, tmp_path, monkeypatch):
    parti.write_text(parti.read_text("utf-8") + "one more\tAnimals\t\t\n", "utf-8")
    with pytest.raises(ValueError, match=r"has 1633 prompts, but parti has 1632.*mine="):
        BENCHMARKS["parti"].load(parti)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"PartiPrompts.tsv has \d+ bytes, but .* has 123107"):
        BENCHMARKS["parti"].load(parti)
    parti.write_bytes(b"x" * 123_107)
    with pytest.raises(ValueError, match=r"SHA-256 .* but .* has fab29e41"):
        BENCHMARKS["parti"].load(parti)
    with pytest.raises(FileNotFoundError, match=r"a copy of PartiPrompts.tsv"):
        BENCHMARKS["parti"].load(tmp_path / "nothing")


def test_a_file_of_another_form_is_named(parti):
    parti.write_text("text\tkind\na\tb\n", "utf-8")
    with pytest.raises(ValueError, match="its columns are text, kind"):
        BENCHMARKS["parti"].load(parti)


def styles(folder, count=800):
    folder.mkdir(exist_ok=True)
    for style in benchmarks.STYLES:
        (folder / f"{style}.json").write_text(json.dumps([f"{style} {k}" for k in range(count)]), "utf-8")
    return folder


def test_hpsv2_is_four_styles_of_800_from_a_folder_or_the_hub(tmp_path, hub):
    found = BENCHMARKS["hpsv2"].load(styles(tmp_path / "copy"))
    assert len(found.entries) == 3200
    assert found.entries[800] == Entry("concept-art 0", "concept-art")
    (tmp_path / "HPDv2").mkdir()
    styles(tmp_path / "HPDv2" / "benchmark")
    hub.datasets["zhwang/HPDv2"] = tmp_path / "HPDv2"
    assert BENCHMARKS["hpsv2"].load().entries == found.entries
    styles(tmp_path / "copy", 799)
    with pytest.raises(ValueError, match=r"anime.json holds 799 entries"):
        BENCHMARKS["hpsv2"].load(tmp_path / "copy")


def test_a_set_that_cannot_be_fetched_says_what_a_copy_is(hub):
    with pytest.raises(FileNotFoundError, match=r"hpsv2 is not here .* a folder with anime.json.*hpsv2=PATH"):
        BENCHMARKS["hpsv2"].load()


def test_captions_and_tasks_are_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTAR_CACHE", str(tmp_path / "cache"))
    captions = tmp_path / "captions.txt"
    captions.write_text("a cat \n" * 30_000, "utf-8")
    assert BENCHMARKS["coco30k"].load(captions).entries[-1] == Entry("a cat")
    captions.write_text("a dog \n" * 30_000, "utf-8")
    with pytest.raises(ValueError, match="when it was first loaded here"):
        BENCHMARKS["coco30k"].load(captions)
    tasks = tmp_path / "evaluation_metadata.jsonl"
    row = {"tag": "counting", "include": [{"class": "cat", "count": 2}], "prompt": "a photo of two cats"}
    tasks.write_text((json.dumps(row) + "\n") * 553, "utf-8")
    assert BENCHMARKS["geneval"].load(tasks).entries[5] == Entry(row["prompt"], "counting", json.dumps(row))


def test_an_empty_set_is_refused():
    with pytest.raises(ValueError, match="prompt set mine is empty"):
        PromptSet("mine", [], "nowhere")


def test_published_rows_are_whole_and_of_sets_that_are_known():
    for one in PUBLISHED:
        assert one.benchmark in BENCHMARKS
        assert all(len(row) == len(one.metrics) for row in one.rows.values())
        assert one.protocol.endswith(".")
    (styles_table,) = (one for one in PUBLISHED if one.benchmark == "hpsv2")
    for model, row in styles_table.rows.items():
        # the average is over all pictures, as many in each style
        assert sum(row[:4]) / 4 == pytest.approx(row[4], abs=0.011), model


def test_layouts_are_those_of_the_sets_own_scripts(tmp_path):
    record = '{"tag": "colors", "prompt": "a red cat"}'
    geneval = PromptSet(
        "geneval", [Entry("a red cat", "colors", record), Entry("a dog", "single_object", "{}")], "made up"
    )
    hpsv2 = PromptSet("hpsv2", [Entry("a", "anime")] * 800 + [Entry("b", "photo")], "made up")
    plan = Plan([fakes.model("a")], [geneval, hpsv2], [fakes.scorer("red")], 2)
    perform(tmp_path, plan)
    one, two = write_layouts(tmp_path, plan)
    assert (one, two) == (tmp_path / "layouts" / "geneval" / "a", tmp_path / "layouts" / "hpsv2" / "a")
    files = sorted(str(path.relative_to(one)) for path in one.rglob("*.*"))
    inside = ["metadata.jsonl", "samples/0000.png", "samples/0001.png"]
    assert files == [f"{place:05d}/{name}" for place in range(2) for name in inside]
    assert (one / "00000" / "metadata.jsonl").read_text("utf-8") == record + "\n"
    copied, drawn = one / "00001" / "samples" / "0001.png", tmp_path / "pictures" / "a" / "geneval" / "00001-1.png"
    assert copied.read_bytes() == drawn.read_bytes()
    assert len(list((two / "anime").iterdir())) == 800
    with Image.open(two / "photo" / "00000.jpg") as picture:
        assert picture.format == "JPEG"
    other = Plan([fakes.model("a")], [fakes.prompt_set()], [fakes.scorer("red")])
    with pytest.raises(ValueError, match="not mine; leave out --layouts"):
        write_layouts(tmp_path, other)
