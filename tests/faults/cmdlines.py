"""Writes down what every process of some network namespaces is called, a hundred times a second. `python -m tests.faults.cmdlines INODE…`.

Until its standard input ends; then it prints {"rounds", "seconds", "lines"} as JSON, each line once.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from pathlib import Path

PAUSE = 0.01
FORGET = 0.5
"""Seconds for which a process of somebody else is not looked at again: its number may be another one's by then."""


def main(networks: set[str]) -> None:
    os.nice(-10)  # as it looks a hundred times a second on machines that are busy, too
    lines: set[bytes] = set()
    others: set[str] = set()
    rounds, begun, forget_at = 0, time.monotonic(), 0.0
    while not select.select([sys.stdin], [], [], 0)[0]:
        rounds += 1
        next_at = time.monotonic() + PAUSE
        if time.monotonic() > forget_at:
            others, forget_at = set(), time.monotonic() + FORGET
        for process in Path("/proc").iterdir():
            name = process.name
            if not name.isdigit() or name in others:
                continue
            try:
                line = (process / "cmdline").read_bytes()
                if line not in lines and str((process / "ns/net").readlink()).strip("net:[]") not in networks:
                    others.add(name)
                elif line:
                    lines.add(line)
            except OSError:
                continue
        time.sleep(max(0.0, next_at - time.monotonic()))
    found = sorted(line.decode("latin-1") for line in lines)
    print(json.dumps({"rounds": rounds, "seconds": time.monotonic() - begun, "lines": found}))


if __name__ == "__main__":
    main(set(sys.argv[1:]))
