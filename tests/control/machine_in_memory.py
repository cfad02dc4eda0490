"""A control plane whose machine is a dictionary: the real controller, operations, gateway and database, and runners that are rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from falplan import clock
from falplan.control.account import Account
from falplan.control.acts import Acts
from falplan.control.controller import Controller
from falplan.control.host import HERE, BuiltLock, Needed, Observation, Sight, Told, Unused, Wanted
from falplan.control.operations import Operations
from falplan.control.parts import Timing
from falplan.control.world import World
from falplan.core.definition import Definition
from falplan.core.notices import Notice
from falplan.core.operations import Asker, Operation, OperationStatus
from falplan.core.placement import GIB, Reserved, Slots
from falplan.core.runtime import LogEntry, RunnerAccess
from falplan.core.values import Json, JsonObject
from falplan.gateway.dispatch import Dispatcher
from falplan.stores.runtime.control import ControlStore, RunnerRow
from falplan.stores.runtime.database import Database
from falplan.stores.runtime.requests import SqliteRequestStore
from falplan.stores.runtime.secrets import SecretStore
from falplan.stores.sealing import Seal
from tests.core.builders import settings

ENDPOINT, ADDRESS = "acme/hello", "app.main.hello"
KIM = Asker("key-00000000000a", "for Kim")
BAD = "bad"
"""A bundle whose runners end at once."""


@dataclass
class InMemory:
    """One machine without limits. Runners of the bundle `BAD` end before they are ready; those of `slow` start when told."""

    runners: dict[str, Observation] = field(default_factory=dict)
    slow: set[str] = field(default_factory=set)
    regions: dict[str, dict[str, Json]] = field(default_factory=dict)
    notices: dict[str, Notice] = field(default_factory=dict)

    async def machines(self) -> list[Slots]:
        return [Slots("laptop", "local", 64, 64 * GIB, 64, 64 * GIB)]

    def away(self) -> dict[str, str]:
        return {}

    @property
    def has_hosts(self) -> bool:
        return False

    def access(self, runner_id: str) -> RunnerAccess:
        raise AssertionError("nothing is reached by TLS here")

    def is_elsewhere(self, machine_id: str) -> bool:
        return False

    async def reserved(self) -> dict[str, list[Reserved]]:
        return {HERE: []}

    async def add_host(self, told: Told) -> JsonObject:
        raise NotImplementedError

    def notice(self, machine_id: str) -> Notice | None:
        return self.notices.get(machine_id)

    async def close_host(self, address: str) -> str:
        raise NotImplementedError

    async def remove_host(self, address: str, *, silent: bool = False) -> None:
        raise NotImplementedError

    async def configure(self, regions: JsonObject) -> None: ...

    async def observe(self) -> Sight:
        return Sight(dict(self.runners), {HERE: clock.monotonic()})

    async def strays(self, known: set[str], machines: frozenset[str] = frozenset()) -> list[str]:
        return sorted(set(self.runners) - known)

    async def start(self, row: RunnerRow, definition: Definition, say: Callable[[str], None]) -> None:
        alive, ready = definition.bundle != BAD, definition.bundle not in self.slow
        self.runners[row.runner_id] = Observation(
            row.runner_id, alive, alive and ready, "tcp:127.0.0.1:1", "" if alive else "it exited with 1", alive
        )

    async def stop(self, runner_id: str) -> None:
        self.runners.pop(runner_id, None)

    async def kill(self, runner_id: str) -> None:
        self.runners.pop(runner_id, None)

    async def tail(self, runner_id: str, lines: int) -> list[str]:
        return ["the last line"]

    async def tail_entries(self, runner_id: str, lines: int) -> list[LogEntry]:
        return []

    async def entries_since(self, runner_id: str, position: int | None, lines: int) -> tuple[list[LogEntry], int]:
        return [], 0

    async def build(self, wanted: Wanted, say: Callable[[str], None]) -> BuiltLock:
        return BuiltLock("", 0)

    async def fetch(self, wanted: Wanted, say: Callable[[str], None]) -> None: ...

    async def prepare(self, definition: Definition, say: Callable[[str], None], machine_id: str = HERE) -> None: ...

    def python_of(self, lock: str) -> str:
        return ""

    def has_lock(self, lock: str) -> bool:
        return True

    def locks(self) -> list[str]:
        return []

    async def forget_unused(self, needed: Needed) -> None: ...

    async def unused(self, needed: Needed, *, older_than: float) -> list[Unused]:
        return []

    async def sizes(self, runner_ids: list[str], unused: list[Unused]) -> dict[str | Unused, int]:
        return {}

    async def remove(self, unused: list[Unused]) -> None: ...
    async def forget_runners(self, runner_ids: list[str]) -> None: ...

    async def backup(self) -> IO[bytes]:
        raise NotImplementedError

    async def logs_of(self, runner_id: str, request_id: str, since: float) -> list[LogEntry]:
        return []


@dataclass
class Running:
    """A control plane at work."""

    controller: Controller
    operations: Operations
    dispatcher: Dispatcher
    account: Account
    secrets: SecretStore
    count: int = 0

    async def ask(self, kind: str, body: JsonObject, *, operation: str = "", asker: Asker = KIM) -> Operation:
        """An operation, to its end."""
        name = await self.begin(kind, body, operation=operation, asker=asker)
        async with asyncio.timeout(20):
            while True:
                found = await self.operations.wait(name, seen=1000, within=5)
                if found and found[0].status is not OperationStatus.RUNNING:
                    return found[0]

    async def begin(self, kind: str, body: JsonObject, *, operation: str = "", asker: Asker = KIM) -> str:
        self.count += 1
        name = operation or f"op-{id(self)}-{self.count:04d}"
        await self.operations.begin(name, kind, body, asker)
        return name

    async def deploy(self, bundle: str = "one", **changed: object) -> Operation:
        return await self.ask("deploy", deploy_body(bundle, **changed))

    async def scale(self, **wanted: object) -> Operation:
        return await self.ask("override", {**about(), "settings": wanted})  # type: ignore[dict-item]

    def row(self) -> JsonObject:
        """The app in GET /world."""
        return self.account._app(ENDPOINT)

    def bundles(self) -> set[str]:
        """Of the runners that may get requests."""
        world = self.controller.world
        ready = [r for r in world.runners.values() if r.state.value == "IDLE"]
        return {world.definition(r.endpoint, r.revision).bundle for r in ready}


def about() -> JsonObject:
    return {"address": ADDRESS, "endpoint": ENDPOINT}


def deploy_body(bundle: str, **changed: object) -> JsonObject:
    values = settings(machine_type=["XS"], min_concurrency=1, **changed)  # type: ignore[arg-type]
    sizes: JsonObject = {"XS": {"vcpu": 0.5, "ram": 512 * 10**6, "gpu": None, "gpus": 0, "vram": 0}}
    inputs: JsonObject = {
        "endpoint": ENDPOINT,
        "kind": "command",
        "command": ["python", "app.py"],
        "files": {"app.py": bundle},
        "settings": values,
        "machine_types": sizes,
    }
    return {"address": ADDRESS, "inputs": inputs, "lock": None, "bundle": bundle, "machine_types": sizes}


@asynccontextmanager
async def a_control_plane(folder: Path, machine: InMemory | None = None) -> AsyncIterator[Running]:
    """One that begins with what the folder holds, and goes on with what an earlier one had begun."""
    database = Database.open(folder / "control.db")
    world = World(ControlStore(database))
    world.load()
    secrets = SecretStore(database, Seal.kept_in(folder / "secrets.key"))
    dispatcher = Dispatcher(SqliteRequestStore(database))
    controller = Controller(world, dispatcher, machine or InMemory(), Timing(quiet=0.05, busy=0.02, backoff=(0.1,)))
    operations = Operations(world, Acts(controller, secrets))
    account = Account(controller, operations, dispatcher.queue_length)
    await controller.adopt()
    operations.resume()
    looking = asyncio.create_task(controller.run())
    try:
        yield Running(controller, operations, dispatcher, account, secrets)
    finally:
        await operations.cancel()
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        await controller.let_go()
        database.close()
