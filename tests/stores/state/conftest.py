"""Places to keep state in, one of each backend, each test's own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from falplan.core.values import Json
from falplan.stores.state.places import open_store
from falplan.stores.state.store import Store
from tests.stores.state.servers import KEYS, Postgres, make_bucket, postgres_server, s3_server

LEASE = 2.0
"""Seconds; the shortest that S3's clock, which counts whole seconds, can tell from a holder that lives."""
BUCKET = "states"
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a test keeps state. Every `open` is another process's view of it, as it were."""

    section: dict[str, Json]
    root: Path

    @property
    def backend(self) -> str:
        return str(self.section["backend"])

    def open(self, lease: float = LEASE) -> Store:
        return open_store(self.section, "demo", self.root, {"FALPLAN_STATE_LEASE": str(lease)})


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    with s3_server() as url:
        make_bucket(url, BUCKET)
        yield url


@pytest.fixture
def aws_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def local_place(tmp_path: Path) -> Place:
    return Place({"backend": "local", "path": ".falplan"}, tmp_path)


@pytest.fixture
def s3_place(s3: str, aws_keys: None, tmp_path: Path) -> Place:
    key = f"test-{next(_numbers)}/state.json"
    return Place({"backend": "s3", "bucket": BUCKET, "key": key, "endpoint_url": s3, "region": "us-east-1"}, tmp_path)


@pytest.fixture
def postgres_place(postgres: Postgres, tmp_path: Path) -> Place:
    table = f"test_{next(_numbers)}.state"
    return Place({"backend": "postgres", "dsn": postgres.dsn(), "table": table}, tmp_path)


REMOTE = ["s3_place", pytest.param("postgres_place", marks=pytest.mark.needs("postgresql"))]
EVERYWHERE = ["local_place", *REMOTE]


@pytest.fixture(params=EVERYWHERE)
def place(request: pytest.FixtureRequest) -> Place:
    """A place of each backend."""
    found: Place = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=REMOTE)
def remote(request: pytest.FixtureRequest) -> Place:
    """A place of each backend whose lock is a lease."""
    found: Place = request.getfixturevalue(request.param)
    return found
