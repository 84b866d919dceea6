"""Many independent runs, one single-threaded process per core."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from threading import Thread
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _end_with_parent() -> None:
    """Let a worker end as soon as its parent has, however that ended: the pool's own workers would wait for ever."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def in_parallel(
    function: Callable[[Given], Made], arguments: Sequence[Given], workers: int | None = None
) -> Generator[Made, None, None]:
    """function(argument) for every argument, in the order in which they finish.

    Starts processes that import the calling script: there, call it below `if __name__ == "__main__":`. Close the
    generator to end the processes early; any exception, Ctrl-C included, ends them too, and so does the end of the calling
    process, even by SIGKILL.

    Args:
        function: importable by name, or a functools.partial of such a one.

    Raises:
        RuntimeError: if one of the processes dies.
    """
    if not arguments:
        return
    others = set(active_children())
    pool = ProcessPoolExecutor(min(workers or cores(), len(arguments)), get_context("spawn"), _end_with_parent)
    try:
        # the processes inherit the mask, so a Ctrl-C in the terminal is answered by this process alone
        allowed = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            futures = [pool.submit(function, argument) for argument in arguments]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, allowed)
        for future in as_completed(futures):
            yield future.result()
    except BaseException as error:
        for worker in set(active_children()) - others:
            worker.terminate()
        if isinstance(error, BrokenProcessPool):
            raise RuntimeError(
                "a process that performs the runs ended early; free some memory and start again (a script has to call "
                'this below `if __name__ == "__main__":`)'
            ) from error
        raise
    finally:
        pool.shutdown(cancel_futures=True)
