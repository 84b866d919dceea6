"""Runs in processes: what becomes of the processes when the work ends early."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from multiprocessing import active_children

import pytest

from distar_core.runs.parallel import in_parallel

AN_HOUR = 3600


def group_exists(number):
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True


def test_closing_early_ends_the_processes():
    others = set(active_children())
    results = in_parallel(time.sleep, [0, AN_HOUR, AN_HOUR], workers=2)
    assert next(results) is None
    assert set(active_children()) - others
    results.close()
    assert set(active_children()) <= others


def test_a_process_that_dies_is_one_sentence():
    with pytest.raises(RuntimeError, match="ended early; free some memory"):
        list(in_parallel(os._exit, [1]))


WORKING = f"""
import signal, time
from distar_core.runs.parallel import in_parallel
# a run in the background starts with SIGINT ignored, which a terminal's foreground never has
signal.signal(signal.SIGINT, signal.default_int_handler)
for _ in in_parallel(time.sleep, [0, {AN_HOUR}, {AN_HOUR}], workers=2):
    print("working", flush=True)
"""


@contextmanager
def a_script_at_work():
    """A process whose two workers are busy, in a session of its own; nothing of it outlives the block."""
    command = [sys.executable, "-c", WORKING]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, start_new_session=True) as process:
        try:
            assert process.stdout.readline() == "working\n"
            yield process
        finally:
            if group_exists(process.pid):
                os.killpg(process.pid, signal.SIGKILL)


def ends(group):
    deadline = time.monotonic() + 60
    while group_exists(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not group_exists(group)


def test_ctrl_c_in_the_terminal_is_answered_once_and_leaves_no_process():
    with a_script_at_work() as process:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to all processes
        _, errors = process.communicate(timeout=60)
        assert process.returncode != 0
        assert errors.count("Traceback") == 1
        assert errors.rstrip().endswith("KeyboardInterrupt")
        assert ends(process.pid)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_processes_end_with_the_one_that_started_them(how):
    with a_script_at_work() as process:
        process.send_signal(how)
        assert process.wait(timeout=60) == -how
        assert ends(process.pid)
