"""Runs one step over and over in forked children, each killed one line of falplan's own code later: no line is left out.

`python killed_at_lines.py STEP FOLDER`: for each line a fresh copy of FOLDER/seed is made as FOLDER/<n>, the step runs on it and is
killed at its n-th line. Prints the number of copies made. The modules are imported before, so that a child takes milliseconds.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import falplan
import falplan.stores.runtime.migrations  # before the first fork
from falplan.stores.backup.restore import restore_backup
from falplan.stores.home import ControlHome
from falplan.stores.runtime.copies import restore_before
from falplan.stores.runtime.schema import bring_up_to_date

LINEAGE = "11111111-2222-3333-4444-555555555555"
OURS = str(Path(falplan.__file__).parent)


def migrate(folder: Path) -> None:
    bring_up_to_date(folder / "control.db")


def go_back(folder: Path) -> None:
    restore_before(folder / "control.db", known=1)


def restore(folder: Path) -> None:
    home = ControlHome(folder)
    with home.owned():
        restore_backup(home, folder.parent / "backup.tar.gz", LINEAGE, at="now")


STEPS: dict[str, Callable[[Path], None]] = {"migrate": migrate, "go back": go_back, "restore": restore}

ONLY = {"restore": ("restore.py", "exchange.py", "home.py", "files.py")}
"""Where a step acts, for one whose other lines read alone. Everywhere by default."""


def killing_at(line: int, files: tuple[str, ...]) -> Callable[[FrameType, str, Any], Any]:
    """A trace function that kills this process at the n-th line of falplan's code."""
    seen = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        if files and not frame.f_code.co_filename.endswith(files):
            return None
        if event == "line":
            seen += 1
            if seen == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


def main(step: Callable[[Path], None], folder: Path, files: tuple[str, ...]) -> int:
    """Returns the number of lines killed at."""
    line = 0
    while True:
        line += 1
        copy = folder / str(line)
        shutil.copytree(folder / "seed", copy)
        child = os.fork()
        if child == 0:
            sys.settrace(killing_at(line, files))
            step(copy)
            sys.settrace(None)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0, status
            return line - 1


if __name__ == "__main__":
    print(main(STEPS[sys.argv[1]], Path(sys.argv[2]), ONLY.get(sys.argv[1], ())))
