"""A gateway that is killed: what it accepted is done by the next one."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from falplan.stores.certificates import Certificates
from tests.gateway.plane import APP, Runner, a_runner

PROGRAM = Path(__file__).with_name("gateway_program.py")
ROOT = PROGRAM.parents[2]


@dataclass(slots=True)
class Program:
    """A gateway's process and what it said when it listened."""

    process: asyncio.subprocess.Process
    port: int
    key: str
    waiting: int
    folder: Path

    @asynccontextmanager
    async def session(self) -> AsyncIterator[aiohttp.ClientSession]:
        connector = aiohttp.TCPConnector(ssl=Certificates(self.folder / "tls").client_context(), limit=20)
        headers = {"Authorization": f"Key {self.key}"}
        base = f"https://127.0.0.1:{self.port}"
        async with aiohttp.ClientSession(base, connector=connector, headers=headers) as session:
            yield session


@asynccontextmanager
async def a_gateway(
    folder: Path, *runners: Runner, port: int = 0, failpoints: str = "", slots: int = 4
) -> AsyncIterator[Program]:
    """A gateway over `folder`; its process is gone at the end."""
    named = [f"{r.target.runner_id}={r.target.address.removeprefix('unix:')}={slots}" for r in runners]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "FALPLAN_FAILPOINTS": failpoints}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(PROGRAM), str(folder), str(port), *named),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environ,
    )
    try:
        assert process.stdout is not None
        said: dict[str, Any] = json.loads(await process.stdout.readline())
        yield Program(process, said["port"], said["key"], said["waiting"], folder)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # asyncio leaves the pipes to the collector


async def submit(session: aiohttp.ClientSession, n: int) -> str | None:
    """The id of an accepted request, None if nothing was acknowledged."""
    try:
        async with session.post(f"/queue/{APP}/number", json={"n": n}) as answer:
            return str((await answer.json())["request_id"]) if answer.status == 200 else None
    except aiohttp.ClientError:
        return None


async def results(session: aiohttp.ClientSession, requests: dict[str, int]) -> dict[str, int]:
    """The number that each request came back with, once it is COMPLETED."""

    async def result(request_id: str) -> int:
        base = f"/queue/{APP}/requests/{request_id}"
        while True:
            async with session.get(base + "/status") as answer:
                assert answer.status in (200, 202), await answer.text()
                if (await answer.json())["status"] == "COMPLETED":
                    break
            await asyncio.sleep(0.02)
        async with session.get(base) as answer:
            return int(json.loads((await answer.json())["body"])["n"])

    async with asyncio.timeout(60):
        found = await asyncio.gather(*(result(r) for r in requests))
    return dict(zip(requests, found, strict=True))


async def test_a_killed_gateway_loses_none_of_its_200_queued_requests(tmp_path: Path) -> None:
    """Seen red with a store that acknowledged a request five seconds before it was durable."""
    requests: dict[str, int] = {}
    async with a_gateway(tmp_path) as gateway, gateway.session() as session:
        for n, request_id in enumerate(await asyncio.gather(*(submit(session, n) for n in range(200)))):
            assert request_id is not None
            requests[request_id] = n
        gateway.process.kill()
        await gateway.process.wait()
    async with a_runner(tmp_path) as runner, a_gateway(tmp_path, runner) as gateway, gateway.session() as session:
        assert gateway.waiting == 200
        assert await results(session, requests) == requests


async def submitted_until_killed(gateway: Program, numbers: Iterator[int]) -> dict[str, int]:
    """Work for a gateway until it is gone: how many commits a number of requests takes, its disk's speed decides."""
    accepted: dict[str, int] = {}

    async def submit_on(session: aiohttp.ClientSession) -> None:
        for n in numbers:
            if gateway.process.returncode is not None:
                return
            if request_id := await submit(session, n):
                accepted[request_id] = n

    async with gateway.session() as session, asyncio.timeout(60):
        await asyncio.gather(*(submit_on(session) for _ in range(20)), gateway.process.wait())
    return accepted


async def test_gateways_killed_again_and_again_under_load_lose_nothing(tmp_path: Path) -> None:
    """Seen red with a store that acknowledged a request five seconds before it was durable."""
    accepted: dict[str, int] = {}
    numbers = itertools.count()
    points = [
        "request.add.after_commit=kill@40",
        "queue.attempt.after_start=kill@30",
        "request.end.before_commit=kill@20",
        "queue.attempt.after_complete=kill@25",
        "database.write.before_commit=kill@60",
        "database.write.after_commit=kill@60",
    ]
    async with a_runner(tmp_path) as runner:
        for point in points:
            async with a_gateway(tmp_path, runner, failpoints=point) as gateway:
                accepted |= await submitted_until_killed(gateway, numbers)
                assert gateway.process.returncode == -9, point
        async with a_gateway(tmp_path, runner) as gateway, gateway.session() as session:
            assert len(accepted) > 100
            assert await results(session, accepted) == accepted
