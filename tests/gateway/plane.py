"""A gateway with its database in this process, and runners in processes of their own, for tests to use and break."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from falplan.core.runtime import Key, KeyScope, LiveApp, LogEntry, RunnerTarget
from falplan.gateway.admin import AdminBody, AdminHandler
from falplan.gateway.dispatch import Dispatcher
from falplan.gateway.queueing import Timing
from falplan.gateway.server import Gateway, GatewayConfig, start_gateway
from falplan.stores.runtime.database import Database
from falplan.stores.runtime.keys import SqliteKeyStore
from falplan.stores.runtime.requests import SqliteRequestStore

STUB = Path(__file__).with_name("runner_stub.py")
APP = "acme/app"
PATIENCE = 15.0


async def until(true: Callable[[], Any], within: float = PATIENCE) -> None:
    """Wait until something holds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while not true():
        assert loop.time() < deadline, "it did not come true in time"
        await asyncio.sleep(0.005)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    content_type: str = "application/json"


@dataclass(slots=True)
class EchoAdmin:
    """An admin interface that tells what reached it."""

    calls: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    async def handle(self, method: str, path: str, query: Mapping[str, str], body: AdminBody, caller: Key) -> Answer:
        content = await body.read()
        self.calls.append((method, path, dict(query), content))
        return Answer(200, content or b"{}")


@dataclass(slots=True)
class Plane:
    """A running gateway and what it is made of."""

    gateway: Gateway
    dispatcher: Dispatcher
    database: Database
    keys: SqliteKeyStore
    admin: EchoAdmin
    folder: Path
    session: aiohttp.ClientSession
    key: str
    admin_key: str
    demands: list[str]
    suspects: list[tuple[str, str]]
    logs: list[LogEntry]

    def url(self, path: str) -> str:
        return self.gateway.url + path

    async def call(self, method: str, path: str, **options: Any) -> tuple[int, Any, dict[str, str]]:
        """One call with the API key; the body as JSON if it is that, else as text."""
        headers = {"Authorization": f"Key {self.key}", **options.pop("headers", {})}
        async with self.session.request(
            method, URL(self.url(path), encoded=True), headers=headers, **options
        ) as answer:
            is_json = answer.headers.get("content-type", "").startswith("application/json")
            body = await answer.json() if is_json else await answer.text()
            return answer.status, body, {k.lower(): v for k, v in answer.headers.items()}

    async def submit(self, sub_path: str = "", body: Any = None, **options: Any) -> str:
        status, answer, _ = await self.call("POST", f"/queue/{APP}{sub_path}", json=body or {}, **options)
        assert status == 200, answer
        return str(answer["request_id"])

    async def status(self, request_id: str) -> dict[str, Any]:
        _, body, _ = await self.call("GET", f"/queue/{APP}/requests/{request_id}/status")
        return dict(body)

    async def completed(self, request_id: str, within: float = PATIENCE) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        while (body := await self.status(request_id))["status"] != "COMPLETED":
            assert loop.time() < deadline, f"not completed in time: {body}"
            await asyncio.sleep(0.01)
        return body

    async def result(self, request_id: str) -> tuple[int, Any, dict[str, str]]:
        return await self.call("GET", f"/queue/{APP}/requests/{request_id}")

    def serve(self, *runners: Runner, **values: Any) -> None:
        self.dispatcher.set_targets(APP, [replace(r.target, **values) for r in runners])


@asynccontextmanager
async def a_plane(
    folder: Path,
    *,
    apps: Sequence[LiveApp] = (LiveApp(APP),),
    config: GatewayConfig | None = None,
    timing: Timing | None = None,
    admin: AdminHandler | None = None,
) -> AsyncIterator[Plane]:
    """A gateway over a database in `folder`. It is stopped, and the database closed, at the end."""
    database = Database.open(folder / "control.db")
    keys, echo = SqliteKeyStore(database), EchoAdmin()
    demands: list[str] = []
    suspects: list[tuple[str, str]] = []
    logs: list[LogEntry] = []

    async def told(runner_id: str, request_id: str, since: float) -> list[LogEntry]:
        return list(logs)

    dispatcher = Dispatcher(
        SqliteRequestStore(database),
        on_demand=demands.append,
        on_suspect=lambda runner_id, reason: suspects.append((runner_id, reason)),
        timing=timing,
    )
    await dispatcher.recover()
    for app in apps:
        dispatcher.configure(app)
    gateway = await start_gateway(
        config or GatewayConfig(),
        dispatcher,
        keys=keys,
        admin=admin or echo,
        logs_of=told,
    )
    _, key = await keys.create(KeyScope.API, "test")
    _, admin_key = await keys.create(KeyScope.ADMIN, "test")
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            yield Plane(
                gateway, dispatcher, database, keys, echo, folder, session, key, admin_key, demands, suspects, logs
            )
    finally:
        await gateway.stop(0.5)
        database.close()


@dataclass(slots=True)
class Runner:
    """A runner's process and where it listens."""

    target: RunnerTarget
    process: asyncio.subprocess.Process

    async def ask(self, path: str, method: str = "POST") -> Any:
        """Talk to it behind the gateway's back."""
        connector = aiohttp.UnixConnector(self.target.address.removeprefix("unix:"))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, f"http://runner{path}") as answer,
        ):
            return await answer.json()

    async def seen(self) -> dict[str, Any]:
        return dict(await self.ask("/seen", "GET"))


@asynccontextmanager
async def a_runner(folder: Path, runner_id: str = "runner-1", *, slots: int = 1) -> AsyncIterator[Runner]:
    """A runner that listens on a socket in `folder`. Its process is gone at the end."""
    socket = folder / f"{runner_id}.sock"
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(STUB), str(socket), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    try:
        yield Runner(RunnerTarget(runner_id, APP, "v1", f"unix:{socket}", slots), process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # asyncio leaves the pipes to the collector
