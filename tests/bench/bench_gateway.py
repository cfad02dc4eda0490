"""What the gateway costs: durable jobs a second beside one commit a job, and calls a second beside the runner alone.

Both sides of each ratio are measured in the same run; run it with `pytest -m bench -s tests/bench/bench_gateway.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import apsw
import pytest

from falplan.core.runtime import AuthMode, LiveApp, Outcome
from falplan.stores.runtime.database import Database
from falplan.stores.runtime.interfaces import NewRequest
from falplan.stores.runtime.requests import SqliteRequestStore
from tests.gateway.plane import APP, a_plane, a_runner

pytestmark = pytest.mark.bench
SECONDS = 3.0
CLIENTS = 64
BODY = b'{"prompt": "' + b"x" * 180 + b'"}'
DONE = Outcome(200, {}, b"{}")


async def rate(step: Callable[[int], Awaitable[None]], clients: int = CLIENTS) -> float:
    """Steps a second that this many clients get through, each one after the other."""
    done = 0
    until = time.monotonic() + SECONDS

    async def client() -> None:
        nonlocal done
        while time.monotonic() < until:
            number, done = done, done + 1
            await step(number)

    await asyncio.gather(*(client() for _ in range(clients)))
    return done / SECONDS


async def test_durable_jobs(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "control.db")
    store = SqliteRequestStore(database)

    async def job(n: int) -> None:
        it = f"r{n}"
        await store.add(NewRequest(it, APP, "", "", {}, BODY, 1.0))
        await store.start(it, token="t", runner_id="r", now=1.0)
        assert await store.complete(it, token="t", outcome=DONE, now=1.0, expires_at=2.0)

    grouped = await rate(job)
    database.close()
    single = _single_commits(tmp_path / "single.db")
    print(
        f"\ndurable jobs/s, {CLIENTS} clients: {grouped:.0f}; one commit a step: {single:.0f}; {grouped / single:.1f} times"
    )

    assert grouped > single


def _single_commits(path: Path) -> float:
    connection = apsw.Connection(str(path))
    for sql in (
        "pragma journal_mode = wal",
        "pragma synchronous = full",
        "create table jobs (id integer primary key, s, b)",
    ):
        list(connection.execute(sql))
    done, until = 0, time.monotonic() + SECONDS
    while time.monotonic() < until:
        connection.execute("insert into jobs values (?, 'q', ?)", (done, BODY))
        connection.execute("update jobs set s = 'r' where id = ?", (done,))
        connection.execute("update jobs set s = 'd' where id = ?", (done,))
        done += 1
    connection.close()
    return done / SECONDS


async def test_direct_calls(tmp_path: Path) -> None:
    apps = [LiveApp(APP, AuthMode.PUBLIC)]
    async with a_plane(tmp_path, apps=apps) as plane, a_runner(tmp_path, slots=CLIENTS) as runner:
        plane.serve(runner)
        socket = runner.target.address.removeprefix("unix:")
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(socket, limit=0)) as alone:

            async def directly(_: int) -> None:
                async with alone.post("http://runner/echo", data=BODY) as answer:
                    await answer.read()

            async def through(_: int) -> None:
                async with plane.session.post(plane.url(f"/run/{APP}/echo"), data=BODY) as answer:
                    await answer.read()

            runner_alone, gateway = await rate(directly), await rate(through)
    print(
        f"\ncalls/s, client and gateway in one process: {gateway:.0f}; the runner alone: {runner_alone:.0f}; ", end=""
    )
    print(f"{gateway / runner_alone:.2f} of it")

    assert gateway > 0
