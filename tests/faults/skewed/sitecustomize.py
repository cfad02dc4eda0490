"""Python loads this first where its folder is on PYTHONPATH: the time of day is wrong by the seconds that FALPLAN_TEST_CLOCK, a file, holds.

It is read at every look, so that a clock may jump while a process runs. What never jumps (`time.monotonic`) is left alone.
"""

import os
import time

_file = os.environ.get("FALPLAN_TEST_CLOCK")
_time, _time_ns = time.time, time.time_ns


def _off() -> float:
    try:
        with open(_file or "") as file:  # noqa: PTH123 - before anything of falplan is loaded
            return float(file.read() or 0)
    except (OSError, ValueError):
        return 0.0


if _file:
    time.time = lambda: _time() + _off()
    time.time_ns = lambda: _time_ns() + int(_off() * 1e9)
