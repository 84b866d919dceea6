"""The site that these tests look at.

By default the pages are built from a short run of one notebook, for their structure only, and one page of each kind is opened.
DISTAR_SITE=build/site/html looks at every page of a finished site instead.
"""

from __future__ import annotations

import os
from pathlib import Path

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
    "play/painters",
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
