"""The playground's page in a browser, opened from its file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import opening

PAGE = Path(__file__).parents[2] / "docs" / "web" / "leash.html"
OVER = "document.getElementById('status').textContent.includes('fallen')"
READY = "document.getElementById('status').textContent.startsWith('step')"
PLANES = "['left-plane', 'right-plane'].map(id => document.getElementById(id).toDataURL())"


@pytest.fixture
def page_at(browser: Any) -> Iterator[Any]:
    """Opens the page; see tests.browser.opening."""
    yield from opening(browser, PAGE, READY)


def settled(page: Any) -> None:
    """After the last frame that was asked for has been drawn."""
    page.evaluate(
        "new Promise(done => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 300))"
    )


def test_a_prediction_starts_the_run_and_its_end_answers(page_at):
    page = page_at(reduced_motion="reduce")
    assert page.locator("#verdict").is_hidden()
    page.get_by_role("button", name="all in one point").click()
    page.wait_for_function(OVER)
    assert page.locator("#verdict").text_content().startswith("As you said.")
    page.get_by_role("button", name="far outside").click()
    assert page.locator("#verdict").text_content().startswith("Not as you said.")
    assert "at=1200" in page.url


def test_a_link_shows_what_its_sender_saw(page_at):
    """After a change on the way, and with another view; control: the same link at another step."""
    sender = page_at("#left=kl-x0&left.scale=0.5&maps=8")
    sender.get_by_role("button", name="Play").click()
    sender.wait_for_function("+document.getElementById('status').textContent.split(' ')[1] > 30")
    sender.get_by_label("reward scale").first.fill("0.3")
    sender.wait_for_function("document.getElementById('status').textContent.includes('anew')")
    sender.get_by_label("look through noise").fill("0.5")
    sender.get_by_role("button", name="Pause").click()
    settled(sender)
    hash_ = "#" + sender.url.split("#")[1]
    assert "then=" in hash_
    receiver = page_at(hash_)
    settled(receiver)
    assert receiver.evaluate(PLANES) == sender.evaluate(PLANES)
    step = int(hash_.split("at=")[1].split("&")[0])
    other = page_at(hash_.replace(f"at={step}", f"at={step + 8}"))
    settled(other)
    assert other.evaluate(PLANES) != sender.evaluate(PLANES)


def test_a_link_that_cannot_be_read_is_said_to_be(page_at):
    page = page_at("#left=unheard-of")
    assert "left=unheard-of" in page.get_by_role("alert").text_content()
    assert page.locator("#question").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone(page_at, scheme):
    page = page_at(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page.locator("summary").last.click()
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.parametrize("width", [390, 1280])
def test_the_key_has_its_mark_in_it(page_at, width):
    page = page_at(viewport={"width": width, "height": 844})
    mark, key = (page.locator(selector).bounding_box() for selector in (".ring", ".key:has(.ring)"))
    assert key["x"] <= mark["x"] <= key["x"] + key["width"]
    assert key["y"] <= mark["y"] <= key["y"] + key["height"]


def test_keys_point_and_paint(page_at):
    """Enter paints where the arrow keys point; both planes then have the new reward."""
    page = page_at()
    page.get_by_role("button", name="Paint a reward").click()
    page.locator("#left-plane").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    settled(page)
    assert page.locator("#reward").input_value() == "painted"
    assert "bumps=0_0.21_0.6_0.35" in page.url


def test_a_browser_without_workers_computes_in_the_page(page_at):
    page = page_at(before="delete window.Worker", reduced_motion="reduce")
    before = page.evaluate(PLANES)
    page.locator("#play").click()
    page.wait_for_function(OVER)
    assert page.evaluate(PLANES) != before
