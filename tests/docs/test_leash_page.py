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


LEAVE = {
    "method": lambda page: page.get_by_label("Method on the left").select_option("reward-only"),
    "reward scale": lambda page: page.get_by_label("reward scale").first.fill("0.3"),
    "beyond the end": lambda page: page.get_by_role("button", name="Continue").click(),
}
THIRD = "3 At equal reward"


@pytest.mark.parametrize("how", LEAVE)
def test_a_verdict_is_of_the_run_on_screen(page_at, how):
    """Left at its end, and the run that follows has come to its end, too. Control: what changes no run leaves the verdict."""
    page = page_at(reduced_motion="reduce")
    page.get_by_role("button", name=THIRD).click()
    page.get_by_role("button", name="both the same").click()
    page.wait_for_function(OVER)
    verdict, pressed = page.locator("#verdict"), page.get_by_role("group", name="Questions")
    pressed = pressed.get_by_role("button", pressed=True)
    page.get_by_label("look through noise").fill("0.5")
    page.locator("#axis").select_option("kl")
    page.get_by_label("density").uncheck()
    page.get_by_role("button", name="Paint a reward").click()
    settled(page)
    assert verdict.is_visible()
    assert pressed.all_text_contents() == [THIRD]
    assert page.locator("#left-question").is_hidden()

    LEAVE[how](page)
    settled(page)
    assert verdict.is_hidden()
    if page.locator("#play").text_content() == "Play":
        page.locator("#play").click()
    page.wait_for_function(f"document.getElementById('play').textContent === 'Continue' && {OVER}")
    settled(page)
    assert verdict.is_hidden()
    assert page.locator("#left-question").is_visible()
    assert pressed.count() == 0
    assert page.locator("#answers button:enabled").count() == 0
    assert "story=" not in page.url
    page.get_by_role("button", name=THIRD).click()
    assert pressed.all_text_contents() == [THIRD]
    assert page.locator("#left-question").is_hidden()
    assert page.locator("#answers button:enabled").count() == 3


RECORD = """(() => {
    window.drawn = [];
    const {prototype} = CanvasRenderingContext2D, {stroke, clearRect} = prototype;
    prototype.clearRect = function (...box) { if (this.canvas.id === 'frontier') window.drawn = []; clearRect.apply(this, box); };
    prototype.stroke = function () {
        if (this.canvas.id === 'frontier') window.drawn.push([+this.lineWidth.toFixed(3), this.getLineDash().join(' ')]);
        stroke.call(this);
    };
})()"""
KEY = """[...document.querySelectorAll('#legend line')].map(({style}) =>
    [+style.strokeWidth, style.strokeDasharray === 'none' ? '' : style.strokeDasharray.replaceAll(',', '')])"""


@pytest.mark.parametrize(
    ("state", "lines", "along"),
    [
        ("", 5, ["KL, w = 1", "score, squared L2"]),
        ("#axis=spread", 5, ["score, squared L2"]),
        ("#right.law=differentiated", 6, ["KL, w = 1", "score, squared L2", "score, pseudo-Huber, law differentiated"]),
    ],
)
def test_the_key_is_drawn_as_its_lines_are(page_at, state, lines, along):
    """Each line of the key is one of the chart, of its width and dashes, in its order."""
    page = page_at(state, before=RECORD)
    settled(page)
    key, drawn = page.evaluate(KEY), page.evaluate("window.drawn")
    assert len({tuple(line) for line in key}) == len(key) == lines
    assert [line for line in drawn if line in key][:lines] == key
    assert page.locator("#along").text_content().endswith(f": {'; '.join(along)}. ")


def test_a_reward_without_known_lines_has_no_key(page_at):
    page = page_at("#reward=linear")
    assert page.locator("#legend line").count() == 0
    assert page.locator("#along").text_content() == ""


@pytest.mark.parametrize(
    ("system", "chosen"),
    [("light", "dark"), ("dark", "light"), ("dark", "auto"), ("light", None), ("dark", "refused")],
)
def test_light_or_dark_is_as_chosen_on_the_site_else_as_the_system_has_it(page_at, system, chosen):
    before = f"localStorage.setItem('mode', '{chosen}')" if chosen else ""
    if chosen == "refused":
        before = (
            "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError'); }})"
        )
    page = page_at(before=before, color_scheme=system)
    scheme = "getComputedStyle(document.documentElement).colorScheme"
    assert page.evaluate(scheme) == (chosen if chosen in ("light", "dark") else system)
    other = "light" if system == "dark" else "dark"
    page.emulate_media(color_scheme=other)
    page.wait_for_function(f"{scheme} === '{chosen if chosen in ('light', 'dark') else other}'")


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
