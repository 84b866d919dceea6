"""The page: valid HTML that shows every picture with words and every verdict."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from unittest.mock import Mock

import jinja2
import pytest

from distar_core.toy import report
from distar_core.toy.frontier import read_points
from distar_core.toy.page import LONG_RUN, SHORT_RUN, Cause, write_page
from distar_core.toy.records import REGULARIZERS, read_runs

VOID = {"meta", "img"}


class Page(HTMLParser):
    """What a page holds; refuses an element that is not closed where it was opened."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.rows = [], {}, []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.attributes.setdefault(tag, []).append(dict(attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if {"td", "th"} & {*self.open}:
            self.rows[-1][-1] += text


CAUSE = Cause("08_cause.png", "Why <not>", "Because of 1 < 2.", Mock(alt="never drawn here"))


@pytest.fixture(scope="module")
def rows():
    return read_runs()


@pytest.fixture(scope="module")
def exact(rows):
    return [row for row in rows if row.reward_name != "linear" and row.regularizer in REGULARIZERS]


@pytest.fixture(scope="module")
def alts(rows):
    names = report.reward_names(rows)
    shown = ["01_start.png"]
    for name in names:
        shown += [f"02_exact_frontier_{name}.png", f"animation_{name}.gif", f"03_exact_pulls_{name}.png"]
    for name in names:
        shown += [f"04_clouds_{name}.png", f"05_pulls_{name}.png", f"06_frontier_{name}.png"]
    return {file: f'"{file}" shows 1 < 2 & more' for file in [*shown, CAUSE.file, "07_unbounded.png"]}


@pytest.fixture
def write(tmp_path, rows, exact, alts):
    def written(networks=rows, alts=alts):
        return write_page(tmp_path, exact, networks, read_points(), alts, [CAUSE] if networks else []).read_text(
            "utf-8"
        )

    return written


def test_the_page_shows_every_picture_with_its_words(write, alts):
    page = Page(write())
    assert [(image["src"], image["alt"]) for image in page.attributes["img"]] == list(alts.items())
    assert page.attributes["html"] == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.attributes["meta"]
    with pytest.raises(AssertionError):
        Page("<p><b>crossed</p></b>")


def test_the_page_holds_the_tables(write, rows, exact):
    names = report.reward_names(rows)
    ours = [line for name in names for line in report.result_table(exact, name)]
    results = [line for name in names for line in report.result_table(rows, name)]
    assert Page(write()).rows == [*ours, *results, *report.verdict_table(rows), *report.method_table()]


def test_before_the_networks_the_page_has_the_exact_generators_alone(write, rows, exact, alts):
    names = report.reward_names(rows)
    shown = ["01_start.png", *(f"02_exact_frontier_{name}.png" for name in names)]
    page = Page(write([], {file: alts[file] for file in shown}))
    assert [image["src"] for image in page.attributes["img"]] == shown
    assert page.rows == [*(line for name in names for line in report.result_table(exact, name)), *report.method_table()]


def test_a_picture_without_words_is_refused_and_leaves_no_page(tmp_path, write, alts):
    for file in alts:
        with pytest.raises(jinja2.UndefinedError, match=re.escape(file)):
            write(alts={other: alts[other] for other in alts if other != file})
    assert not (tmp_path / "index.html").exists()


@pytest.mark.parametrize(("steps", "warnings"), [(LONG_RUN - 1, 4), (LONG_RUN, 0)])
def test_the_page_says_which_networks_are_not_at_rest(write, rows, steps, warnings):
    """Once beside the verdicts and under each frontier."""
    text = write([replace(row, steps=float(steps)) for row in rows])
    assert text.count(f"After {steps} steps") == warnings


@pytest.mark.parametrize(("steps", "short"), [(SHORT_RUN - 1, True), (SHORT_RUN, False)])
def test_the_page_says_that_short_runs_learn_nothing(tmp_path, rows, exact, alts, steps, short):
    exact = [replace(row, steps=float(steps)) for row in exact]
    text = write_page(tmp_path, exact, rows, read_points(), alts, [CAUSE]).read_text("utf-8")
    assert ("too short" in text) == short
