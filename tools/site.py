"""`make site`: the course as a static site, in build/site/html and as a zip, without a word to any other host.

`python -m tools.site [--only 00,04] [--profile fast]` runs each notebook once (see tools/notebook_pages.py), writes the pages that
Sphinx reads into build/site/source from the repository's own documents and docstrings, and builds them. Links between documents are
followed: a document that has a page is linked as that page, any other file of the repository is copied beside it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from functools import cache
from importlib.metadata import files
from pathlib import Path, PurePosixPath
from typing import Any

import jupytext
import nbformat
import yaml

import distar_core
from distar_core.templates import fill
from tools import painters_data
from tools.build import EDITIONS, INSTRUCTOR, build
from tools.claims_map import Claim, claims
from tools.notebook_pages import kept, page, run

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "notebooks" / "source"
NAME = "distar_core-site"
FILES = "distar_core-files.zip"
"""The repository's files, for whoever has the site alone."""
PAGES = {
    "README.md": "index.md",
    "notebooks/README.md": "course/index.md",
    "notebooks/solutions": "course/index.md#downloads",
    "notebooks/EXPERIMENTS.md": "experiments/index.md",
    "notebooks/records/sdxl_h100.md": "experiments/sdxl_h100.md",
    "notebooks/records/sdxl_true_size.md": "experiments/sdxl_true_size.md",
    "docs/world.md": "experiments/world.md",
    "distar_core/world/weights/README.md": "experiments/card.md",
    "docs/web/leash.html": "play.md",
    "docs/glossary.md": "glossary.md",
    "docs/install.md": "library/install.md",
    "docs/rewards.md": "library/rewards.md",
    "docs/sdxl.md": "library/sdxl.md",
    "docs/processes.md": "library/processes.md",
    "docs/evaluation.md": "library/evaluation.md",
    "docs/sdxl_costs.md": "experiments/sdxl_costs.md",
    "CONTRIBUTING.md": "library/contributing.md",
    "CHANGELOG.md": "library/changes.md",
    "CITATION.cff": "cite.md",
}
"""Page by document, from the repository's root and from the site's."""
MATHJAX = ("tex-chtml.js", "output/chtml/fonts/woff-v2/", "input/tex/extensions/")
PLAYGROUNDS = (
    "leash.html",
    "leash.js",
    "theorem.html",
    "theorem.js",
    "painters.html",
    "painters.js",
    "play.css",
    "theme.js",
)
"""Files of docs/web that are pages of their own, in the site's folder play; built by `make web`."""
PAGES_TO_PLAY = '<nav class="pages" aria-label="Pages to play">'
"""Where each of them links to the others."""
UNWANTED = (".buildinfo", "objects.inv", "_sources", "_static/webpack-macros.html", "_static/**/*.map")
EXPERIMENTS = """
```{toctree}
:hidden:

The miniature world <world>
Its card <card>
SDXL in true size, an H100 <sdxl_h100>
SDXL in true size, an H200, earlier <sdxl_true_size>
What SDXL takes <sdxl_costs>
```
"""
PAPERS = {"ours": "derived here", "standard": "standard results"}


def stems() -> list[str]:
    """Names of all notebooks, in order."""
    return [path.stem for path in sorted(SOURCES.glob("[0-9]*.py"))]


@cache
def title_of(stem: str) -> str:
    """A notebook's number and title."""
    heading = jupytext.read(SOURCES / f"{stem}.py").cells[0].source.partition("\n")[0]
    return f"{stem[:2]} {heading.removeprefix('# ')}"


def sections(text: str) -> dict[str, str]:
    """A document's text by its headings of level 2; what precedes them is under ""."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return {"": parts[0].strip()} | {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def relative(target: str, place: str) -> str:
    """A path of the site as a page at `place` names it."""
    return os.path.relpath(target, PurePosixPath(place).parent).replace(os.sep, "/")


def reached(target: str, document: str) -> str:
    """The path of the repository to which a link in a document leads."""
    return os.path.normpath(str(PurePosixPath(document).parent / target)).replace(os.sep, "/")


@cache
def pages() -> dict[str, str]:
    """Page by document, notebooks too."""
    return PAGES | {f"notebooks/{stem}.ipynb": f"course/{stem}.ipynb" for stem in stems()}


def adapt(text: str, document: str, place: str, copy: Callable[[str, str], None]) -> str:
    """A document's text with its links for the page at `place`; copy(path, to) is told which other files it needs.

    Raises:
        FileNotFoundError: for a link that leads nowhere.
    """
    known = pages()

    def follow(found: re.Match[str]) -> str:
        target, mark, anchor = found[1].partition("#")
        path = reached(target, document)
        if path in known:
            page_of, _, its = known[path].partition("#")
            return f"]({relative(page_of, place)}{'#' if mark or its else ''}{anchor or its})"
        if not (ROOT / path).is_file():
            raise FileNotFoundError(
                f"{document} links to {found[1]}, which is no file of the repository; mend the link"
            )
        copied = f"files/{path.replace('/', '_')}"
        copy(path, copied)
        return f"]({relative(copied, place)})"

    return re.sub(r"\]\((?!https?://|#|mailto:)([^)\s]+)\)", follow, text)


def escaped(text: str) -> str:
    """Plain text as Markdown that shows it to the letter."""
    return re.sub(r"([\\`*_{}\[\]<>#|$~])", r"\\\1", text)


def slug(heading: str) -> str:
    """The anchor of a heading, as MyST makes it."""
    return re.sub(r"[^\w\u4e00-\u9fff\- ]", "", heading.strip().lower().replace("\\", "")).replace(" ", "-")


def mapped() -> list[dict[str, Any]]:
    """The claims with what docs/map.yaml adds; see tests/site/test_map.py."""
    return yaml.safe_load((ROOT / "docs" / "map.yaml").read_text("utf-8"))


def bibtex(kind: str, entry: dict[str, Any], **fields: str) -> str:
    """One entry of CITATION.cff as BibTeX."""
    people = [
        f"{who['family-names']}, {who['given-names']}" if "family-names" in who else f"{{{who['name']}}}"
        for who in entry["authors"]
    ]
    title = entry["title"].partition(":")[0].lower()
    first = entry["authors"][0].get("family-names", "").lower()
    key = f"{first}{entry['year']}{re.sub(r'[^a-z]', '', title)[:14]}" if first else title
    rows = {"title": f"{{{entry['title']}}}", "author": " and ".join(people)} | fields
    lines = "".join(f"  {name} = {{{value}}},\n" for name, value in rows.items())
    return f"@{kind}{{{key},\n{lines}}}"


class Site:
    """Writes the pages that Sphinx reads.

    Args:
        source: an empty folder for them.
        runs: the cache of the notebooks that have been run.
        profile: of these runs.
        only: numbers of the notebooks to run; the others are shown as they are in the cache, or without results. None runs all.
    """

    def __init__(self, source: Path, runs: Path, profile: str, only: Collection[str] | None) -> None:
        self.source, self.runs, self.profile, self.only = source, runs, profile, only
        self.readme = sections(self.document("README.md", "index.md"))
        self.course = sections(self.document("notebooks/README.md", "course/index.md"))
        self.cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
        self.files = self.packed()

    def packed(self) -> str:
        """Pack the files of the last commit, and say where they are and how large; nothing where this is no clone."""
        if not (ROOT / ".git").exists():
            return ""
        place = self.source / "extra" / FILES
        place.parent.mkdir(parents=True)
        archive = ["git", "archive", "--format=zip", f"--prefix={distar_core.__name__}/", f"--output={place}", "HEAD"]
        subprocess.run(archive, cwd=ROOT, check=True)
        return f'<a href="{{}}{FILES}">{FILES}</a> ({place.stat().st_size / 1e6:.0f} MB) has all files of the repository, as a clone has them.'

    def copy(self, path: str, to: str) -> None:
        """A file of the repository for the site."""
        place = self.source / to
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, place)

    def write(self, place: str, text: str) -> None:
        """One page."""
        path = self.source / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")

    def document(self, path: str, place: str) -> str:
        """A document of the repository with its links for a page."""
        return adapt((ROOT / path).read_text("utf-8"), path, place, self.copy)

    def page(self, place: str, template: str, **facts: Any) -> None:
        """A page from a template of tools/templates/site."""
        self.write(place, fill("tools", f"templates/site/{template}.md.j2", **facts))

    def all(self) -> None:
        """Every page."""
        self.notebooks()
        self.home()
        self.documents()
        self.library()
        self.teaching()
        self.cite()
        self.map()
        self.play()

    def notebooks(self) -> None:
        """A page for each notebook, and its editions."""
        for stem in stems():
            source = SOURCES / f"{stem}.py"
            wanted = self.only is None or stem[:2] in self.only
            executed = run(source, self.profile, self.runs) if wanted else kept(source, self.profile, self.runs)[1]
            made = page(source, executed, self.source / "extra" / "figures", "../figures")
            self.write(f"course/{stem}.ipynb", nbformat.writes(made))
        places = {name: f"course/{name if name != 'solution' else 'solutions'}" for name in [*EDITIONS, *INSTRUCTOR]}
        for path, text in build(ROOT / "notebooks", {name: name for name in places}).items():
            self.write(f"{places[path.parent.name]}/{path.name}", text)

    def home(self) -> None:
        """The first page: README's front, and ways in."""
        front = self.readme[""].partition("\n")[2].strip()
        self.page(
            "index.md",
            "home",
            front=front,
            sections=self.readme,
            claims=len(mapped()),
            notebooks=len(stems()),
            files=self.files.format(""),
        )

    def documents(self) -> None:
        """What is a page as it is, and the course's index."""
        titles = [(stem, title_of(stem)) for stem in stems()]
        self.page("course/index.md", "course", front=self.course[""], routes=self.course["Routes"], notebooks=titles)
        for path, place in PAGES.items():
            if path.endswith(".md") and place not in ("index.md", "course/index.md"):
                text = self.document(path, place)
                if path == "docs/install.md" and self.files:
                    title, _, rest = text.partition("\n\n")
                    text = f"{title}\n\n{self.files.format('../')}\n\n{rest}"
                self.write(place, text + EXPERIMENTS if place == "experiments/index.md" else text)

    def library(self) -> None:
        """The library's index and its reference: one page for each room and each module of the root."""
        package = ROOT / "distar_core"
        rooms = re.findall(r"^\| `(\w+)` \| (.+) \|$", self.readme["Map of the house"], re.MULTILINE)
        (root,) = re.findall(r"^\| the root \| (.+) \|$", self.readme["Map of the house"], re.MULTILINE)
        modules = [path.stem for path in sorted(package.glob("*.py")) if not path.stem.startswith("_")]
        for name in modules:
            self.page(f"library/api/{name}.md", "api", title=name, modules=[f"distar_core.{name}"])
        for room, _ in rooms:
            inside = [path.relative_to(ROOT).with_suffix("") for path in sorted((package / room).rglob("*.py"))]
            names = [".".join(path.parts).removesuffix(".__init__") for path in inside]
            self.page(f"library/api/{room}.md", "api", title=room, modules=sorted(names))
        public = [(name, module_of(name)) for name in distar_core.__all__]
        self.page("library/index.md", "library", rooms=rooms, root=root, modules=modules, public=public)

    def teaching(self) -> None:
        """Routes, and the notes for whoever stands at the board."""
        notes = []
        for stem in stems():
            cells = jupytext.read(SOURCES / f"{stem}.py").cells
            own = [cell.source for cell in cells if "instructor" in cell.metadata.get("tags", [])]
            if own:
                notes.append((stem, title_of(stem), own))
        parts = sections(self.document("notebooks/README.md", "teaching.md"))
        writing = parts["Writing the notebooks"]
        self.page("teaching.md", "teaching", routes=parts["Routes"], notebooks=notes, writing=writing)

    def cite(self) -> None:
        """CITATION.cff, and BibTeX made from it."""
        self.copy("CITATION.cff", "CITATION.cff")
        papers = []
        for paper in self.cited["references"]:
            number = paper["url"].rsplit("/", 1)[-1]
            entry = bibtex("article", paper, journal=f"arXiv:{number}", year=str(paper["year"]), url=paper["url"])
            papers.append((paper["title"], paper["url"], entry))
        own = bibtex("software", self.cited, version=self.cited["version"], note=f"Licence: {self.cited['license']}")
        self.page(
            "cite.md", "cite", message=self.cited["message"], software=own, papers=papers, files=self.files.format("")
        )

    def play(self) -> None:
        """The playgrounds with a way back and links to the site's pages, and the page that leads to them."""

        def follow(found: re.Match[str]) -> str:
            page_of = pages()[reached(found[1], "docs/web/leash.html")]
            return f'href="{relative(str(PurePosixPath(page_of).with_suffix(".html")), "play/index.html")}"'

        home = f'<a class="home" href="../index.html">{distar_core.__name__}</a>'
        back = f'{PAGES_TO_PLAY}\n  {home}\n  <a href="../play.html">Play</a>'
        for name in PLAYGROUNDS:
            if name.endswith(".html"):
                text = (ROOT / "docs" / "web" / name).read_text("utf-8")
                text = re.sub(r'href="(\.\./[^"]+)"', follow, text)
                self.write(f"extra/play/{name}", text.replace(PAGES_TO_PLAY, back))
            else:
                self.copy(f"docs/web/{name}", f"extra/play/{name}")
        self.write("extra/play/weights.js", painters_data.script())
        self.page("play.md", "play")

    def map(self) -> None:
        """The claims in their own words, and the ways to them."""
        papers = {paper["url"].rsplit("/", 1)[-1]: paper for paper in self.cited["references"]}
        links = {number: f"[{paper['title']}]({paper['url']})" for number, paper in papers.items()} | PAPERS
        by_paper, by_name, by_notebook = defaultdict(list), defaultdict(list), defaultdict(list)
        groups: dict[str, list[dict[str, Any]]] = {}
        titles = {stem[:2]: (stem, title_of(stem)) for stem in stems()}
        every = claims()
        for claim, added in zip(every, mapped(), strict=True):
            by_paper[added["paper"]].append(claim.number)
            for name in added["library"]:
                by_name[name].append(claim.number)
            taught = []
            for number, heading in added["taught"].items():
                stem, title = titles[number]
                by_notebook[f"[{title}](course/{stem}.ipynb)"].append(claim.number)
                taught.append(f"[{title}: {heading}](course/{stem}.ipynb#{slug(heading)})")
            groups.setdefault(group_of(claim), []).append(
                vars(claim)
                | added
                | {"statement": escaped(claim.statement), "source": links[added["paper"]], "taught": sorted(taught)}
            )
        self.page(
            "map.md",
            "map",
            claims=every,
            papers=[(name, link, by_paper[name]) for name, link in links.items() if by_paper[name]],
            functions=sorted(by_name.items()),
            notebooks=sorted(by_notebook.items()),
            groups=list(groups.items()),
        )


def module_of(name: str) -> str:
    """The module that defines a public name; METHODS and the like say so by being found there."""
    found = getattr(getattr(distar_core, name), "__module__", None)
    return found if found and found.startswith("distar_core") else "distar_core.methods"


def group_of(claim: Claim) -> str:
    """What the claims of one file have in common: the first sentence of its docstring, without the numbers."""
    text = (ROOT / "tests" / "claims" / claim.file).read_text("utf-8")
    title = re.sub(r"^Claims? [\d, toand]+: ", "", text.split('"""')[1].partition("\n")[0]).rstrip(".")
    return escaped(title[0].upper() + title[1:])


def mathjax(static: Path) -> None:
    """MathJax beside the pages: what its TeX to HTML needs."""
    base = "static/mathjax/"
    for path in files("sphinx-mathjax-offline") or []:
        inner = path.as_posix().partition(base)[2]
        if inner.startswith(MATHJAX):
            place = static / "mathjax" / inner
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(path.locate()), place)


def make(out: Path, profile: str = "fast", only: Collection[str] | None = None, runs: Path | None = None) -> Path:
    """Build the site in out/html, and out/NAME.zip, which opens without installing anything.

    Args:
        profile: of the notebooks' runs; "ci" makes pictures that contradict the text, so it is for tests of the pages alone.
        only: numbers of the notebooks to run; None runs all.
        runs: the cache of executed notebooks; by default out/runs.

    Raises:
        RuntimeError: if Sphinx warns of anything, such as a link that leads nowhere; it has printed what.
    """
    source, html = out / "source", out / "html"
    for folder in (source, html, out / "doctrees"):
        shutil.rmtree(folder, ignore_errors=True)
    Site(source, runs or out / "runs", profile, only).all()
    options = [
        "-q",
        "-W",
        "-D",
        f"html_extra_path={source / 'extra'}",
        "--keep-going",
        "-b",
        "html",
        "-c",
        str(ROOT / "docs"),
        "-d",
        str(out / "doctrees"),
    ]
    # in a process of its own: autodoc imports modules anew, as type checkers see them
    if subprocess.run([sys.executable, "-m", "sphinx", *options, str(source), str(html)], check=False).returncode:
        raise RuntimeError(f"Sphinx found something amiss in {source}; mend what it printed above")
    mathjax(html / "_static")
    for pattern in UNWANTED:
        for path in html.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    archive = out / NAME
    shutil.rmtree(archive, ignore_errors=True)
    html.rename(archive)
    shutil.make_archive(str(archive), "zip", out, NAME)
    archive.rename(html)
    return html


def main(arguments: Sequence[str]) -> None:
    """Build it, and say where it is."""
    parser = ArgumentParser(description="Build the course's site.")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site")
    parser.add_argument("--profile", default="fast", help="of the notebooks' runs")
    parser.add_argument(
        "--only",
        help="run these notebooks alone, such as 00,04; the others as they were run before, or without results",
    )
    options = parser.parse_args(arguments)
    only = None if options.only is None else options.only.split(",")
    unknown = set(only or []) - {stem[:2] for stem in stems()}
    if unknown:
        parser.error(f"--only names {sorted(unknown)}, and there is no such notebook; give numbers such as 00,04")
    html = make(options.out.resolve(), options.profile, only)
    print(f"open {html / 'index.html'}; for others: {options.out / NAME}.zip")


if __name__ == "__main__":
    main(sys.argv[1:])
