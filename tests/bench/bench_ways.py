"""Ways to a runner on another machine: paramiko's channels, OpenSSH's forwarding as falplan uses it, and a runner's TLS front.

The client is an event loop as the gateway's, with connections as `falplan.gateway.runners` makes them. Beside the ways stands `unix`, the
same server without a way: what the client and the server take by themselves. CPU time is the client's and that of the process that
forwards for it; nothing of what is spent on the other machine counts, though all of it is this one.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import cast

import aiohttp
import psutil
import pytest
import uvloop

from falplan.control import launch
from falplan.core.runtime import RunnerAccess, RunnerTarget
from falplan.gateway.runners import RunnerLink
from falplan.runner.fronting import Front
from falplan.runner.supervisor import claim_port
from falplan.sdk.ssh import SshShell
from falplan.sdk.values import PORTS
from falplan.stores.runner_identity import identities
from falplan.stores.sealing import Seal
from tests.bench.clients import cpu_of
from tests.bench.way_server import PART
from tests.lab.conftest_loopback import free_address
from tests.lab.loopback import CREDENTIALS, LoopbackHost

pytestmark = [pytest.mark.bench, pytest.mark.needs("openssh-server"), pytest.mark.timeout(1200)]
STREAMS = (1, 32, 256)
SECONDS, TURNS = 2.0, 3
LARGE = 256 << 20  # bytes of all large answers of one measurement together
BODY = b'{"prompt": "' + b"x" * 180 + b'"}'


@dataclass(frozen=True, slots=True)
class Way:
    """How to connect, and the process that does it if there is one."""

    session: Callable[[], aiohttp.ClientSession]
    url: str
    headers: Mapping[str, str]
    process: psutil.Process | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """Requests a second, their latency in ms, milliseconds of CPU time each; MB a second, and seconds of CPU time a GB."""

    rate: float
    half: float
    slowest: float
    cpu: float
    speed: float
    cpu_large: float


def test_ways_to_a_runner(make_host: Callable[..., LoopbackHost], tmp_path: Path) -> None:
    host = make_host("h")
    with ways_to(host, tmp_path) as ways:
        for streams in STREAMS:
            turns = [{name: uvloop.run(measured(way, streams)) for name, way in ways.items()} for _ in range(TURNS)]
            told(streams, {name: middle([turn[name] for turn in turns]) for name in ways})


def middle(seen: Sequence[Seen]) -> Seen:
    """The median in each respect."""
    return Seen(*(statistics.median(getattr(s, f.name) for s in seen) for f in fields(Seen)))


def told(streams: int, found: Mapping[str, Seen]) -> None:
    """Print them, and what each is of the way that falplan takes."""
    base, rest = (
        found["openssh"],
        "requests/s   p50 ms   p99 ms   CPU ms each     MB/s   CPU s a GB   of openssh's requests, MB",
    )
    print(f"\n{streams} streams at once:\n  {'':14} {rest}")
    for name, s in found.items():
        one = f"{s.rate:10.0f} {s.half:8.2f} {s.slowest:8.2f} {s.cpu:13.3f}"
        print(
            f"  {name:14} {one} {s.speed:8.0f} {s.cpu_large:12.2f}   {s.rate / base.rate:.2f}, {s.speed / base.speed:.2f}"
        )


async def measured(way: Way, streams: int) -> Seen:
    """Small requests for a while, then large answers; connections are there before."""
    async with way.session() as session:

        async def small() -> None:
            async with session.post(f"{way.url}/small", data=BODY, headers=way.headers) as answer:
                assert answer.status == 200
                await answer.read()

        async def large(parts: int) -> None:
            async with session.get(f"{way.url}/large?parts={parts}", headers=way.headers) as answer:
                found = 0
                while part := await answer.content.readany():
                    found += len(part)
            assert found == parts * len(PART)

        await connected(small, streams)
        before, began, latencies = cpu(way), time.perf_counter(), await small_ones(small, streams)
        lasted, used = time.perf_counter() - began, cpu(way) - before
        parts = LARGE // len(PART) // streams
        await connected(small, streams)
        before, began = cpu(way), time.perf_counter()
        await asyncio.gather(*(large(parts) for _ in range(streams)))
        took, used_large = time.perf_counter() - began, cpu(way) - before
    size, cuts = parts * len(PART) * streams, statistics.quantiles(latencies, n=100)
    each = 1000 * used / len(latencies)
    return Seen(
        len(latencies) / lasted,
        1000 * cuts[49],
        1000 * cuts[98],
        each,
        size / 1e6 / took,
        used_large / size * 1e9,
    )


async def connected(small: Callable[[], Awaitable[None]], streams: int) -> None:
    """Have as many connections, a few more each time: OpenSSH's sockets take 128 at once."""
    for count in range(32, streams + 32, 32):
        await asyncio.gather(*(small() for _ in range(min(count, streams))))


async def small_ones(small: Callable[[], Awaitable[None]], streams: int) -> list[float]:
    """Seconds that each request took."""
    latencies: list[float] = []
    until = time.perf_counter() + SECONDS

    async def client() -> None:
        while (began := time.perf_counter()) < until:
            await small()
            latencies.append(time.perf_counter() - began)

    await asyncio.gather(*(client() for _ in range(streams)))
    return latencies


def cpu(way: Way) -> float:
    return time.process_time() + cpu_of([way.process] if way.process else [])


@contextmanager
def ways_to(host: LoopbackHost, folder: Path) -> Iterator[dict[str, Way]]:
    """A server that stands in for a runner, and every way to it."""
    _, port = free_address()
    there, through = folder / "s", folder / "p"
    identity = identities(Seal.of(bytes(32)))("r")
    with ExitStack() as stack:
        stack.enter_context(program("tests.bench.way_server", there, port))
        forward = [host.address, host.port, host.client_key, host.keys["ed25519"], through, port]
        paramiko = stack.enter_context(program("tests.bench.paramiko_way", *forward))
        shell = SshShell(host.target(), CREDENTIALS)
        stack.callback(shell.close)
        address = shell.reach(f"unix:{there}")
        assert shell._forwards is not None and shell._forwards._process is not None
        told = launch.Front(identity, PORTS, "127.0.0.1")
        front = Front(told.told(), cast("dict[str, str]", told.given()), claim_port)
        for end in (front.let_finish, front.ended, front.kill):  # the last one first
            stack.callback(end)
        front.start(f"unix:{there}")
        direct = f"tls:127.0.0.1:{front.port}"
        yield {
            "unix, no way": Way(as_gateway(f"unix:{there}"), "http://localhost", {}),
            "paramiko": Way(as_gateway(f"unix:{through}"), "http://localhost", {}, paramiko),
            "openssh": Way(as_gateway(address), "http://localhost", {}, psutil.Process(shell._forwards._process.pid)),
            "direct, TLS": Way(as_gateway(direct, identity.access), "http://localhost", {}),
        }


def as_gateway(address: str, access: RunnerAccess | None = None) -> Callable[[], aiohttp.ClientSession]:
    """Connections as the gateway makes them."""
    return lambda: RunnerLink(RunnerTarget("r", "acme/app", "1", address, 1, access))._connections()


@contextmanager
def program(module: str, *args: object) -> Iterator[psutil.Process]:
    """A program of this package that says when it is ready, and ends with its standard input."""
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    argv = [sys.executable, "-m", module, *map(str, args)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield psutil.Process(process.pid)
        finally:
            process.kill()
