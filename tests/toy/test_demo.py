"""The main job, in seconds instead of minutes."""

import csv
import re
from dataclasses import replace
from unittest.mock import Mock

import pytest

from distar_core.runs.folders import claim
from distar_core.toy import demo, pictures
from distar_core.toy.demo import PROFILES, UNBOUNDED, perform_all, plan, run_demo
from distar_core.toy.frontier import read_points
from distar_core.toy.records import REGULARIZERS
from distar_core.toy.report import UNLEASHED
from distar_core.toy.ring import distilled, reference

TINY = replace(PROFILES["ci"], seeds=1, steps=4, distil_steps=4, aims=(0.5,))


def test_the_demo_leaves_what_it_promises(tmp_path):
    told = []
    page = run_demo(tmp_path / "demo", TINY, told.append)
    assert page == tmp_path / "demo" / "index.html"
    stems = ["02_clouds_mode.png", "03_pulls_mode.png", "04_frontier_mode.png", "animation_mode.gif"]
    for name in ["01_start.png", *stems, "animation_mode_still.png", "05_unbounded.png", "runs.csv", "distances.csv"]:
        assert (page.parent / name).stat().st_size > 100, name
    shown = re.findall(r'(?:src|href)="([^"]+)"', page.read_text("utf-8"))
    assert len(shown) >= 7
    assert all((page.parent / name).is_file() for name in shown)
    stages = list(dict.fromkeys(progress.stage for progress in told))
    assert stages == ["distil", "post-train", "draw"]
    (first,) = [place for place, event in enumerate(told) if event.made]
    assert told[first].made == page.parent / "01_start.png"
    assert told[first + 1].stage == "post-train", "the first picture must not wait for the runs"
    totals = {"distil": TINY.distil_steps, "post-train": len(plan(TINY, read_points())), "draw": 2}
    for stage, total in totals.items():
        assert [event.done for event in told if event.stage == stage and not event.made] == list(range(total + 1)), (
            stage
        )
    with open(page.parent / "runs.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["regularizer"] for row in rows} >= {*REGULARIZERS, UNLEASHED}


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
    (tmp_path / "index.html").write_text("earlier")
    monkeypatch.setattr(demo, "perform_all", lambda jobs, generator: (run for run in ()))
    monkeypatch.setattr(demo, "write_page", lambda *_: pytest.fail("stopped too late"))
    monkeypatch.setattr(pictures, "watched", stop := Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_demo(tmp_path, TINY)
    stop.assert_called_once()
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["01_start.png", "distances.csv", "runs.csv"]


def test_the_plan_covers_rewards_seeds_and_strengths():
    profile = PROFILES["full"]
    jobs = plan(profile, read_points())
    for name in profile.rewards:
        for regularizer in REGULARIZERS:
            chosen = [job for job in jobs if (job.reward_name, job.regularizer) == (name, regularizer)]
            assert len(chosen) == profile.seeds * len(profile.aims)
            assert len({job.reward_scale for job in chosen}) == len(profile.aims)
        assert sum(job.regularizer == UNLEASHED and job.reward_name == name for job in jobs) == profile.seeds
        assert sum(job.watched and job.reward_name == name for job in jobs) == len(REGULARIZERS) + 1
    assert sum(job.reward_name == "linear" for job in jobs) == profile.seeds * len(UNBOUNDED)
    assert len({job[:5] for job in jobs}) == len(jobs)


def test_an_unwritable_folder_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PermissionError, match="cannot be written"):
        run_demo(tmp_path / "file" / "demo", TINY, lambda _: pytest.fail("work was done"))
