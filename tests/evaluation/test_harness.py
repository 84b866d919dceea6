"""The harness: rows that survive kills, are shared by processes and held to their pictures, models and scorers."""

import json
import multiprocessing
import random
import shutil
import signal

import pytest
import torch
from PIL import Image

from distar_core.errors import NonFiniteError
from distar_core.evaluation import harness
from distar_core.evaluation.harness import (
    PLAN,
    SEALS,
    TABLE,
    IncompleteError,
    Journal,
    Key,
    Plan,
    Shard,
    draw,
    prepare,
    read_finished,
    read_picture,
    read_rows,
    read_table,
    score,
    seal,
    table,
    write_parquet,
    write_table,
)
from distar_core.runs.folders import at_work
from tests.evaluation import fakes


def perform(folder, plan, shard=None):
    """Draw and score; the parts that a process has by default all."""
    prepare(folder, plan)
    for stage in (draw, score):
        stage(folder, plan, shard or Shard())


def made(folder, plan, shard=None):
    """The bytes of the table after all is done, and the pictures' bytes by name."""
    perform(folder, plan, shard)
    write_table(table(folder, plan), folder / "table.csv")
    return (folder / "table.csv").read_bytes(), pictures_in(folder)


def pictures_in(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in (folder / "pictures").rglob("*.png")}


def work(folder):
    """What a process of the test below does, in which it is killed."""
    torch.set_num_threads(1)
    perform(folder, fakes.plan(prompts=40))


def test_a_row_for_each_picture_says_all_about_it(tmp_path):
    plan = fakes.plan()
    made(tmp_path, plan)
    rows = read_table(tmp_path / "table.csv")
    assert rows == table(tmp_path, plan), "what is read is what was written, commas and quotes included"
    assert [(row["model"], row["place"], row["replicate"]) for row in rows] == [
        (model, str(place), str(replicate)) for model in "ab" for place in range(7) for replicate in range(2)
    ]
    for row in rows:
        entry = plan.sets[0].entries[int(row["place"])]
        assert (row["prompt"], row["category"], row["set"]) == (entry.prompt, entry.category, "mine")
        assert (row["bright.scorer"], row["red.scorer"], row["weights"]) == ("v1", "v1", "w0")
        exact = fakes.picture(row["model"], row["prompt"], int(row["seed"]))
        rounded = read_picture(tmp_path / row["picture"], row["sha256"])
        assert float((rounded - exact).abs().max()) <= 0.5 / 255 + 1e-6
        for reward, name in ((fakes.Brightness(), "bright"), (fakes.Redness(), "red")):
            assert float(row[name]) == float(reward(images=rounded[None], prompts=[row["prompt"]]))


def test_seeds_are_by_position_and_the_same_for_every_model():
    seeds = {key: key.seed for key in fakes.plan(seeds=3).keys()}  # noqa: SIM118
    by_place = {key[1:]: seed for key, seed in seeds.items()}
    assert all(by_place[key[1:]] == seed for key, seed in seeds.items())
    assert len(set(by_place.values())) == len(by_place) == 21
    assert Key("a", "mine", 0, 0).seed == 2_347_670_567, "what is drawn once is drawn again in later versions"


def test_killed_at_ten_random_moments_and_continued_the_table_is_the_same(tmp_path):
    whole = made(tmp_path / "whole", fakes.plan(prompts=40))
    rows = 2 * 80 + 2 * 2 * 80
    moments = sorted(random.Random(0).sample(range(1, rows - 20), 10))
    folder, killed = tmp_path / "cut", 0
    journal = folder / "rows" / "0-of-1.jsonl"
    context = multiprocessing.get_context("fork")  # torch is there already, so that ten processes cost little
    for moment in moments:
        process = context.Process(target=work, args=(folder,))
        process.start()
        while process.is_alive() and (not journal.is_file() or journal.read_bytes().count(b"\n") < moment):
            process.join(0.001)
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
    assert killed >= 8, "the others had ended before"
    assert made(folder, fakes.plan(prompts=40)) == whole
    assert not list(folder.rglob("*.part"))


def test_a_line_that_was_cut_anywhere_is_made_anew(tmp_path):
    plan = fakes.plan(models=("a",), scorers=("bright",), seeds=1, prompts=3)
    whole = made(tmp_path / "whole", plan)
    written = (tmp_path / "whole" / "rows" / "0-of-1.jsonl").read_bytes()
    folder = tmp_path / "cut"
    for length in range(0, len(written), 37):
        prepare(folder, plan)
        (folder / "rows").mkdir(exist_ok=True)
        (folder / "rows" / "0-of-1.jsonl").write_bytes(written[:length])
        assert made(folder, plan) == whole


def test_two_shards_make_what_one_process_makes_also_when_their_number_changes(tmp_path):
    plan = fakes.plan()
    whole = made(tmp_path / "whole", plan)
    first, second = Shard.read("0/2"), Shard.read("1/2")
    perform(tmp_path / "two", plan, first)
    with pytest.raises(IncompleteError, match="12 of 28 pictures"):
        table(tmp_path / "two", plan)
    assert made(tmp_path / "two", plan, second) == whole
    perform(tmp_path / "changed", plan, Shard(2, 3))
    assert made(tmp_path / "changed", plan) == whole
    with at_work(tmp_path / "two", "0-of-2"), pytest.raises(FileExistsError, match="0-of-2"):
        draw(tmp_path / "two", plan, first)


@pytest.mark.parametrize("text", ["2/2", "1", "a/b", "-1/2", "1/0", "0/2/3"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=text):
        Shard.read(text)


def test_only_what_is_missing_is_loaded_and_a_later_command_adds(tmp_path):
    loaded = []
    perform(tmp_path, fakes.plan(models=("a",), scorers=("bright",), seeds=1, loaded=loaded))
    assert loaded == ["a", "bright"]
    perform(tmp_path, fakes.plan(models=("a",), scorers=("bright",), seeds=1, loaded=loaded))
    assert loaded == ["a", "bright"], "nothing is missing"
    perform(tmp_path, fakes.plan(models=("a", "b"), scorers=("bright", "red"), seeds=1, loaded=loaded))
    assert loaded == ["a", "bright", "b", "bright", "red"]
    before = pictures_in(tmp_path)
    perform(tmp_path, fakes.plan(loaded=loaded))
    assert loaded[5:] == ["a", "b", "bright", "red"]
    after = pictures_in(tmp_path)
    assert {name: after[name] for name in before} == before
    assert len(after) == 28
    assert made(tmp_path, fakes.plan()) == made(tmp_path / "at once", fakes.plan())


def test_a_picture_that_is_gone_is_drawn_again_and_one_that_cannot_be_is_told(tmp_path):
    plan = fakes.plan()
    whole = made(tmp_path, plan)
    gone = tmp_path / Key("a", "mine", 3, 1).picture
    gone.unlink()
    assert made(tmp_path, plan) == whole
    gone.unlink()
    other = fakes.model("a")
    plan = Plan(
        [harness.Model("a", other.settings, lambda: harness.Drawer(lambda p, s: torch.zeros(1, 3, 8, 8), "w0"))],
        plan.sets,
        plan.scorers,
        2,
    )
    with pytest.raises(ValueError, match=f"{gone.name}.*drawn anew"):
        draw(tmp_path, plan)
    assert len(read_rows(tmp_path).drawn) == 28, "rows are kept"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.write_text("not a picture"), "is no picture"),
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "is damaged"),
        (lambda path: path.write_bytes(b""), "is no picture"),
        (lambda path: Image.new("RGB", (8, 8)).save(path), "SHA-256"),
    ],
)
def test_a_file_that_is_not_the_picture_is_told_and_rows_are_kept(tmp_path, damage, told):
    plan = fakes.plan(scorers=("bright",))
    prepare(tmp_path, plan)
    draw(tmp_path, plan)
    path = tmp_path / Key("b", "mine", 2, 0).picture
    damage(path)
    with pytest.raises(ValueError, match=f"{path.name}.*{told}"):
        score(tmp_path, plan)
    rows = read_rows(tmp_path)
    assert len(rows.drawn) == 28
    assert 14 <= len(rows.scored) < 28
    path.unlink()
    assert made(tmp_path, plan) == made(tmp_path / "other", plan), "the remedy"


def test_a_picture_that_was_replaced_after_it_was_scored_is_in_no_table(tmp_path):
    plan = fakes.plan(scorers=("bright",))
    perform(tmp_path, plan)
    one, other = (tmp_path / Key("b", "mine", place, 0).picture for place in (2, 3))
    one.write_bytes(other.read_bytes())
    with pytest.raises(ValueError, match=f"{one.name}.*SHA-256"):
        table(tmp_path, plan)
    one.unlink()
    with pytest.raises(FileNotFoundError, match=one.name):
        table(tmp_path, plan)


def test_other_weights_settings_prompts_and_scorers_than_those_of_the_rows_are_refused(tmp_path):
    loaded = []
    plan = fakes.plan(loaded=loaded)
    perform(tmp_path, plan)
    journals = (tmp_path / "rows" / "0-of-1.jsonl").read_bytes()
    others = (
        (Plan([fakes.model("a", source="elsewhere")], plan.sets, plan.scorers), "model a with source.*elsewhere"),
        (Plan(plan.models, [fakes.prompt_set(6)], plan.scorers), "set mine with prompts 7.*6"),
        (Plan(plan.models, plan.sets, [fakes.scorer("red", identity="v2")]), "reward red with scorer 'v1'.*'v2'"),
    )
    for other, told in others:
        with pytest.raises(ValueError, match=told):
            prepare(tmp_path, other)
    with pytest.raises(ValueError, match="scores by red as 'v1', but now it is 'v2'"):
        score(tmp_path, others[2][0])
    more = Plan([fakes.model("a", weights="w1")], plan.sets, plan.scorers, seeds=3)
    prepare(tmp_path, more)
    with pytest.raises(ValueError, match="model a by weights w0, but now they are w1"):
        draw(tmp_path, more)
    assert (tmp_path / "rows" / "0-of-1.jsonl").read_bytes() == journals
    perform(tmp_path, plan)  # control: as it was


def test_shards_that_drew_at_once_with_other_weights_make_no_table(tmp_path):
    """Neither sees the other's rows when it loads its weights, as of a run that learns on meanwhile."""
    plan = fakes.plan(models=("a",))
    other = Plan([fakes.model("a", weights="w1")], plan.sets, plan.scorers, plan.seeds)
    perform(tmp_path, plan, Shard(0, 2))
    perform(tmp_path / "beside", other, Shard(1, 2))
    for folder in ("rows", "pictures"):
        shutil.copytree(tmp_path / "beside" / folder, tmp_path / folder, dirs_exist_ok=True)
    with pytest.raises(ValueError, match="model a by weights w0 and w1"):
        table(tmp_path, plan)


def test_a_file_that_two_write_at_once_is_one_of_theirs(tmp_path, monkeypatch):
    """The other writes between this one's write and its rename, as shards of two divisions may; control: one name for both."""
    path, rename = tmp_path / "picture.png", type(tmp_path).replace

    def between(part, target):
        monkeypatch.undo()
        harness.write_whole(path, b"theirs", by="0-of-2")
        return rename(part, target)

    monkeypatch.setattr(type(tmp_path), "replace", between)
    harness.write_whole(path, b"ours", by="0-of-1")
    assert path.read_bytes() == b"ours"
    assert [found.name for found in tmp_path.iterdir()] == ["picture.png"]
    monkeypatch.setattr(type(tmp_path), "replace", between)
    with pytest.raises(FileNotFoundError):
        harness.write_whole(path, b"ours", by="0-of-2")


def test_what_has_no_row_yet_may_be_corrected(tmp_path):
    plan = fakes.plan()
    prepare(
        tmp_path,
        Plan([fakes.model("a", source="mistyped")], [fakes.prompt_set(6)], [fakes.scorer("red", identity="v0")]),
    )
    assert made(tmp_path, plan) == made(tmp_path / "other", plan)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"models": ("a", "a")}, "two models are called 'a'"),
        ({"models": ("a", "A")}, "two models are called 'a'"),
        ({"models": ("a/b",)}, "'a/b' cannot name a folder"),
        ({"models": ("..",)}, "cannot name a folder"),
        ({"models": ()}, "needs a model"),
        ({"scorers": ()}, "needs a reward"),
        ({"scorers": ("red", "red")}, "two rewards are called 'red'"),
        ({"seeds": 0}, "seeds is 0"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        fakes.plan(**arguments)


def test_a_folder_of_others_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds other files"):
        prepare(tmp_path, fakes.plan())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_full_disk_ends_with_a_sentence_and_every_finished_row(tmp_path, monkeypatch):
    plan = fakes.plan()
    prepare(tmp_path, plan)
    whole, count = type(tmp_path).write_bytes, []

    def full(path, data):
        count.append(path)
        if len(count) == 9:
            whole(path, data[:5])
            raise OSError(28, "No space left on device", str(path))
        return whole(path, data)

    monkeypatch.setattr(type(tmp_path), "write_bytes", full)
    with pytest.raises(OSError, match="every finished row is kept: free some space") as caught:
        draw(tmp_path, plan)
    assert caught.value.filename.endswith("4-0.png")
    assert len(read_rows(tmp_path).drawn) == 8
    assert not list(tmp_path.rglob("*.part"))
    monkeypatch.undo()
    assert made(tmp_path, plan) == made(tmp_path / "other", plan)


def test_a_journal_on_a_full_disk_says_so(tmp_path):
    path = tmp_path / "rows.jsonl"
    with Journal(path) as journal:
        journal.write(model="a")
        journal._file = open("/dev/full", "wb")  # noqa: SIM115
        with pytest.raises(OSError, match="free some space") as caught:
            journal.write(model="b")
    assert caught.value.filename == str(path)
    assert path.read_text() == '{"model": "a"}\n'


def test_rows_that_contradict_each_other_or_are_none_are_told_by_place(tmp_path):
    plan = fakes.plan(scorers=("bright",))
    perform(tmp_path, plan)
    journal = tmp_path / "rows" / "0-of-1.jsonl"
    lines = journal.read_bytes().splitlines()
    other = tmp_path / "rows" / "1-of-2.jsonl"
    other.write_bytes(lines[0] + b"\n")
    assert len(read_rows(tmp_path).drawn) == 28, "the same twice is one row"
    other.write_bytes(json.dumps(json.loads(lines[0]) | {"sha256": "0"}).encode() + b"\n")
    with pytest.raises(ValueError, match=r"1-of-2.jsonl, line 1 .*devices or versions were mixed"):
        read_rows(tmp_path)
    other.write_bytes(lines[0] + b"\nnot json\n")
    with pytest.raises(ValueError, match=r"1-of-2.jsonl, line 2 is no row"):
        read_rows(tmp_path)


def test_pictures_and_scores_that_are_not_numbers_are_refused(tmp_path):
    class Broken(fakes.Brightness):
        def __call__(self, *, images, prompts):
            return super().__call__(images=images, prompts=prompts) * float("nan")

    plan = fakes.plan(models=("a",), scorers=("bright",))
    nothing = harness.Model(
        "a", plan.models[0].settings, lambda: harness.Drawer(lambda p, s: torch.full((1, 3, 8, 8), torch.nan), "w0")
    )
    prepare(tmp_path, plan)
    with pytest.raises(NonFiniteError, match="diverged"):
        draw(tmp_path, Plan([nothing], plan.sets, plan.scorers))
    draw(tmp_path, plan)
    with pytest.raises(NonFiniteError, match=r"bright gives .*nan"):
        score(tmp_path, Plan(plan.models, plan.sets, [fakes.scorer("bright", reward=Broken())]))
    assert read_rows(tmp_path).scored == {}


def test_what_a_scorer_warns_of_is_told_once(tmp_path):
    import warnings

    class Cut(fakes.Brightness):
        def __call__(self, *, images, prompts):
            warnings.warn(f"{prompts[0]} is cut", stacklevel=1)
            return super().__call__(images=images, prompts=prompts)

    plan = Plan([fakes.model("a")], [fakes.prompt_set(3)], [fakes.scorer("bright", reward=Cut())])
    prepare(tmp_path, plan)
    draw(tmp_path, plan)
    with pytest.warns(UserWarning, match=r'^bright: a "red" cat, sitting is cut \(and 2 more of this kind\)$') as told:
        score(tmp_path, plan)
    assert len(told) == 1


def test_the_table_as_parquet_has_numbers(tmp_path):
    polars = pytest.importorskip("polars")
    plan = fakes.plan()
    perform(tmp_path, plan)
    rows = table(tmp_path, plan)
    write_parquet(rows, tmp_path / "table.parquet")
    frame = polars.read_parquet(tmp_path / "table.parquet")
    assert frame.columns == list(rows[0])
    assert frame["bright"].to_list() == [float(row["bright"]) for row in rows]
    assert frame["seed"].to_list() == [int(row["seed"]) for row in rows]
    assert frame["prompt"].to_list() == [row["prompt"] for row in rows]


# a finished evaluation is read as it was written


def finish(folder, plan):
    """What distar evaluate does at the end."""
    write_table(table(folder, plan), folder / TABLE)
    seal(folder, TABLE, PLAN)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished evaluation."""
    folder = tmp_path_factory.mktemp("finished")
    perform(folder, fakes.plan())
    finish(folder, fakes.plan())
    return folder


def test_a_finished_evaluation_has_its_models_and_rows(finished):
    found = read_finished(finished)
    assert list(found.models) == ["a", "b"]
    assert found.models["a"] == dict(fakes.plan().models[0].settings)
    assert found.rows == table(finished, fakes.plan())


def test_models_are_those_of_the_table_whatever_the_plan_has_besides(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    finish(tmp_path, fakes.plan(models=("b",)))
    assert list(read_finished(tmp_path).models) == ["b"]


@pytest.mark.parametrize("name", [TABLE, PLAN])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: b"\xff" + data,
        lambda data: data.replace(b"a", b"c"),
        lambda data: data[: data.rindex(b"\n", 0, -1)],
    ],
)
def test_what_was_changed_since_is_refused_and_made_anew_by_the_same_evaluation(finished, tmp_path, name, spoil):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_bytes(spoil((tmp_path / name).read_bytes()))
    with pytest.raises(ValueError, match=TABLE) as refused:
        read_finished(tmp_path)
    assert str(tmp_path) in str(refused.value)
    (tmp_path / PLAN).unlink()  # where it was spoilt, prepare asks for that
    perform(tmp_path, fakes.plan())
    finish(tmp_path, fakes.plan())
    assert read_finished(tmp_path) == read_finished(finished)


def test_an_evaluation_that_has_gone_on_is_not_finished(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    more = fakes.plan(models=("a", "b", "c"))
    prepare(tmp_path, more)
    with pytest.raises(ValueError, match=PLAN):
        read_finished(tmp_path)
    perform(tmp_path, more)
    finish(tmp_path, more)
    assert list(read_finished(tmp_path).models) == ["a", "b", "c"]


@pytest.mark.parametrize("text", [None, "", "[]", "{", '{"table.csv": 3}'])
def test_without_its_seal_nothing_is_finished(finished, tmp_path, text):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / SEALS).unlink() if text is None else (tmp_path / SEALS).write_text(text)
    with pytest.raises(ValueError, match=TABLE):
        read_finished(tmp_path)
    (tmp_path / TABLE).unlink()
    with pytest.raises(FileNotFoundError, match="distar evaluate"):
        read_finished(tmp_path)


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"models": {"a": {"sour', '{"models": {"a": 1}, "sets": {}, "rewards": {}}']
)
def test_a_plan_that_was_cut_is_refused_by_name(finished, tmp_path, text):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / PLAN).write_text(text, "utf-8")
    with pytest.raises(ValueError, match=PLAN):
        prepare(tmp_path, fakes.plan())
    (tmp_path / PLAN).unlink()
    loaded = []
    perform(tmp_path, fakes.plan(loaded=loaded))
    assert not loaded, "the remedy draws and scores nothing again"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"value": float("nan")}, "value is nan"),
        ({"value": float("inf")}, "value is inf"),
        ({"value": "0.5"}, "value is 0.5"),
        ({"value": 10**400}, "value is 1000"),
        ({"identity": ["v1"]}, "identity is"),
        ({"sha256": None}, "sha256 is None"),
    ],
)
def test_a_row_with_a_value_that_is_none_is_refused_by_line(finished, tmp_path, change, told):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    journal = next((tmp_path / "rows").glob("*.jsonl"))
    lines = journal.read_text("utf-8").splitlines()
    lines[-1] = json.dumps(json.loads(lines[-1]) | change)
    journal.write_text("\n".join(lines) + "\n", "utf-8")
    with pytest.raises(ValueError, match=told) as refused:
        read_rows(tmp_path)
    assert f"line {len(lines)}" in str(refused.value)


def test_a_row_without_a_name_says_which(tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "x.jsonl").write_text('{"model": "a"}\n')
    with pytest.raises(ValueError, match="lacks 'set'"):
        read_rows(tmp_path)
