"""The browser that pages are looked at with: a headless Chromium of this machine, one for all tests of a process.

Where it is missing, or Node.js for the playgrounds' scripts, tests that need it are skipped; DISTAR_BROWSER=1 lets them fail.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest


def absent(what: str) -> NoReturn:
    """Skip for want of something to look with, or fail where DISTAR_BROWSER says that it must be there."""
    reason = f"{what}, so nobody looks at the pages"
    pytest.fail(reason) if "DISTAR_BROWSER" in os.environ else pytest.skip(reason)


def ask_node(*command: Path, task: str, **question: Any) -> Any:
    """What a harness in Node.js answers; it reads a question as JSON and writes its answer as JSON."""
    node = shutil.which("node")
    if node is None:
        absent("Node.js is not installed, and the playgrounds' scripts run in it")
    done = subprocess.run(
        [node, *command], input=json.dumps({"task": task} | question), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def opening(browser: Any, file: Path, ready: str, patience: int = 120_000) -> Iterator[Callable[..., Any]]:
    """Yields what opens a page from its file and waits until it is ready; at the end nothing was asked of any other place, and
    nothing went wrong.
    """
    contexts: list[Any] = []
    wrong: list[str] = []
    own = (file.parent.as_uri(), "blob:", "data:")

    def open_at(hash_: str = "", *, before: str = "", **options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(patience)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(own) else wrong.append(request.url))
        if before:
            page.add_init_script(before)
        page.goto(file.as_uri() + hash_)
        page.wait_for_function(ready)
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert wrong == []


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
