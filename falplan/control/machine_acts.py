"""What people ask for of bought machines: to give one back, and to end those of a control plane that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeAlias

from falplan.control.fleet import Fleet
from falplan.core.errors import FalplanError
from falplan.core.fleet import Life
from falplan.core.plural import count
from falplan.core.values import JsonObject
from falplan.sdk.failpoints import fp
from falplan.stores.runtime.control import ControlStore

RETIRED = "retired"
"""Name under which a control plane keeps the ids of those whose place it took, with spaces between: their machines are its own to end."""

SEEN_AGAIN = 1.0
"""Seconds between looks at whether machines are gone."""

Say: TypeAlias = Callable[[str], None]


async def retire(store: ControlStore, control_plane: str) -> str:
    """Remember that a control plane is gone for good; returns all that are, with spaces between. May be called again."""
    known = (await store.identity({})).get(RETIRED, "").split()
    told = " ".join(sorted({*known, control_plane}))
    await store.mark(RETIRED, told)
    return told


@dataclass(frozen=True, slots=True)
class MachineActs:
    """Acts on a fleet; None where no machine was ever bought."""

    fleet: Fleet | None
    store: ControlStore

    async def end(self, machine_id: str, say: Say) -> JsonObject:
        """Empty a machine and give it back, and wait until it is gone. Its runners are started elsewhere first come first served.

        Raises:
            FalplanError: there is no such machine.
        """
        rows = self.fleet.rows if self.fleet is not None else {}
        row = rows.get(machine_id)
        if self.fleet is None or row is None:
            near = get_close_matches(machine_id, [r.machine_id for r in rows.values() if r.life is not Life.GONE], n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise FalplanError(
                "No such machine", f"{machine_id}: `falplan machines list` shows those that were bought.{hint}"
            )
        await self.fleet.give_back(machine_id, "ended by hand")
        fp("fleet.give_back.after_record")
        said = ""
        while self.fleet.rows[machine_id].life is not Life.GONE:
            now = self.fleet.told(machine_id)
            if now != said:
                say(now or "emptying it")
                said = now
            self.fleet.wake()
            await asyncio.sleep(SEEN_AGAIN / 5)
        return {"identity": row.identity}

    async def reap(self, control_plane: str, say: Say) -> JsonObject:
        """End what belongs to a control plane that is gone, now and whenever it shows up later.

        Raises:
            FalplanError: it is this one.
        """
        if self.fleet is None:
            raise FalplanError("No machines were bought", "The control plane buys none.")
        if control_plane == self.fleet.control_plane:
            detail = f"{control_plane} is the one that answers. `falplan destroy` ends it with its machines."
            raise FalplanError("That control plane is not gone", detail)
        found = self.fleet.left_of(control_plane)
        self.fleet.retired = {*self.fleet.retired, *(await retire(self.store, control_plane)).split()}
        if found:
            say(f"ending {count(len(found), 'machine')}")
        self.fleet.look_again()
        while any(self.fleet.left_of(control_plane)):
            self.fleet.wake()
            await asyncio.sleep(SEEN_AGAIN / 5)
        return {"machines": [one.identity for one in found]}
