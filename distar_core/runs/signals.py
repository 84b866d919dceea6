"""SIGTERM and Ctrl-C: a run that is asked to stop ends in good order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import DistarError


class Interrupted(DistarError):
    """A run was asked to stop and left a checkpoint.

    Attributes:
        signal: which signal asked.
        exit_code: as shells have it, 128 and the signal's number.
    """

    def __init__(self, received: signal.Signals, rest: str) -> None:
        super().__init__(f"stopped by {received.name} {rest}")
        self.signal = received
        self.exit_code = 128 + received


@contextmanager
def stop_requests() -> Iterator[list[signal.Signals]]:
    """Collect SIGTERM and Ctrl-C in a list instead of dying from them; the old handlers come back at the end."""
    received: list[signal.Signals] = []
    previous = {
        number: signal.signal(number, lambda caught, _: received.append(signal.Signals(caught)))
        for number in ((signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ())
    }
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
