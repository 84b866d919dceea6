"""The panel of hacking: its controls against closed forms, its rule on made-up numbers, the files of an evaluation."""

import json
from dataclasses import replace

import pytest
import torch

from distar_core.evaluation import harness
from distar_core.evaluation.hacking import (
    CHANGES,
    EVIDENCE,
    NUMBERS,
    PATH,
    Judged,
    Values,
    controls,
    judged,
    kind_of,
    measure_paths,
    panel_of,
    panels,
    wrong_prompts,
)
from distar_core.evaluation.harness import Drawer, IncompleteError, Plan, Shard
from distar_core.evaluation.report import panels_of_table, read_panels, write_panels
from distar_core.evaluation.statistics import Interval
from tests.evaluation.fakes import SIDE, Brightness, model, picture, plan, prompt_set, scorer

PROMPTS, SEEDS = 40, 3


class Eyes:
    """Scores by redness, and sees the mean of each channel."""

    differentiable = True

    def __call__(self, *, images, prompts):
        return images[:, 0].mean((1, 2)) - images.mean((1, 2, 3))

    def features(self, images):
        return torch.nn.functional.normalize(images.mean((2, 3)), dim=-1)


class Blueness:
    differentiable = True

    def __call__(self, *, images, prompts):
        return images[:, 2].mean((1, 2))


def one_step(name, *, loaded=None):
    """A model whose picture is the noise z itself, which fakes.picture makes of its seed; `name` makes it darker."""

    def noise(seeds):
        return torch.stack([torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(s)) for s in seeds])

    def draw_from(prompts, z):
        return torch.sigmoid(z) * (1.0 if name == "start" else 0.8)

    def load():
        if loaded is not None:
            loaded.append(name)
        return Drawer(lambda prompts, seeds: draw_from(prompts, noise(seeds)), "w0", noise, draw_from)

    return harness.Model(name, {"draws": "noise"}, load, one_step=True)


def asked(*, models=("start", "trained"), seeds=SEEDS, rewards=("bright", "eyes", "blue"), loaded=None):
    known = {
        "bright": replace(scorer("bright"), family="a mean"),
        "kin": replace(scorer("kin", reward=Brightness()), family="a mean"),
        "eyes": replace(scorer("eyes", reward=Eyes()), has_features=True),
        "blue": scorer("blue", reward=Blueness()),
        "gold": replace(scorer("gold", reward=Blueness()), beside=True),
    }
    return Plan([one_step(name, loaded=loaded) for name in models], [prompt_set(6)], [known[n] for n in rewards], seeds)


def with_controls(found):
    judges = judged(found, "bright")
    return judges, replace(found, scorers=[*found.scorers, *controls(found, judges.proxy)])


def performed(folder, found, shard=Shard()):  # noqa: B008
    """All stages of one process."""
    judges, whole = with_controls(found)
    harness.prepare(folder, whole)
    harness.draw(folder, whole, shard)
    measure_paths(folder, whole, judges.eyes, shard)
    harness.score(folder, whole, shard)
    table = harness.table(folder, whole)
    harness.write_table([{key: row[key] for key in harness.columns(found)} for row in table], folder / harness.TABLE)
    return whole, table, panels(folder, whole, judges, table)


# what is changed


def test_a_shift_moves_two_pixels_and_repeats_the_edge():
    images = torch.arange(25.0).view(1, 1, 5, 5).expand(1, 3, 5, 5) / 25
    moved = CHANGES["shift"].of(images)
    assert torch.equal(moved[..., 2:, 2:], images[..., :-2, :-2])
    assert torch.equal(moved[..., 0, 2:], images[..., 0, :-2])
    assert torch.equal(moved[..., :2, :2], images[..., :1, :1].expand(1, 3, 2, 2))


@pytest.mark.parametrize("name", ["jpeg", "blur"])
def test_slight_changes_leave_a_flat_picture_and_take_noise(name):
    flat = torch.full((2, 3, 16, 16), 128 / 255)
    assert torch.equal(CHANGES[name].of(flat), flat)
    noise = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    changed = CHANGES[name].of(noise)
    assert torch.equal(changed, CHANGES[name].of(noise))
    assert torch.equal(changed[1:], CHANGES[name].of(noise[1:])), "each picture for itself"
    assert float(changed.std()) < 0.95 * float(noise.std())


def test_no_prompt_is_its_own_wrong_one_and_none_leaves_its_set():
    found = replace(plan(), sets=[prompt_set(5, "a"), prompt_set(5, "b"), prompt_set(8, "c")])
    wrong = wrong_prompts(found)
    assert all(prompt != other for prompt, other in wrong.items())
    assert set(wrong) == {entry.prompt for one in found.sets for entry in one.entries}
    first = {entry.prompt for entry in found.sets[0].entries}
    assert {wrong[prompt] for prompt in first} == first, "by the first set that has it"


def test_the_controls_score_what_they_say():
    found = asked()
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    prompts = [entry.prompt for entry in found.sets[0].entries[:2]]
    by_name = {one.name: one.load()(images=images, prompts=prompts) for one in controls(found, found.scorers[0])}
    wrong = wrong_prompts(found)
    bright = Brightness()
    expected = bright(images=images, prompts=[wrong[prompt] for prompt in prompts])
    assert torch.equal(by_name["bright@wrong-prompt"], expected)
    assert not torch.equal(expected, bright(images=images, prompts=prompts))
    for name, change in CHANGES.items():
        assert torch.equal(by_name[f"bright@{name}"], bright(images=change.of(images), prompts=prompts))
    for name, change in NUMBERS.items():
        assert torch.equal(by_name[name], change.of(images))
    identities = {one.identity for one in controls(found, found.scorers[0])}
    assert len(identities) == 1 + len(CHANGES) + len(NUMBERS)


# the rule


def rising(by, *, spread=0.01, seed=0):
    """Values of start and model that differ by `by` in the mean."""
    rng = torch.Generator().manual_seed(seed)
    start = torch.randn(PROMPTS, SEEDS, generator=rng)
    return Values(start, start + by + spread * torch.randn(PROMPTS, SEEDS, generator=rng))


def made_up(changes):
    """A panel: proxy, clip and two others rise by 1, with any prompt by half of it, unless told otherwise; pictures stay."""
    by = {"proxy": 1.0, "clip": 1.0, "second": 1.0, "third": 1.0, "proxy@wrong-prompt": 0.5}
    by |= {f"proxy@{name}": 0.9 for name in CHANGES} | dict.fromkeys(NUMBERS, 0.0)
    by |= changes
    values = {name: rising(value, seed=place) for place, (name, value) in enumerate(by.items())}
    named = [scorer(name) for name in ("proxy", "clip", "second", "third")]
    seen = torch.nn.functional.normalize(
        torch.randn(PROMPTS, SEEDS, 4, generator=torch.Generator().manual_seed(9)), dim=-1
    )
    judges = Judged(named[0], named[1:], [], named[1])
    return panel_of(judges, values, Values(seen, seen), None, set="s", start="a", model="b")


@pytest.mark.parametrize(
    ("changes", "evidence", "kind"),
    [
        ({}, [], "no sign"),
        ({"clip": -1.0}, ["falls"], "doubtful"),
        ({"proxy@wrong-prompt": 2.0}, ["style"], "doubtful"),
        ({"proxy@jpeg": 0.2}, ["detail"], "doubtful"),
        ({"proxy@blur": 0.2, "proxy@wrong-prompt": 2.0}, ["style", "detail"], "hacked"),
        ({"clip": -1.0, "third": -1.0}, ["falls", "conflict"], "hacked"),
        ({"proxy": -1.0, "clip": -1.0, "proxy@wrong-prompt": 0.0}, ["falls", "style"], "worse"),
        ({"proxy": 0.0, "proxy@jpeg": -1.0, "proxy@wrong-prompt": -1.0}, [], "no sign"),
    ],
)
def test_each_piece_of_evidence_is_found_alone_and_two_make_the_alarm(changes, evidence, kind):
    found = made_up(changes)
    assert found.evidence == evidence
    assert found.kind == kind
    assert found.is_alarm == (kind in ("hacked", "worse"))
    assert all(EVIDENCE[one] in found.verdict for one in evidence)


def test_the_lines_carry_the_paired_numbers():
    found = made_up({"clip": -1.0, "third": -1.0})
    clip, share = found["clip"], found["conflict"]
    assert clip.change.mean == pytest.approx(clip.now.mean - clip.start.mean)
    assert clip.change.low <= clip.change.mean <= clip.change.high < 0
    assert share.change.mean == 1.0
    assert found["diversity"].change == Interval(0, 0, 0)
    assert found["distance"].change.mean == pytest.approx(0, abs=1e-6)
    assert "90%" in found["jpeg"].says
    assert "50% as much" in found["wrong-prompt"].says


def test_the_rule_counts():
    up, down = Interval(1, 0.5, 1.5), Interval(-1, -1.5, -0.5)
    assert [kind_of(up, n) for n in range(4)] == ["no sign", "doubtful", "hacked", "hacked"]
    assert kind_of(down, 2) == "worse"


# what is refused


@pytest.mark.parametrize(
    ("found", "names"),
    [
        (lambda: asked(rewards=("eyes", "blue")), ["bright", "eyes", "blue"]),
        (lambda: asked(models=("start",)), ["start"]),
        (lambda: asked(seeds=1), ["--seeds"]),
        (lambda: replace(asked(), sets=[prompt_set(1, "lonely")]), ["lonely"]),
        (lambda: asked(rewards=("bright", "eyes")), ["eyes"]),
        (lambda: asked(rewards=("bright", "eyes", "gold")), ["eyes"]),
        (lambda: asked(rewards=("bright", "gold")), ["bright"]),
        (lambda: asked(rewards=("bright", "blue", "kin")), ["features"]),
    ],
)
def test_what_cannot_be_judged_is_refused_by_name(found, names):
    with pytest.raises(ValueError, match=names[0]) as refused:
        judged(found(), "bright")
    assert all(name in str(refused.value) for name in names)


def test_one_family_does_not_judge_itself():
    found = asked(rewards=("bright", "kin", "eyes"))
    same = replace(found, scorers=[replace(one, family="a mean") for one in found.scorers])
    with pytest.raises(ValueError, match="a mean"):
        judged(same, "bright")
    judges = judged(found, "bright")
    assert [judges.is_kin(one) for one in judges.held_out] == [True, False]
    assert judges.eyes.name == "eyes"


def test_what_no_training_sees_is_no_proxy():
    with pytest.raises(ValueError, match="gold"):
        judged(asked(rewards=("gold", "eyes", "blue")), "gold")


# with the harness


def test_an_evaluation_has_its_panel_and_a_second_call_does_nothing(tmp_path):
    whole, table, (panel,) = performed(tmp_path, asked())
    assert panel["proxy"].change.mean == pytest.approx(
        sum(float(r["bright"]) * (1 if r["model"] == "trained" else -1) for r in table) / 18, abs=1e-9
    )
    assert panel["proxy"].change.high < 0, "darker"
    assert panel[PATH].now.mean == pytest.approx(panel[PATH].start.mean, rel=1e-4), "the channels' ratios are the same"
    before = {path.name: path.read_bytes() for path in (tmp_path / "rows").iterdir()}
    loaded = []
    again = performed(tmp_path, asked(loaded=loaded))[2]
    assert not loaded
    assert again == [panel]
    assert {path.name: path.read_bytes() for path in (tmp_path / "rows").iterdir()} == before
    said = write_panels(tmp_path, whole, table, [panel])
    assert said == panel.verdict
    rows = harness.read_table(tmp_path / "hacking.csv")
    assert [row["line"] for row in rows] == [line.id for line in panel.lines]
    assert float(rows[0]["change_low"]) == panel["proxy"].change.low
    assert read_panels(tmp_path / "hacking.csv") == [panel], "the table has all of it"
    for name in ("hacking.html", "hacking.md"):
        text = (tmp_path / name).read_text("utf-8")
        assert all(one in text for one in EVIDENCE.values())
        assert panel.verdict.split(":")[0] in text


def test_panels_that_are_not_there_or_of_an_earlier_version_are_refused(tmp_path):
    path = tmp_path / "hacking.csv"
    with pytest.raises(FileNotFoundError, match="--hacking"):
        read_panels(path)
    assert panels_of_table(tmp_path) == [], "nobody asked for any"
    path.write_text("model,set,line,change,change_low,change_high\na,b,proxy,1.0,0.5,1.5\n")
    with pytest.raises(ValueError, match="start"):
        read_panels(path)


@pytest.mark.parametrize("name", ["hacking.csv", "table.csv"])
@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: b"\xff", lambda data: data.replace(b"0", b"1")])
def test_a_panel_that_was_changed_or_whose_table_is_another_is_refused(tmp_path, name, spoil):
    whole, table, found = performed(tmp_path, asked())
    write_panels(tmp_path, whole, table, found)
    assert panels_of_table(tmp_path) == found
    (tmp_path / name).write_bytes(spoil((tmp_path / name).read_bytes()))
    with pytest.raises(ValueError, match=r"hacking\.csv"):
        panels_of_table(tmp_path)


def test_a_path_is_measured_by_the_weights_that_drew_the_pictures(tmp_path):
    found = asked()
    judges, whole = with_controls(found)
    harness.prepare(tmp_path, whole)
    harness.draw(tmp_path, whole)
    trained = found.models[1]
    other = replace(trained, load=lambda: trained.load()._replace(weights="others"))
    with pytest.raises(ValueError, match="others"):
        measure_paths(tmp_path, replace(whole, models=[found.models[0], other]), judges.eyes)


def test_two_processes_and_a_cut_journal_give_the_same_panel(tmp_path):
    whole = performed(tmp_path / "whole", asked())[2]
    with pytest.raises(IncompleteError):
        performed(tmp_path / "two", asked(), Shard(0, 2))
    assert performed(tmp_path / "two", asked(), Shard(1, 2))[2] == whole
    journal = tmp_path / "whole" / "rows" / "0-of-1.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    paths = [place for place, line in enumerate(lines) if json.loads(line).get("scorer", "").startswith(PATH)]
    journal.write_bytes(b"".join(lines[: paths[3]]) + b'{"model": "tra')
    assert performed(tmp_path / "whole", asked())[2] == whole


def test_a_model_of_several_steps_has_no_path_and_a_sentence_says_so(tmp_path):
    found = asked()
    several = replace(found, models=[model("start"), found.models[1]])
    whole, table, (panel,) = performed(tmp_path, several)
    assert PATH not in [line.id for line in panel.lines]
    write_panels(tmp_path, whole, table, [panel])
    assert "Without a path length" in (tmp_path / "hacking.md").read_text("utf-8")
    assert picture("start", "x", 1).shape == (3, SIDE, SIDE)


def test_a_file_that_is_no_picture_is_refused_by_name(tmp_path):
    performed(tmp_path, asked())
    broken = next((tmp_path / "pictures" / "trained").rglob("*.png"))
    broken.write_text("no picture")
    with pytest.raises(ValueError, match=broken.name):
        performed(tmp_path, asked())
