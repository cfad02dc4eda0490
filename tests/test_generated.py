"""Every generated file is current: what is checked in is what the code says today."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.generated import ROOT, generated

FILES = generated()


@pytest.mark.parametrize("path", sorted(FILES), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_generated_file_is_current(path: Path) -> None:
    assert path.exists(), "`make schemas` writes it"
    assert path.read_text() == FILES[path], "`make schemas` writes it anew"
