"""A fake account for each test, and credentials that lead to it alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from falplan.sdk.testing import fakeec2
from falplan.sdk.testing.fakeec2 import FakeEc2

from .scene import Scene


@pytest.fixture(scope="session")
def server() -> Iterator[FakeEc2]:
    with fakeec2.fake_ec2() as made:
        yield made


@pytest.fixture
def fake(server: FakeEc2, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeEc2:
    """The server with an account that nobody has used: boto3 takes longer to make a client than a test takes with it."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAFAKE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nobody looks at it")
    server.account = fakeec2.Account()
    return server


@pytest.fixture
def scene(fake: FakeEc2) -> Scene:
    return Scene(fake)
