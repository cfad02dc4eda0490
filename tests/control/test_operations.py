"""Operations end, whatever goes wrong around them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from falplan.control import operations
from falplan.control.operations import Operations
from falplan.control.world import World
from falplan.core.operations import NOBODY, Operation, OperationStatus
from falplan.core.values import JsonObject
from falplan.stores.runtime.control import ControlStore
from falplan.stores.runtime.database import Database


class _Acts:
    def __init__(self) -> None:
        self.times = 0

    async def carry_out(self, operation: Operation, say: object) -> JsonObject:
        self.times += 1
        return {"times": self.times}


async def test_an_operation_whose_end_fails_is_run_again_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red with a task that ends and leaves its operation running: whoever waits for it waited until the next restart."""
    monkeypatch.setattr(operations, "AGAIN", 0.01)
    save, failures = Operations._save_end, [RuntimeError("a bug"), OSError(5, "a disk")]

    async def fails_at_first(self: Operations, ended: Operation) -> None:
        if failures:
            raise failures.pop()
        await save(self, ended)

    monkeypatch.setattr(Operations, "_save_end", fails_at_first)
    database = Database.open(tmp_path / "control.db")
    try:
        acts = _Acts()
        under_test = Operations(World(ControlStore(database)), cast(Any, acts))
        await under_test.begin("op-1", "reset", {"address": "app.main.a", "endpoint": "o/a"}, NOBODY)
        async with asyncio.timeout(20):
            while (found := await under_test.wait("op-1", seen=0, within=1)) is None or not found[0].outcome:
                await asyncio.sleep(0.01)

        assert (found[0].status, found[0].outcome, acts.times) == (OperationStatus.DONE, {"times": 3}, 3)
    finally:
        database.close()
