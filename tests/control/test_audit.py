"""What the audit log is read from: operations as the real controller keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from falplan import clock
from falplan.core.audit import audit_entry
from falplan.core.operations import Asker, OperationStatus
from falplan.core.values import JsonObject
from tests.control.machine_in_memory import ADDRESS, KIM, Running, a_control_plane, about


def told(plane: Running, **limits: Any) -> list[tuple[str, str, str]]:
    """(who, what, outcome) of each entry."""
    entries = map(audit_entry, plane.controller.world.store.operations(**limits))
    return [(e.asker.name, e.what.split()[0], e.outcome.value) for e in entries]


async def test_entries_are_found_by_address_time_and_number_and_go_with_the_operations(tmp_path: Path) -> None:
    """Seen red with a limit that took the oldest, and with a log that no pruning reached."""
    async with a_control_plane(tmp_path) as plane:
        await plane.deploy()
        store = plane.controller.world.store
        await plane.ask("configure", {"regions": {}}, asker=Asker("key-00000000000b", "for Lee"))
        since = clock.now()
        await plane.scale(max_concurrency=8)
        await plane.scale(max_concurrency=0)

        assert told(plane) == [
            ("for Kim", "deploy", "done"),
            ("for Lee", "configure", "done"),
            ("for Kim", "set", "done"),
            ("for Kim", "set", "failed"),
        ]
        assert told(plane, subject=ADDRESS, limit=2) == told(plane)[2:]
        assert told(plane, since=since) == told(plane)[2:]
        assert told(plane, subject="gateway") == told(plane)[1:2]
        await store.prune(runner_ids=[], older_than=since)
        assert told(plane) == [("for Kim", "set", "done"), ("for Kim", "set", "failed")]


async def test_a_runner_that_was_stopped_is_put_down_to_its_app_and_to_who_asked(tmp_path: Path) -> None:
    """Seen red with the runner's id as the resource: it was not found by the app's address."""
    async with a_control_plane(tmp_path) as plane:
        await plane.deploy()
        (runner,) = plane.controller.world.runners
        await plane.ask("stop_runner", {"runner_id": runner})
        entry = audit_entry(plane.controller.world.store.operations(subject=ADDRESS)[-1])

        assert (entry.what, entry.asker, entry.outcome) == (f"stop {runner}", KIM, OperationStatus.DONE)


async def test_who_asked_first_is_kept_when_another_repeats_it(tmp_path: Path) -> None:
    async with a_control_plane(tmp_path) as plane:
        await plane.deploy()
        body: JsonObject = {**about(), "settings": {"max_concurrency": 8}}
        for asker in (KIM, Asker("key-00000000000b", "for Lee")):
            await plane.ask("override", body, operation="op-repeated", asker=asker)
        (found,) = [o for o in plane.controller.world.store.operations() if o.operation == "op-repeated"]

        assert found.asker == KIM
