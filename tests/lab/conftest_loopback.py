"""Fixtures of hosts on loopback addresses."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.lab.loopback import LoopbackHost, make_key

_numbers = itertools.count(1)


def free_address() -> tuple[str, int]:
    """An address of this worker's own, with a port that nobody listens on."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    number = next(_numbers)
    address = f"127.{20 + worker}.{number // 250}.{1 + number % 250}"
    with closing(socket.socket()) as probe:
        probe.bind((address, 0))
        return address, int(probe.getsockname()[1])


@pytest.fixture
def make_host(tmp_path: Path) -> Iterator[Callable[..., LoopbackHost]]:
    """Make and start a host: `make_host("h1", kinds=("ed25519",), more="MaxStartups 1")`."""
    made: list[LoopbackHost] = []
    key = tmp_path / "client"
    make_key(key)

    def make(name: str, kinds: Sequence[str] = ("ed25519",), *, start: bool = True, more: str = "") -> LoopbackHost:
        address, port = free_address()
        host = LoopbackHost(tmp_path / name, address, port, key, more=more).make(kinds)
        made.append(host)
        return host.start() if start else host

    yield make
    for host in made:
        host.end()
