"""A folder for tests that kill a step at each of its lines."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")


@pytest.fixture
def light_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where the system has such a place: hundreds of copies are synced there in no time.

    SIGKILL takes nothing from what was written, whatever it was written to.
    """
    if not MEMORY.is_dir():
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(prefix="falplan-", dir=MEMORY))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
