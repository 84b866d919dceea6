"""What ships of the experiments: the page is what the CSV files say, and every study has its record."""

from pathlib import Path

import pytest

from distar_core.lab import STUDIES, read_rows
from distar_core.lab.study import as_read
from tools.publish_lab import figure_name, page

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def records():
    return {name: read_rows(name) for name in STUDIES}


def test_the_page_is_what_the_tables_say(records) -> None:
    assert (ROOT / "notebooks" / "EXPERIMENTS.md").read_text("utf-8") == page(records), "run tools.publish_lab"


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_ships_its_figure_and_runs_of_the_full_profile(name: str, records) -> None:
    assert (ROOT / "notebooks" / "figures" / figure_name(name)).exists()
    wanted = [as_read(setting) for setting in STUDIES[name].settings("full")]
    keys = list(wanted[0])
    assert list(records[name][0])[: len(keys)] == keys
    assert [{key: row[key] for key in keys} for row in records[name]] == wanted


def test_the_page_follows_the_tables(records) -> None:
    name = next(iter(STUDIES))
    assert page({name: records[name]}) != page({name: records[name][: len(records[name]) // 2]})
