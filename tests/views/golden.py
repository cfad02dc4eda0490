"""What was printed, compared with what was reviewed. `GOLDEN=write pytest tests/views` writes the files anew; review the diff like code."""

from __future__ import annotations

import os
from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "golden"


def check_golden(text: str, name: str) -> None:
    """That `text` is what the file `name` of tests/golden holds, to the letter."""
    path = GOLDEN / name
    if os.environ.get("GOLDEN") == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    assert text == path.read_text()
