"""The check for values that are told has to find one that is."""

from __future__ import annotations

import base64

import pytest

from tests.canaries import word
from tests.faults.raises import Watched
from tests.faults.sandbox import Broken, Ran


def test_a_value_in_a_file_or_an_output_is_found() -> None:
    box = Watched(secrets=True)
    try:
        box.check_silent()
        (box.folder / "state").mkdir()
        kept = box.folder / "state" / "kept.bin"
        kept.write_bytes(b"\0" + base64.b64encode(b"x" + word(2).encode()))
        with pytest.raises(Broken, match=r"kept\.bin"):
            box.check_silent()
        kept.unlink()
        box.said.append(Ran(70, "", f"Traceback: {word(1)}"))
        with pytest.raises(Broken, match="output 0"):
            box.check_silent()
    finally:
        box.clean()
