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


@pytest.fixture(scope="module")
def pictures(records):
    return {name: STUDIES[name].picture(rows) for name, rows in records.items()}


def test_a_figure_and_its_place_on_the_page_have_the_same_words(records, pictures) -> None:
    text = page(records, pictures)
    for name, picture in pictures.items():
        assert f"![{picture.alt}](figures/{figure_name(name)})" in text
        assert STUDIES[name].sentence(records[name]) not in picture.alt, "what was found stands below the figure"


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_ships_its_figure_and_runs_of_the_full_profile(name: str, records) -> None:
    assert (ROOT / "notebooks" / "figures" / figure_name(name)).exists()
    wanted = [as_read(setting) for setting in STUDIES[name].settings("full")]
    keys = list(wanted[0])
    assert list(records[name][0])[: len(keys)] == keys
    assert [{key: row[key] for key in keys} for row in records[name]] == wanted


def test_the_page_follows_the_tables(records, pictures) -> None:
    name = next(iter(STUDIES))
    assert page({name: records[name]}, pictures) != page({name: records[name][: len(records[name]) // 2]}, pictures)
