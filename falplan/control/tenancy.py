"""Bought machines as hosts that runners are put on: they are taken, emptied, and given up as if apply had told of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from falplan.control.ending import Ending
from falplan.control.host import Host, Told
from falplan.control.world import World
from falplan.core.errors import FalplanError
from falplan.core.notices import Notice
from falplan.core.plural import count
from falplan.core.resources import host_address
from falplan.core.values import JsonObject
from falplan.sdk.launches import Entry
from falplan.stores.runtime.fleet import MachineRow


class NotYet(FalplanError):
    """It is not done, and will be if it is asked for again."""


@dataclass(slots=True)
class HostTenancy:
    """What a fleet does on machines; see `falplan.control.fleet.Tenancy`."""

    host: Host
    world: World
    ending: Ending

    async def join(self, row: MachineRow, entry: Entry) -> None:
        options: JsonObject = {"hosts": {row.machine_id.partition("/")[2]: entry.options}}
        room: Any = row.rooms.get(row.kind) or {}
        told = Told(host_address(row.machine_id), row.region, options, by=entry.provider, sold=room.get("slots") or {})
        await self.host.add_host(told)

    def notice(self, machine_id: str) -> Notice | None:
        return self.host.notice(machine_id)

    async def give_way(self, machine_id: str) -> None:
        if await self.host.close_host(host_address(machine_id)):
            self.world.replacing.update(row.runner_id for row in self.world.on_machine(machine_id))

    async def leave(self, machine_id: str, because: str) -> None:
        """Put nothing new there, and drain what is there: others take its place. What can't be asked any more is taken for gone."""
        address = host_address(machine_id)
        if not await self.host.close_host(address):
            return
        away = machine_id in self.host.away()
        why = f"its machine is given back: {because}"
        for row in self.world.on_machine(machine_id):
            if away:
                await self.ending.ended(row, why)
            else:
                await self.ending.drain(row.runner_id, why)
        left = self.world.on_machine(machine_id)
        if left:
            detail = f"{machine_id}: {count(len(left), 'runner')} there {'has' if len(left) == 1 else 'have'} requests to finish."
            raise NotYet("The machine is not empty yet", detail)
        await self.host.remove_host(address, silent=away)

    async def lost(self, machine_id: str, because: str) -> None:
        """Its runners are gone with it: their requests are tried elsewhere."""
        address = host_address(machine_id)
        known = await self.host.close_host(address)
        for row in self.world.on_machine(machine_id):
            await self.ending.ended(row, f"its machine has ended: {because}")
        if known:
            await self.host.remove_host(address, silent=True)
