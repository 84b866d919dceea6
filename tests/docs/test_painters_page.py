"""The page "One sentence, four painters" in a browser, opened from its file."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import opening
from tests.site.test_browser import PHONE, violations
from tools import painters_data
from tools.painters import STOPS

WEB = Path(__file__).parents[2] / "docs" / "web"
FILES = ("painters.html", "painters.js", "play.css", "theme.js", "leash.html")
TRAINED = "[...document.querySelectorAll('#star .picture, #greedy .picture')]"
READY = f"{TRAINED}.every(one => !one.disabled && !one.classList.contains('stale'))"
DRAWN = f"{TRAINED}.map(one => one.firstChild.toDataURL())"
SENTENCE = "#sentence=a+small+red+circle"
TOLD = "!document.getElementById('verdict').hidden"
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page as `make site` lays it out."""
    found = tmp_path_factory.mktemp("play")
    for name in FILES:
        shutil.copyfile(WEB / name, found / name)
    (found / "weights.js").write_text(painters_data.script(), "utf-8")
    return found


@pytest.fixture
def page_at(browser: Any, folder: Path) -> Iterator[Open]:
    """Opens the page; see tests.browser.opening."""
    yield from opening(browser, folder / "painters.html", READY)


def test_a_prediction_moves_the_sliders_and_their_end_answers(page_at: Open) -> None:
    """At once where motion is not wanted; the charts show no more than has been seen."""
    page = page_at(reduced_motion="reduce")
    assert page.locator("#verdict").is_hidden()
    charts = "['preference', 'gold'].map(id => document.getElementById(id).toDataURL())"
    hidden = page.evaluate(charts)
    page.get_by_role("button", name="Reward alone in the reward").click()
    page.wait_for_function(TOLD)
    assert page.locator("#verdict").text_content().startswith("As you said.")
    assert "step=200" in page.url
    assert all(one != other for one, other in zip(page.evaluate(charts), hidden, strict=True))
    page.get_by_role("button", name="Diff-Instruct*, in both").click()
    assert page.locator("#verdict").text_content().startswith("Not as you said.")
    assert page.locator("#story").get_by_role("button", pressed=True).count() == 1


INSIDE = """selector => {
    const box = document.querySelector(selector).getBoundingClientRect();
    return box.top >= -1 && box.bottom <= innerHeight + 1;
}"""


@pytest.mark.parametrize("size", [PHONE, {"width": 1280, "height": 720}])
def test_what_an_answer_sets_going_is_in_view_and_then_the_verdict(page_at: Open, size: dict[str, int]) -> None:
    """Control: before, what the trained painters paint is not."""
    page = page_at(reduced_motion="reduce", viewport=size)
    assert not page.evaluate(INSIDE, "#greedy")
    page.evaluate("""(() => {
        const scroll = Element.prototype.scrollIntoView;
        window.shown = [];
        Element.prototype.scrollIntoView = function (how) { scroll.call(this, how); window.shown.push(this.id); };
    })()""")
    page.locator("#answers button").first.click()
    page.wait_for_function(TOLD)
    assert page.evaluate("window.shown") == ["greedy", "verdict"]
    assert page.evaluate(INSIDE, "#verdict")


def test_the_reference_says_how_far_it_is(page_at: Open) -> None:
    page = page_at(SENTENCE)
    step = "+/^step (\\d+) of 20$/.exec(document.querySelector('#reference .numbers').textContent)[1]"
    page.wait_for_function(f"{step} > {page.evaluate(step)}")


@pytest.mark.long
def test_a_walk_goes_through_the_training(page_at: Open) -> None:
    page = page_at()
    page.set_default_timeout(300_000)
    page.evaluate(
        "window.steps = []; new MutationObserver(() => window.steps.push(document.getElementById('stop-value').textContent))"
        ".observe(document.getElementById('stop-value'), { childList: true })"
    )
    page.locator("#answers button").first.click()
    page.wait_for_function("location.hash.includes('step=20')")
    page.locator("#sentence").fill("a large blue circle")
    page.wait_for_function("location.hash.includes('large')")
    assert page.locator("#way").evaluate("way => way.position") < 1
    page.wait_for_function(TOLD)
    steps = page.evaluate("[...new Set(window.steps)]")
    assert steps[-len(STOPS) :] == [f"step {stop} of {STOPS[-1]}" for stop in STOPS]
    assert page.locator("#sentence").input_value() == "a large blue circle"
    assert page.locator("#waiting").is_hidden()


ANSWER = "document.querySelector('#answers button').click();"
SLIDE = """to => {
    const slider = document.getElementById('stop');
    slider.value = to;
    slider.dispatchEvent(new Event('input'));
}"""


@pytest.mark.parametrize("button", ["any", "noise"])
def test_another_sentence_or_noise_does_not_keep_the_answer_back(page_at: Open, button: str) -> None:
    """All in one task of the page, before anything is painted: then it has no answer yet."""
    page = page_at(reduced_motion="reduce")
    sentence = page.locator("#sentence").input_value()
    hidden = page.evaluate(f"() => {{ {ANSWER} document.getElementById('{button}').click(); return !({TOLD}); }}")
    assert hidden
    assert (page.locator("#sentence").input_value() == sentence) == (button == "noise")
    page.wait_for_function(TOLD)


def test_a_hand_on_the_slider_stops_the_walk_and_the_answer_comes_where_it_would_have(page_at: Open) -> None:
    page = page_at(reduced_motion="reduce")
    for answers_by, story in (("hand", "2 When to stop"), ("button", "3 What is left open")):
        page.get_by_role("button", name=story).click()
        page.evaluate(f"() => {{ {ANSWER} ({SLIDE})(2); }}")
        page.wait_for_function(READY)
        assert page.locator("#verdict").is_hidden()
        assert "step 200" in page.locator("#where").text_content()
        assert "step 20." in page.locator("#where").text_content()
        assert page.locator("#walk").text_content() == "Continue"
        assert violations(page, "light") == []
        if answers_by == "hand":
            page.evaluate(SLIDE, len(STOPS))
        else:
            page.locator("#walk").click()
        page.wait_for_function(TOLD)
        # from then on it stays
        page.evaluate(SLIDE, 0)
        assert page.evaluate(TOLD)


def test_an_empty_field_shows_no_verdicts_and_says_so(page_at: Open) -> None:
    """The sentence that was in it brings them back."""
    page = page_at(SENTENCE)
    said = "[...document.querySelectorAll('.mark, .numbers, #detail')].map(one => one.textContent).join('')"
    page.locator("#star .picture").first.click()
    assert "✓" in page.evaluate(said)
    page.locator("#sentence").fill(" ")
    page.wait_for_function("document.getElementById('remark').textContent !== ''")
    assert page.evaluate(said) == ""
    assert page.locator(".picture:not(.stale)").count() == 0
    page.locator("#sentence").fill("a small red circle")
    page.wait_for_function(READY)
    assert "✓" in page.evaluate(said)
    assert page.locator("#remark").text_content() == ""


def test_words_that_cannot_follow_are_off_and_a_word_can_be_taken_back(page_at: Open) -> None:
    page = page_at("#sentence=a+red+triangle")
    on = "[...document.querySelectorAll('#words button')].filter(one => one.ariaDisabled === 'false').map(one => one.textContent)"
    assert page.evaluate(on) == ["on", "left", "right", "above", "below"]
    page.evaluate("[...document.querySelectorAll('#words button')].find(one => one.textContent === 'triangle').click()")
    assert page.locator("#sentence").input_value() == "a red triangle"
    page.locator("#shorter").click()
    assert page.evaluate(on) == ["circle", "square", "triangle"]
    page.locator("#empty").click()
    assert page.evaluate(on) == ["a"]
    page.locator("#words").get_by_role("button", name="a", exact=True).click()
    assert page.evaluate(on) == ["small", "large", "red", "yellow", "green", "blue"]


@pytest.mark.parametrize("size", [PHONE, {"width": 1280, "height": 900}])
def test_what_is_said_of_a_sentence_moves_nothing(page_at: Open, size: dict[str, int]) -> None:
    page = page_at(SENTENCE, viewport=size)
    top = "document.getElementById('painters').offsetTop"
    before = page.evaluate(top)
    long = " ".join(c * 40 for c in "wmxyz")
    for text, told in (
        ("a purple hexagon on a dark background", "“purple”"),
        ("red circle", "“red”"),
        ("", "Nothing to paint"),
        (long, "“mmm"),
    ):
        page.locator("#sentence").fill(text)
        page.wait_for_function("told => document.getElementById('remark').textContent.includes(told)", arg=told)
        assert page.evaluate(top) == before, text


def test_a_link_shows_what_its_sender_saw(page_at: Open) -> None:
    """Control: the same link with another noise."""
    hash_ = f"{SENTENCE}&noise=3&step=60&times=1.5"
    drawn = []
    for address in (hash_, hash_, hash_.replace("noise=3", "noise=4")):
        page = page_at(address)
        assert "no run" in page.locator("#strength-value").text_content()
        drawn.append(page.evaluate(DRAWN))
        page.close()  # and its reference computes no longer
    sender, receiver, other = drawn
    assert sender == receiver
    assert not set(sender) & set(other)
    wrong = page_at(f"{SENTENCE}&step=55&colour=red")
    said = wrong.get_by_role("alert").text_content()
    assert "step=55" in said
    assert "colour" in said


def test_the_keyboard_writes_and_moves_the_sliders(page_at: Open) -> None:
    page = page_at(SENTENCE)
    page.locator("#sentence").focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("A small dragon!")
    page.wait_for_function("document.getElementById('remark').textContent.includes('dragon')")
    page.wait_for_function(f"{TRAINED}.every(one => one.ariaLabel.includes('not judged'))")
    page.locator("#stop").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("location.hash.includes('step=10')")
    assert page.locator("#strength").is_enabled()
    page.locator("#shorter").focus()
    page.keyboard.press("Enter")
    page.locator("#words").get_by_role("button", name="blue").focus()
    page.keyboard.press("Enter")
    assert page.locator("#sentence").input_value() == "a small blue"
    page.locator("#greedy .picture").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.getElementById('detail').textContent === 'Reward alone, noise 1: not judged.'")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_axe_finds_nothing(page_at: Open, scheme: str) -> None:
    page = page_at(f"{SENTENCE}&step=200", viewport=PHONE, color_scheme=scheme)
    page.locator("#greedy .picture").last.click()
    assert "true preference" in page.locator("#detail").text_content()
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in violations(page, scheme)] == []


def test_a_browser_without_workers_computes_in_the_page(page_at: Open) -> None:
    assert page_at(SENTENCE).evaluate(DRAWN) == page_at(SENTENCE, before="delete window.Worker").evaluate(DRAWN)


def test_without_weights_the_page_says_how_to_make_them(browser: Any, folder: Path, tmp_path: Path) -> None:
    for name in FILES:
        shutil.copyfile(folder / name, tmp_path / name)
    context = browser.new_context()
    page = context.new_page()
    page.goto((tmp_path / "painters.html").as_uri())
    assert "tools.painters_data" in page.get_by_role("alert").text_content()
    context.close()
