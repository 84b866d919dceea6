"""The main job, in seconds instead of minutes."""

import csv
import re
from dataclasses import replace
from unittest.mock import Mock

import pytest

from distar_core.figures.charts import Line, lines
from distar_core.runs.folders import claim
from distar_core.toy import demo, pictures
from distar_core.toy.demo import PROFILES, UNBOUNDED, perform_all, plan, plan_exact, run_demo
from distar_core.toy.frontier import read_points
from distar_core.toy.page import Cause
from distar_core.toy.records import REGULARIZERS
from distar_core.toy.report import UNLEASHED
from distar_core.toy.ring import distilled, reference

TINY = replace(PROFILES["ci"], seeds=1, steps=4, exact_steps=4, distil_steps=4, aims=(0.5,))
CAUSE = Cause(
    "08_cause.png",
    "Why",
    "Because.",
    lines({"a": [Line("b", [0, 1], [0, 1])]}, alt="a line that rises from 0 to 1", xlabel="", ylabel=""),
)


def test_the_demo_leaves_what_it_promises(tmp_path):
    told, seen = [], {}

    def tell(event):
        told.append(event)
        if event.made:
            seen[event.made.name] = event.made.read_bytes()

    page = run_demo(tmp_path / "demo", TINY, tell, lambda: [CAUSE])
    assert page == tmp_path / "demo" / "index.html"
    pictures = ["01_start", "02_exact_frontier_mode", "03_exact_pulls_mode", "04_clouds_mode", "05_pulls_mode"]
    pictures += ["06_frontier_mode", "07_unbounded", "08_cause", "animation_mode_still"]
    tables = ["exact.csv", "runs.csv", "distances.csv"]
    for name in [*(f"{stem}.png" for stem in pictures), "animation_mode.gif", *tables]:
        assert (page.parent / name).stat().st_size > 100, name
    shown = re.findall(r'(?:src|href)="([^"]+)"', page.read_text("utf-8"))
    assert len(shown) >= 10
    assert all((page.parent / name).is_file() for name in shown)
    stages = list(dict.fromkeys(progress.stage for progress in told))
    assert stages == ["exact", "distil", "networks", "draw"]
    points = read_points()
    totals = {
        "exact": len(plan_exact(TINY, points)),
        "distil": TINY.distil_steps,
        "networks": len(plan(TINY, points)),
        "draw": 2,
    }
    for stage, total in totals.items():
        assert [event.done for event in told if event.stage == stage and not event.made] == list(range(total + 1)), (
            stage
        )
    first, second = (place for place, event in enumerate(told) if event.made)
    assert told[first].made == page.parent / "01_start.png"
    assert told[first].done == 0, "the first picture must not wait for the runs"
    assert told[second].made == page
    assert told[second + 1].stage == "distil", "the page of the exact generators must not wait for networks"
    early = seen["index.html"].decode()
    assert "02_exact_frontier_mode.png" in early
    assert "the networks come next" in early.lower()
    assert "the networks come next" not in page.read_text("utf-8").lower()
    for table, names in (("exact.csv", REGULARIZERS), ("runs.csv", (*REGULARIZERS, UNLEASHED))):
        with open(page.parent / table, newline="", encoding="utf-8") as file:
            assert {row["regularizer"] for row in csv.DictReader(file)} >= {*names}


def test_numbers_depend_neither_on_the_cores_nor_on_the_order():
    generator = distilled(reference(), steps=4)
    jobs = plan(TINY, read_points())[:4]
    one = {run.job: str(run.summary) for run in perform_all(jobs, generator, workers=1)}
    two = {run.job: str(run.summary) for run in perform_all(jobs[::-1], generator, workers=2)}
    assert one == two
    other = {run.job: str(run.summary) for run in perform_all(jobs, distilled(reference(), seed=1, steps=4), workers=2)}
    assert one != other


def test_a_page_of_an_earlier_demo_does_not_stand_above_new_numbers(tmp_path, monkeypatch):
    claim(tmp_path, "demo")
    for name in ("index.html", "exact.csv", "runs.csv", "distances.csv"):
        (tmp_path / name).write_text("earlier")
    monkeypatch.setattr(pictures, "frontiers", stop := Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_demo(tmp_path, TINY)
    stop.assert_called_once()
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["01_start.png", "exact.csv"]
    assert "earlier" not in (tmp_path / "exact.csv").read_text()


def test_the_plan_covers_rewards_seeds_and_strengths():
    profile = PROFILES["full"]
    jobs = plan(profile, read_points())
    for name in profile.rewards:
        for regularizer in REGULARIZERS:
            chosen = [job for job in jobs if (job.reward_name, job.regularizer) == (name, regularizer)]
            assert len(chosen) == profile.seeds * len(profile.aims)
            assert len({job.reward_scale for job in chosen}) == len(profile.aims)
        assert sum(job.regularizer == UNLEASHED and job.reward_name == name for job in jobs) == profile.other_seeds
        assert sum(job.watched and job.reward_name == name for job in jobs) == len(REGULARIZERS) + 1
    assert sum(job.reward_name == "linear" for job in jobs) == profile.other_seeds * len(UNBOUNDED)
    assert len({job[:5] for job in jobs}) == len(jobs)


def test_exact_generators_and_networks_share_their_reward_scales():
    profile = PROFILES["full"]
    exact, networks = ({job[:4] for job in plan(profile, read_points())} for plan in (plan_exact, demo.plan))
    assert exact == {job for job in networks if job[0] != "linear" and job[1] != UNLEASHED}
    middle = [job for job in plan_exact(profile, read_points()) if job.watched]
    assert [(job.reward_name, job.regularizer, job.seed) for job in middle] == [
        (name, regularizer, 0) for name in profile.rewards for regularizer in REGULARIZERS
    ]


def test_an_unwritable_folder_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PermissionError, match="cannot be written"):
        run_demo(tmp_path / "file" / "demo", TINY, lambda _: pytest.fail("work was done"))
