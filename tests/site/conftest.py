"""The site that these tests look at, and a browser to look at it with.

By default the pages are built from a short run of one notebook, for their structure only, and one page of each kind is opened.
DISTAR_SITE=build/site/html looks at every page of a finished site instead. Where there is no browser its tests are skipped;
DISTAR_BROWSER=1 lets them fail.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from filelock import FileLock

from tools.site import make

KINDS = (
    "index",
    "course/index",
    "course/00_score_vs_kl",
    "course/04_theorem_3_1",
    "experiments/index",
    "library/index",
    "library/api/losses",
    "map",
    "play",
    "play/leash",
    "play/theorem",
    "glossary",
    "teaching",
    "cite",
    "search",
)
RUN = "00"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of the pages, built once for all processes."""
    if "DISTAR_SITE" in os.environ:
        return Path(os.environ["DISTAR_SITE"]).resolve()
    base = tmp_path_factory.getbasetemp()
    out = (base if worker_id == "master" else base.parent) / "site"
    with FileLock(f"{out}.lock"):
        if not (out / "html").is_dir():
            make(out, profile="ci", only=[RUN])
    return out / "html"


@pytest.fixture(scope="session")
def opened(site: Path) -> list[str]:
    """The pages to open: every one of a finished site, else one of each kind."""
    if "DISTAR_SITE" not in os.environ:
        return [f"{page}.html" for page in KINDS]
    pages = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    return [page for page in pages if not page.startswith(("_modules", "_static"))]


def absent(what: str) -> NoReturn:
    """Skip for want of something to look with, or fail where DISTAR_BROWSER says that it must be there."""
    reason = f"{what}, so nobody looks at the site's pages"
    pytest.fail(reason) if "DISTAR_BROWSER" in os.environ else pytest.skip(reason)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium of this machine."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        absent("playwright is not installed (it is in the extra dev)")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        absent("there is no Chromium (Debian's package chromium)")
    with sync_playwright() as running:
        chromium = running.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield chromium
        chromium.close()
