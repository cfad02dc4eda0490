"""Projects that are really deployed, for tests that use falplan as its users do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.sandbox import Sandbox


@pytest.fixture
def box() -> Iterator[Sandbox]:
    """A project with two command apps; everything of it is gone afterwards."""
    sandbox = Sandbox()
    try:
        yield sandbox
    finally:
        sandbox.clean()
