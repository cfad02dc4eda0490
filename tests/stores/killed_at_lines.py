"""Runs one step once, and keeps what `kill -9` would leave at each line of falplan's own code.

`python killed_at_lines.py STEP FOLDER` runs the step on a copy of FOLDER/seed. SIGKILL takes nothing from what was written to files and leaves
nothing of a process: so at each line the folder is copied as it is then, as FOLDER/<n>, unless it is as it was at the line before. Prints how
many lines and how many copies there were.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import falplan
import falplan.stores.runtime.migrations  # before the first line
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


class Killing:
    """A trace function that keeps the states of a folder."""

    def __init__(self, work: Path, target: Path) -> None:
        self.work, self.target = work, target
        self.lines = self.states = 0
        self._last = b""

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        if event in ("line", "return"):
            self.lines += 1
            self.look()
        return self

    def look(self) -> None:
        """Keep the folder as it is now, if it changed."""
        seal = hashlib.sha256()
        for path in sorted(self.work.rglob("*")):
            seal.update(str(path).encode() + b"\0" + (path.read_bytes() if path.is_file() else b""))
        if seal.digest() != self._last:
            self._last = seal.digest()
            self.states += 1
            shutil.copytree(self.work, self.target / str(self.states))


def main(step: Callable[[Path], None], folder: Path) -> Killing:
    """Run the step. Its last state is that of a step that was not killed."""
    work = folder / "work"
    shutil.copytree(folder / "seed", work)
    killing = Killing(work, folder)
    killing.look()
    sys.settrace(killing)
    step(work)
    sys.settrace(None)
    killing.look()
    return killing


if __name__ == "__main__":
    done = main(STEPS[sys.argv[1]], Path(sys.argv[2]))
    print(done.lines, done.states)
