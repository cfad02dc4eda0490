"""A whole gateway in a process of its own, to be killed and called from outside: FOLDER PORT [RUNNER=SOCKET=SLOTS ...]."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from falplan import clock
from falplan.core.runtime import KeyScope, LiveApp, LogEntry, RunnerTarget
from falplan.gateway.dispatch import Dispatcher
from falplan.gateway.server import GatewayConfig, start_gateway
from falplan.stores.certificates import ensure_certificates
from falplan.stores.runtime.database import Database
from falplan.stores.runtime.keys import SqliteKeyStore
from falplan.stores.runtime.requests import SqliteRequestStore
from tests.gateway.plane import APP, EchoAdmin


async def logs_of(runner_id: str, request_id: str, since: float) -> list[LogEntry]:
    return [LogEntry(since, "STDOUT", f"{runner_id} works on {request_id}", request_id)]


async def main(folder: Path, port: int, runners: list[str]) -> None:
    certificates = ensure_certificates(folder / "tls", now=clock.now())
    database = Database.open(folder / "control.db")
    keys = SqliteKeyStore(database)
    _, key = await keys.create(KeyScope.API, "test")
    dispatcher = Dispatcher(SqliteRequestStore(database))
    waiting = await dispatcher.recover()
    dispatcher.configure(LiveApp(APP))
    config = GatewayConfig(port=port, ssl=certificates.server_context())
    gateway = await start_gateway(config, dispatcher, keys=keys, admin=EchoAdmin(), logs_of=logs_of)
    targets = [r.split("=") for r in runners]
    dispatcher.set_targets(
        APP, [RunnerTarget(name, APP, "v1", f"unix:{at}", int(slots)) for name, at, slots in targets]
    )
    print(json.dumps({"port": gateway.port, "key": key, "waiting": waiting}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # ends with the test that started it
    await gateway.stop(1)
    database.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
