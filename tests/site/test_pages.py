"""The site's files: links and anchors lead somewhere, nothing is fetched from elsewhere, and the zip is the site."""

from __future__ import annotations

import os
import re
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

from distar_core import __all__ as public
from tools.site import FILES, NAME, PLAYGROUNDS, ROOT, adapt, module_of, stems

ELSEWHERE = ("http://", "https://", "mailto:", "data:", "javascript:")


class Links(HTMLParser):
    """What a page links to, what it loads, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """One tag."""
        given = {name: value for name, value in attrs if value}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag in ("img", "script", "iframe", "source") and "src" in given:
            self.loaded.append(given["src"])
        if tag == "link" and given.get("rel") not in ("index", "search", "next", "prev"):
            self.loaded.append(given.get("href", ""))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])


def broken(root: Path) -> list[str]:
    """Links of pages below a folder that lead nowhere, and what they load from elsewhere.

    What follows # in a link to a playground is no anchor but a state; tests/docs reads it.
    """
    pages = {path: Links(path.read_text("utf-8")) for path in root.rglob("*.html") if "_static" not in path.parts}
    states = {root / "play" / name for name in PLAYGROUNDS}
    found = []
    for path, page in pages.items():
        found += [
            f"{path.name} loads {link}"
            for link in page.loaded
            if link.startswith(ELSEWHERE) and not link.startswith("data:")
        ]
        for link in [*page.links, *page.loaded]:
            if link.startswith(ELSEWHERE):
                continue
            address, anchor = urldefrag(link)
            target = (path.parent / unquote(address.partition("?")[0])).resolve() if address else path
            if not target.exists() or (
                anchor and target in pages.keys() - states and unquote(anchor) not in pages[target].anchors
            ):
                found.append(f"{path.relative_to(root)} links to {link}")
    return found


def test_links_and_anchors_lead_somewhere_and_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    assert broken(site) == []


def test_control_of_the_links(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<a href="b.html"></a><a href="#no"></a><a href="#yes" id="yes"></a><img src="https://example.org/x.png">',
        "utf-8",
    )
    assert len(broken(tmp_path)) == 3


def test_every_notebook_has_a_page_with_both_editions(site: Path) -> None:
    for stem in stems():
        links = Links((site / "course" / f"{stem}.html").read_text("utf-8")).links
        assert len([link for link in links if link.endswith(f"{stem}.ipynb")]) == 2


def test_what_a_learner_has_to_do_is_blank_and_the_answer_folded(site: Path) -> None:
    text = (site / "course" / "00_score_vs_kl.html").read_text("utf-8")
    before, _, folded = text.partition('<details class="solution">')
    assert "# your line here" in before
    assert before.count("00.1: passed.") == 1
    assert (
        'class="n">sigma</span> <span class="o">*</span> <span class="p">(</span>' in folded.partition("</details>")[0]
    )
    assert "nothing predicted" not in text
    assert "you predicted" not in text


def test_no_page_names_a_folder_of_this_machine(site: Path) -> None:
    named = [path.name for path in site.rglob("*.html") if str(ROOT) in path.read_text("utf-8")]
    assert named == []


def test_figures_are_lazy_files_with_words(site: Path) -> None:
    text = (site / "course" / "00_score_vs_kl.html").read_text("utf-8")
    assert "base64" not in text
    figures = re.findall(r'<figure><img alt="([^"]+)" src="([^"]+)" width="\d+" height="\d+" loading="lazy"', text)
    assert len(figures) > 5
    for alt, source in figures:
        assert len(alt) > 20
        assert (site / "course" / source).resolve().is_file()


@pytest.mark.skipif("DISTAR_SITE" in os.environ, reason="a finished site was run whole")
def test_a_page_that_was_not_run_says_so(site: Path) -> None:
    said = {stem[:2]: "without running" in (site / "course" / f"{stem}.html").read_text("utf-8") for stem in stems()}
    assert {number for number, words in said.items() if not words} == {"00"}


def test_every_public_name_has_its_place_in_the_reference(site: Path) -> None:
    text = "".join(path.read_text("utf-8") for path in (site / "library" / "api").glob("*.html"))
    missing = [name for name in public if f'id="{module_of(name)}.{name}"' not in text]
    assert missing == ["METHODS"]  # data without a docstring; its rows are on the first page


def test_the_playgrounds_lead_back(site: Path) -> None:
    for name in ("leash", "theorem", "painters"):
        links = Links((site / "play" / f"{name}.html").read_text("utf-8")).links
        assert {"../index.html", "../play.html"} <= set(links)
        assert not any(link.startswith("../../") for link in links)


def test_the_zip_holds_the_site_in_one_folder(site: Path) -> None:
    with zipfile.ZipFile(site.parent / f"{NAME}.zip") as archive:
        packed = {name for name in archive.namelist() if not name.endswith("/")}
    assert packed == {f"{NAME}/{path.relative_to(site).as_posix()}" for path in site.rglob("*") if path.is_file()}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no clone")
def test_whoever_has_the_site_has_the_repository(site: Path) -> None:
    with zipfile.ZipFile(site / FILES) as archive:
        packed = set(archive.namelist())
    assert {
        f"distar_core/{name}"
        for name in ("README.md", "Makefile", "distar_core/losses.py", "notebooks/source/00_score_vs_kl.py")
    } < packed
    for page, link in (("index", FILES), ("cite", FILES), ("library/install", f"../{FILES}")):
        assert link in Links((site / f"{page}.html").read_text("utf-8")).links


def test_links_of_documents_follow_to_pages_and_files() -> None:
    copied: list[tuple[str, str]] = []
    text = "[a](docs/world.md) [b](notebooks/README.md#routes) ![c](docs/front.png) [d](https://example.org) [e](#here)"
    followed = adapt(text, "README.md", "library/index.md", lambda path, to: copied.append((path, to)))
    assert followed == (
        "[a](../experiments/world.md) [b](../course/index.md#routes) ![c](../files/docs_front.png)"
        " [d](https://example.org) [e](#here)"
    )
    assert copied == [("docs/front.png", "files/docs_front.png")]
    with pytest.raises(FileNotFoundError, match=r"README\.md.*docs/no\.md"):
        adapt("[a](docs/no.md)", "README.md", "index.md", lambda path, to: None)
