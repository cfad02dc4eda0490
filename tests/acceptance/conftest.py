"""Projects that are really deployed, for tests that use falplan as its users do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.releases import installed, next_release
from tests.faults.sandbox import Sandbox


@pytest.fixture
def box() -> Iterator[Sandbox]:
    """A project with two command apps; everything of it is gone afterwards."""
    sandbox = Sandbox()
    try:
        yield sandbox
    finally:
        sandbox.clean()


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This falplan as the release after next."""
    return next_release(tmp_path_factory.mktemp("next"))


@pytest.fixture(scope="session")
def newer(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its interpreter, in an environment of its own."""
    return installed(sources, tmp_path_factory.mktemp("newer"))
