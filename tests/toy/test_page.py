"""The page: valid HTML that shows every picture with words and every verdict."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import jinja2
import pytest

from distar_core.toy import report
from distar_core.toy.frontier import read_points
from distar_core.toy.page import LONG_RUN, SHORT_RUN, write_page
from distar_core.toy.records import read_runs

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


def files(names):
    for name in names:
        yield from (f"02_clouds_{name}.png", f"animation_{name}.gif", f"03_pulls_{name}.png", f"04_frontier_{name}.png")


@pytest.fixture(scope="module")
def rows():
    return read_runs()


@pytest.fixture(scope="module")
def alts(rows):
    shown = ["01_start.png", *files(report.reward_names(rows)), "05_unbounded.png"]
    return {file: f'"{file}" shows 1 < 2 & more' for file in shown}


def test_the_page_shows_every_picture_with_its_words(tmp_path, rows, alts):
    page = Page(write_page(tmp_path, rows, read_points(), alts).read_text("utf-8"))
    assert [(image["src"], image["alt"]) for image in page.attributes["img"]] == list(alts.items())
    assert page.attributes["html"] == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.attributes["meta"]
    with pytest.raises(AssertionError):
        Page("<p><b>crossed</p></b>")


def test_the_page_holds_the_tables(tmp_path, rows, alts):
    page = Page(write_page(tmp_path, rows, read_points(), alts).read_text("utf-8"))
    results = [line for name in report.reward_names(rows) for line in report.result_table(rows, name)]
    assert page.rows == [*results, *report.verdict_table(rows), *report.method_table()]


def test_a_picture_without_words_is_refused_and_leaves_no_page(tmp_path, rows, alts):
    for file in alts:
        with pytest.raises(jinja2.UndefinedError, match=re.escape(file)):
            write_page(tmp_path, rows, read_points(), {other: alts[other] for other in alts if other != file})
    assert not (tmp_path / "index.html").exists()


@pytest.mark.parametrize(("steps", "warnings"), [(SHORT_RUN - 1, 5), (SHORT_RUN, 4), (LONG_RUN - 1, 4), (LONG_RUN, 0)])
def test_the_page_says_how_far_its_runs_got(tmp_path, rows, alts, steps, warnings):
    """Once that the run is too short to learn; once beside the verdicts and under each frontier that it is not at rest."""
    shortened = [replace(row, steps=float(steps)) for row in rows]
    text = write_page(tmp_path, shortened, read_points(), alts).read_text("utf-8")
    assert text.count("too short") + text.count(f"After {steps} steps") == warnings
