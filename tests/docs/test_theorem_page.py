"""The page "Theorem 3.1 under the microscope" in a browser, opened from its file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import opening
from tests.site.test_browser import violations

PAGE = Path(__file__).parents[2] / "docs" / "web" / "theorem.html"
READY = "document.getElementById('numbers').children.length > 0"
FORMS = ["none", "slope", "braces", "conditional", "reference", "d_alone"]
RECORD = """(() => {
    window.drawn = {rects: [], texts: []};
    const {prototype} = CanvasRenderingContext2D, {clearRect, fillRect, fillText} = prototype;
    const recording = (kind, own) => function (...all) {
        if (this.canvas.id === 'bars') window.drawn[kind].push(all);
        own.apply(this, all);
    };
    prototype.clearRect = function (...box) {
        if (this.canvas.id === 'bars') window.drawn = {rects: [], texts: []};
        clearRect.apply(this, box);
    };
    prototype.fillRect = recording('rects', fillRect);
    prototype.fillText = recording('texts', fillText);
})()"""
ESTIMATES = """form => {
    const estimates = new theorem.Estimates(new theorem.LineProblem(theorem.SETTINGS.line, 0.3, 'frozen'), new theorem.Random(1));
    while (estimates.count < 100) estimates.draw();
    return [[...estimates.estimate(0)], [...estimates.estimate(form)]];
}"""
Open = Callable[..., Any]


@pytest.fixture
def page_at(browser: Any) -> Iterator[Open]:
    """Opens the page; see tests.browser.opening."""
    yield from opening(browser, PAGE, READY)


@pytest.mark.parametrize("width", [390, 1280])
def test_a_bar_is_as_high_as_its_value(page_at: Open, width: int) -> None:
    """Of every loss, on an axis with numbers, inside of the picture. Control: some bars are many times as high as others."""
    page = page_at(before=RECORD, viewport={"width": width, "height": 844})
    height = page.locator("#bars").bounding_box()["height"]
    for index, form in enumerate(FORMS[1:], start=1):
        page.locator("#form").select_option(form)
        right, wrong = page.evaluate(ESTIMATES, index)
        values = [value for both in zip(right, wrong, strict=True) for value in both]
        drawn = page.evaluate("window.drawn")
        assert len(drawn["rects"]) == len(values) == 12
        ticks = {float(text.replace("\u2212", "-")): y - 4 for text, _, y in drawn["texts"] if text[-1].isdecimal()}
        low, high = min(ticks), max(ticks)
        scale = (ticks[low] - ticks[high]) / (high - low)
        assert all(y == pytest.approx(ticks[0] - scale * tick) for tick, y in ticks.items())
        assert low <= min(values)
        assert max(values) <= high
        for (_, top, _, tall), value in zip(drawn["rects"], values, strict=True):
            assert tall == pytest.approx(scale * abs(value))
            assert (top if value > 0 else top + tall) == pytest.approx(ticks[0] - scale * value)
            assert top >= 0
            assert top + tall <= height
        tall = sorted(rect[3] for rect in drawn["rects"])
        assert tall[-1] > 5 * tall[0]


def test_the_loss_is_written_with_what_departs_from_the_theorem(page_at: Open) -> None:
    page = page_at()
    departs = {
        "slope": "detach[d′(y)]",
        "braces": "detach[{ sψ(xt) + ε/σ }]",
        "conditional": "+ ε/σ",
        "reference": "detach[sref(xt)]",
        "d_alone": "d(y)",
    }
    for form, text in departs.items():
        page.locator("#form").select_option(form)
        assert page.locator("mark").all_text_contents() == [text]
        assert page.locator("#compared-loss mark").count() == 1
    right = page.locator("#right-loss")
    assert right.text_content() == "ℒ = −σ d′(y) · { sψ(xt) + ε/σ }, y = σ ( sψ(xt) − sref(xt) )"
    page.locator("#law").select_option("differentiated")
    assert right.inner_text().startswith("ℒ = −σ d′(y) · { sψ(xt) + ε/σ } +\u00a0d(y),")


def test_a_new_start_is_said(page_at: Open) -> None:
    """Control: another loss to compare with starts nothing."""
    page = page_at()
    said, count, button = (page.locator(name) for name in ("#said", "#count", "#play"))
    button.click()
    page.wait_for_function("parseInt(document.getElementById('count').textContent.replace(',', '')) > 150")
    button.click()
    before = count.text_content()
    page.locator("#form").select_option("reference")
    assert (count.text_content(), said.text_content()) == (before, "")
    page.locator("#distance").select_option("l2")
    assert count.text_content() == "100 samples"
    assert "the distance" in said.text_content()
    button.click()
    assert said.text_content() == ""


def test_the_button_is_dead_where_no_more_samples_are_drawn(page_at: Open) -> None:
    """With a clock that stands still, so that a frame draws many."""
    page = page_at("#pencil,l2", before="performance.now = () => 0")
    page.locator("#play").click()
    page.wait_for_function("document.getElementById('play').disabled")
    assert page.locator("#play").text_content() == "Draw samples"
    assert page.locator("#said").text_content() != ""
    page.locator("#again").click()
    assert page.locator("#play").is_enabled()


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_axe_finds_nothing_and_the_page_fits_a_phone(page_at: Open, mode: str) -> None:
    page = page_at(viewport={"width": 390, "height": 844}, color_scheme=mode)
    page.locator("#form").select_option("conditional")
    page.locator("#distance").select_option("l2")
    assert violations(page, mode) == []
    assert page.evaluate("document.documentElement.scrollWidth") == 390
