"""What ships of the experiments: the page is what the CSV files say, and every study has its record."""

from pathlib import Path

import pytest
from jinja2 import UndefinedError

from distar_core.lab import STUDIES, read_rows
from distar_core.lab.study import as_read
from distar_core.toy import report
from distar_core.toy.frontier import read_points
from distar_core.toy.records import read_runs
from tools.publish_lab import OVERVIEW, ClaimError, checker, figure_name, overview, page

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def records():
    return {name: read_rows(name) for name in STUDIES}


@pytest.fixture(scope="module")
def pictures(records):
    return {name: STUDIES[name].picture(rows) for name, rows in records.items()}


@pytest.fixture(scope="module")
def demo():
    return report.facts(read_runs(), read_points())


def test_a_page_whose_tables_contradict_a_sentence_is_not_written(records, pictures, demo) -> None:
    better = [row | {"diverged": 0.0} for row in records["stability"]]
    with pytest.raises(ClaimError) as raised:
        page({**records, "stability": better}, pictures, demo)
    assert (raised.value.study, raised.value.comparison) == ("stability", "lost_star == 1")


def test_the_overview_has_each_study_with_its_verdict_and_first_sentence() -> None:
    text = "\n\n".join(
        [
            "# Page",
            OVERVIEW,
            "## one",
            "Does it\nhold?",
            "`distar lab one` (2 runs)",
            "![A figure.](one.png)",
            "**Predicted.** It fails.",
            "**Failed.** It does\nnot: 3 of 0.5 fell. More.",
            "## two",
            "And now?",
            "`distar demo`",
            "![Another.](two.png)",
            "Nothing was predicted. It fell.",
            "## How this page is made",
            "By hand.",
            "Really.",
        ]
    )
    assert overview(text).splitlines()[2:] == [
        "| [one](#one) | Does it hold? | failed | It does not |",
        "| [two](#two) | And now? |  | Nothing was predicted |",
    ]


def test_a_claim_needs_facts_that_are_there() -> None:
    claim = checker({"one": {"a": 1.0, "b": 2.0}})
    assert claim("one", "a < b", "2 * a == b", caller=lambda: " true. ") == "true."
    with pytest.raises(ClaimError):
        claim("one", "a < b", "a > b", caller=lambda: "")
    with pytest.raises(UndefinedError):
        claim("one", "a < c", caller=lambda: "")
    with pytest.raises(ValueError, match="one"):
        claim("one", caller=lambda: "")


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_ships_its_figure_and_runs_of_the_full_profile(name: str, records) -> None:
    assert (ROOT / "notebooks" / "figures" / figure_name(name)).exists()
    wanted = [as_read(setting) for setting in STUDIES[name].settings("full")]
    keys = list(wanted[0])
    assert list(records[name][0])[: len(keys)] == keys
    assert [{key: row[key] for key in keys} for row in records[name]] == wanted
