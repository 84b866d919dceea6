"""The browser that pages are looked at with: a headless Chromium of this machine, one for all tests of a process.

Where it is missing, or Node.js for the playgrounds' scripts, tests that need it are skipped; DISTAR_BROWSER=1 lets them fail.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest


def absent(what: str) -> NoReturn:
    """Skip for want of something to look with, or fail where DISTAR_BROWSER says that it must be there."""
    reason = f"{what}, so nobody looks at the pages"
    pytest.fail(reason) if "DISTAR_BROWSER" in os.environ else pytest.skip(reason)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium; one for the whole session, since playwright cannot be started twice in a thread."""
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
