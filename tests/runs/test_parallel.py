"""Runs in processes: what becomes of the processes when the work ends early."""

import os
import signal
import subprocess
import sys
import time
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


def test_ctrl_c_in_the_terminal_is_answered_once_and_leaves_no_process():
    # a run in the background starts with SIGINT ignored, which a terminal's foreground never has
    script = f"""
import signal, time
from distar_core.runs.parallel import in_parallel
signal.signal(signal.SIGINT, signal.default_int_handler)
for _ in in_parallel(time.sleep, [0, {AN_HOUR}, {AN_HOUR}], workers=2):
    print("working", flush=True)
"""
    command = [sys.executable, "-c", script]
    # a session of its own is what a terminal gives: Ctrl-C goes to all its processes
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, start_new_session=True) as process:
        assert process.stdout.readline() == "working\n"
        os.killpg(process.pid, signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    assert errors.count("Traceback") == 1
    assert errors.rstrip().endswith("KeyboardInterrupt")
    deadline = time.monotonic() + 60
    while group_exists(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not group_exists(process.pid)
