"""A hub of its own on this machine's loopback: the answers of huggingface.co that fetching a repository needs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories by name, each a folder on the disk.

    Attributes:
        models, datasets: name -> folder.
        gated: names whose licence was not accepted.
        sent: the files that were asked for, as owner/name/path, in order.
    """

    def __init__(self) -> None:
        self.models: dict[str, Path] = {}
        self.datasets: dict[str, Path] = {}
        self.gated: set[str] = set()
        self.sent: list[str] = []
        self.url = ""

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a path of the hub's interface."""
        parts = [unquote(part) for part in urlsplit(path).path.strip("/").split("/")]
        kind = "models"
        if parts[0] == "api" and parts[1] not in ("models", "datasets"):
            return 404, {}, b""
        if parts[0] == "api":
            kind, (name, rest) = parts[1], ("/".join(parts[2:4]), parts[4:])
        elif parts[0] == "datasets":
            kind, (name, rest) = "datasets", ("/".join(parts[1:3]), parts[3:])
        else:
            name, rest = "/".join(parts[:2]), parts[2:]
        folder = getattr(self, kind).get(name)
        if name in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b"{}"
        if folder is None:
            return 401, {"X-Error-Code": "RepoNotFound"}, b"{}"
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if parts[0] != "api":
            file = folder / "/".join(rest[2:])
            if not file.is_file():
                return 404, {"X-Error-Code": "EntryNotFound"}, b""
            self.sent.append(f"{name}/{'/'.join(rest[2:])}")
            content = file.read_bytes()
            tag = hashlib.sha256(content).hexdigest()
            return 200, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}, content
        sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}
        said: Any = [{"type": "file", "path": path, "size": size, "oid": path} for path, size in sizes.items()]
        if rest[:1] != ["tree"]:
            siblings = [{"rfilename": path, "size": size} for path, size in sizes.items()]
            said = {"id": name, "sha": COMMIT, "siblings": siblings}
        return 200, {}, json.dumps(said).encode()


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers at its url."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, *, body: bool) -> None:
            status, headers, content = hub.answer(self.path)
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                **headers,
                "Content-Length": str(len(content)),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
