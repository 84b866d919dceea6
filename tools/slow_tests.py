"""`pytest --durations=0 -vv > times.txt; python -m tools.slow_tests times.txt > tests/slow.txt`: the tests that make check leaves out."""

from __future__ import annotations

import re
import sys
from pathlib import Path

SLOW = 0.7
"""Seconds of one case, or of its set-up, on one core."""
HEAD = f"# Test functions with a case of more than {SLOW:g} seconds. tests/conftest.py marks them slow; made by tools/slow_tests.py."


def slow_tests(durations: str) -> list[str]:
    """Names as path::function, in order, from the durations that pytest prints."""
    lines = re.findall(r"^([\d.]+)s +(?:call|setup|teardown) +([^\s\[]+)", durations, re.MULTILINE)
    return sorted({name for seconds, name in lines if float(seconds) > SLOW})


if __name__ == "__main__":
    print("\n".join([HEAD, *slow_tests(Path(sys.argv[1]).read_text("utf-8"))]))
