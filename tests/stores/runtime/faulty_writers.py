"""Programs that write to a database and are killed or starved: run in a process of their own."""

from __future__ import annotations

import asyncio
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import apsw

from falplan.stores.runtime.database import Database, StoreUnavailable


def inserting(name: str, value: str = "") -> Callable[[apsw.Connection], None]:
    def work(connection: apsw.Connection) -> None:
        connection.execute("insert into identity values (?, ?)", (name, value))

    return work


async def write_until_killed(path: Path) -> None:
    """Print each number once its row is acknowledged."""
    database = Database.open(path)
    numbers = iter(range(10**9))

    async def client() -> None:
        for number in numbers:
            await database.write(inserting(str(number)))
            print(number, flush=True)

    await asyncio.gather(*(client() for _ in range(32)))


async def write_on_a_full_disk(path: Path) -> None:
    """Write until nothing more fits, then make room and write again; print what was acknowledged."""
    database = Database.open(path)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
    refused = 0
    for number in range(200):
        try:
            await database.write(inserting(str(number), "x" * 50_000))
            print(number, flush=True)
        except StoreUnavailable:
            refused += 1
            if refused == 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    print(f"refused {refused}", file=sys.stderr)
    database.close()


if __name__ == "__main__":
    program = {"until_killed": write_until_killed, "full_disk": write_on_a_full_disk}[sys.argv[1]]
    asyncio.run(program(Path(sys.argv[2])))
