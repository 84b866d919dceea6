"""The site in a browser without any network: every page comes up whole, in both modes, on a phone, from a file and from a server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

LIKE_OTHERS = ("course/04_theorem_3_1.html", "course/index.html", "experiments/index.html", "map.html", "teaching.html")
"""Pages with no colours of their own: they are looked at in light alone."""
SEARCHED = (
    "/search finished|did not match/i.test(document.querySelector('#search-results p.search-summary')?.innerText)"
)
PHONE = {"width": 390, "height": 844}
RULES = {
    "light": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"],
    "dark": ["color-contrast", "link-in-text-block"],  # all that depends on colours
}
LOOK = """() => ({
    over: document.documentElement.scrollWidth - innerWidth,
    headings: document.querySelectorAll('h1').length,
    without_alt: [...document.images].filter(image => !image.alt.trim()).map(image => image.src),
    formulas: document.querySelectorAll('.math').length,
    rendered: document.querySelectorAll('.math mjx-container').length,
    wrong: document.querySelectorAll('mjx-merror').length,
    raw: [...document.querySelectorAll('.math')].filter(one => /\\\\\\(|\\$\\$/.test(one.innerText)).length,
})"""


class Quiet(SimpleHTTPRequestHandler):
    """A plain server of files."""

    def log_message(self, *args: Any) -> None:
        """Nothing."""


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a plain server of a folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@contextmanager
def looking(browser: Any, base: str, complaints: list[str], **options: Any) -> Iterator[Any]:
    """A tab that may ask `base` alone; what goes wrong in it is added to `complaints`."""
    context = browser.new_context(**options)

    def route(asked: Any) -> None:
        url = asked.request.url
        if url.startswith((base, "data:", "blob:")):
            asked.continue_()
        else:
            complaints.append(f"asked {url}")
            asked.abort()

    context.route("**/*", route)
    tab = context.new_page()
    tab.on("console", lambda said: complaints.append(f"{tab.url}: {said.text}") if said.type == "error" else None)
    tab.on("pageerror", lambda error: complaints.append(f"{tab.url}: {error}"))
    yield tab
    context.close()


def come_up(tab: Any, url: str) -> None:
    """Open a page and wait for its formulas."""
    tab.goto(url, wait_until="load")
    tab.wait_for_function("!document.querySelector('.math') || window.MathJax?.startup?.promise?.then(() => true)")


def problems(tab: Any) -> list[str]:
    """What is wrong with the page in a tab, at its present size."""
    seen = tab.evaluate(LOOK)
    found = []
    if seen["over"] > 0:
        found.append(f"{seen['over']} px wider than the window")
    if seen["headings"] != 1:
        found.append(f"{seen['headings']} headings of level 1")
    if seen["without_alt"]:
        found.append(f"images without alternative text: {seen['without_alt']}")
    if seen["wrong"] or seen["raw"] or seen["formulas"] != seen["rendered"]:
        found.append(f"{seen['rendered']} of {seen['formulas']} formulas, {seen['wrong']} wrong, {seen['raw']} raw")
    return [f"{tab.url}: {problem}" for problem in found]


def violations(tab: Any, mode: str) -> list[dict[str, Any]]:
    """What axe finds against WCAG 2.1, levels A and AA, on the page in a tab."""
    from axe_playwright_python.sync_playwright import Axe

    # axe would resolve a style sheet's imports against the page, and ask for files that nobody else asks for
    options = {"runOnly": RULES[mode], "preload": False}
    return Axe().run(tab, options=options).response["violations"]


def test_every_page_comes_up_on_a_phone_from_a_file(site: Path, opened: list[str], browser: Any) -> None:
    found: list[str] = []
    base = site.as_uri() + "/"
    with looking(browser, base, found, viewport=PHONE) as tab:
        for page in opened:
            come_up(tab, base + page)
            found += problems(tab)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_axe_finds_nothing(mode: str, site: Path, opened: list[str], browser: Any) -> None:
    found: list[str] = []
    with serving(site) as base, looking(browser, base, found, color_scheme=mode) as tab:
        for page in opened if mode == "light" else [page for page in opened if page not in LIKE_OTHERS]:
            come_up(tab, base + page)
            found += [f"{page}: {one['id']}: {one['nodes'][0]['html'][:120]}" for one in violations(tab, mode)]
    assert not found, "\n".join(found)


def test_search_finds_what_is_there_and_nothing_else(site: Path, browser: Any) -> None:
    found: list[str] = []
    base = site.as_uri() + "/"
    with looking(browser, base, found) as tab:
        tab.goto(base + "search.html?q=pseudo-Huber")
        tab.wait_for_function(SEARCHED)
        links = tab.evaluate(
            "[...document.querySelectorAll('#search-results li a')].map(link => link.getAttribute('href'))"
        )
        assert any(link.startswith("course/") for link in links)
        assert any(link.startswith("library/") for link in links)
        tab.goto(base + "search.html?q=xylophone")
        tab.wait_for_function(SEARCHED)
        assert tab.locator("#search-results li").count() == 0
    assert not found, "\n".join(found)


def test_the_keyboard_reaches_content_solutions_and_search(site: Path, browser: Any) -> None:
    found: list[str] = []
    base = site.as_uri() + "/"
    with looking(browser, base, found) as tab:
        come_up(tab, base + "course/00_score_vs_kl.html")
        tab.keyboard.press("Tab")
        assert "Skip to main content" in tab.evaluate("document.activeElement.innerText")
        solution = tab.locator("details.solution").first
        assert not solution.evaluate("found => found.open")
        solution.locator("summary").focus()
        tab.keyboard.press("Enter")
        assert solution.evaluate("found => found.open")
        assert "sigma * (assistant - reference)" in solution.inner_text()
        tab.keyboard.press("Control+k")
        tab.keyboard.type("leash")
        tab.keyboard.press("Enter")
        tab.wait_for_url("**/search.html?q=leash*")
    assert not found, "\n".join(found)


def test_printing_loses_the_margins_and_the_dark_and_no_figure(site: Path, browser: Any) -> None:
    found: list[str] = []
    base = site.as_uri() + "/"
    with looking(browser, base, found, color_scheme="dark") as tab:
        come_up(tab, base + "course/00_score_vs_kl.html")
        tab.evaluate(
            "addEventListener('beforeprint', () => { window.printedIn = document.documentElement.dataset.theme })"
        )
        tab.emulate_media(media="print")
        assert not tab.locator(".bd-header").first.is_visible()
        assert not tab.locator(".bd-sidebar-primary").is_visible()
        assert len(tab.pdf()) > 100_000
        assert tab.evaluate("[window.printedIn, document.documentElement.dataset.theme]") == ["light", "dark"]
        tab.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert not found, "\n".join(found)


def test_control_of_what_a_page_must_not_do(tmp_path: Path, browser: Any) -> None:
    (tmp_path / "bad.html").write_text(
        '<!doctype html><html><head><script src="http://example.org/a.js"></script></head><body><h1>a</h1><h1>b</h1>'
        '<img src="missing.png"><div style="width:900px">wide</div><span class="math">\\(x\\)</span>'
        "<script>console.error('oh')</script></body></html>",
        encoding="utf-8",
    )
    found: list[str] = []
    base = tmp_path.as_uri() + "/"
    with looking(browser, base, found, viewport=PHONE) as tab:
        tab.goto(base + "bad.html", wait_until="load")
        found += problems(tab)
        rules = {one["id"] for one in violations(tab, "light")}
    text = "\n".join(found)
    for wanted in ("asked http://example.org/a.js", "oh", "wider", "2 headings", "alternative text", "0 of 1 formulas"):
        assert wanted in text
    assert {"image-alt", "html-has-lang"} <= rules
