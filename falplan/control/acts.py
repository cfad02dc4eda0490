"""What operations do: configure, build, deploy, override, remove, stop. Each act may be carried out again after a restart."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from falplan.control.buying import markets_of
from falplan.control.controller import Controller
from falplan.control.deploying import Deploying, Say
from falplan.control.host import Told, Wanted, needed_by
from falplan.control.machine_acts import MachineActs
from falplan.control.overriding import Overriding
from falplan.control.silence import held_up
from falplan.core.bodies import (
    BODIES,
    AddressBody,
    BuildBody,
    ConfigureBody,
    DeployBody,
    HostBody,
    MachineBody,
    OverrideBody,
    ReapBody,
    RegionBody,
    SetRevisionBody,
    StopRunnerBody,
)
from falplan.core.definition import machine_type_from_json
from falplan.core.errors import FalplanError
from falplan.core.operations import Operation, OperationKind
from falplan.core.placement import Need
from falplan.core.plural import count
from falplan.core.values import JsonObject
from falplan.sdk.failpoints import fp
from falplan.stores.runtime.control import RunnerRow
from falplan.stores.runtime.secrets import SecretStore


@dataclass(frozen=True, slots=True)
class Acts:
    """Carries operations out by the controller. Knows nothing of who asked."""

    controller: Controller
    secrets: SecretStore

    async def carry_out(self, operation: Operation, say: Say) -> JsonObject:
        """Do it, and return its outputs.

        Raises:
            FalplanError, OSError: it failed; the outcome is final.
        """
        body = BODIES[operation.kind].model_validate(operation.body)
        match body:
            case ConfigureBody():
                await self._configure(cast("JsonObject", body.regions))
                await self.controller.room.spend(body.prices, body.budgets.model_dump(exclude_none=True))
                await self.controller.room.keep_free(body.warm)
                return {}
            case HostBody():
                say("connecting")
                outputs = await self.controller.host.add_host(Told(body.address, body.region, body.options))
                self.controller.wake()
                return outputs
            case BuildBody() if body.image:
                await self.controller.host.fetch(_wanted(body), say)
                return {"image": body.image}
            case BuildBody():
                built = await self.controller.host.build(_wanted(body), say)
                return {"lock": built.lock, "packages": built.packages}
            case DeployBody():
                return await Deploying(self.controller, self.secrets).deploy(operation, body, say)
            case OverrideBody():
                return await self._overriding.settings(operation, body)
            case SetRevisionBody():
                return await self._overriding.revision(operation, body.endpoint, body.revision, say)
            case AddressBody() if operation.kind is OperationKind.RESET:
                return await self._overriding.reset(operation, body.endpoint, say)
            case AddressBody() if operation.kind is OperationKind.REMOVE_HOST:
                return await self._remove_host(body.address, say)
            case AddressBody() if operation.kind is OperationKind.FORGET_HOST:
                return await self._forget_host(body.address, say)
            case RegionBody():
                return await self._close_region(body.region, say)
            case AddressBody() if operation.kind is OperationKind.DELETE_APP:
                return await self._delete_app(operation, body, say)
            case AddressBody() if operation.kind is OperationKind.DELETE_SECRET:
                _, environment, name = body.address.split(".")
                await self.secrets.remove(environment, name)
                return {}
            case AddressBody():
                await self._forget_unused()
                return {}
            case StopRunnerBody():
                return await self._stop_runner(body)
            case MachineBody():
                return await self._machines.end(body.machine, say)
            case ReapBody():
                return await self._machines.reap(body.control_plane, say)
        raise AssertionError(operation.kind)

    @property
    def _machines(self) -> MachineActs:
        return MachineActs(self.controller.fleet, self.controller.world.store)

    @property
    def _overriding(self) -> Overriding:
        return Overriding(self.controller, self.secrets, Deploying(self.controller, self.secrets))

    async def _configure(self, regions: JsonObject) -> None:
        """Regions as the spec has them, and who sells machines there."""
        await self.controller.host.configure(regions)
        if self.controller.fleet is not None:
            self.controller.fleet.configure(markets_of(regions))

    async def _close_region(self, region: str, say: Say) -> JsonObject:
        """Buy nothing in a region any more, empty its machines, and wait until they are gone."""
        host, fleet = self.controller.host, self.controller.fleet
        await self._configure({name: dict(body) for name, body in host.regions.items() if name != region})
        self.controller.wake()
        if fleet is not None:
            left = fleet.alive(region)
            if left:
                say(f"giving back {count(len(left), 'machine')}")
            await fleet.until_closed(region)
        return {}

    async def _remove_host(self, address: str, say: Say) -> JsonObject:
        """Put nothing new on a host, drain its runners while others take their place, and give it up."""
        host = self.controller.host
        machine_id = await host.close_host(address)
        if not machine_id:
            return {}
        fp("host.remove.after_close")
        left = await self._drained(machine_id, "its host is removed", say)
        if left:
            raise held_up("The host can't be drained", left, host.away())
        await host.remove_host(address)
        return {}

    async def _forget_host(self, address: str, say: Say) -> JsonObject:
        """Give a host up that nobody is to be asked about any more. Runners that can't be drained there are taken for gone."""
        host = self.controller.host
        machine_id = await host.close_host(address)
        if not machine_id:
            return {}
        fp("host.forget.after_close")
        because = "its host was forgotten"
        for row in await self._drained(machine_id, because, say):
            await self.controller.ending.ended(row, because)
        await host.remove_host(address, silent=machine_id in host.away())
        return {}

    async def _drained(self, machine_id: str, because: str, say: Say) -> list[RunnerRow]:
        """Drain the runners of a host that takes no new ones. Those that may live on, as it is away or went away meanwhile."""
        host, world = self.controller.host, self.controller.world
        if world.on_machine(machine_id) and machine_id in host.away():
            say("waiting for it to answer")
            await world.until_held_up(lambda: machine_id not in world.away, lambda: True)
            if machine_id in world.away:
                return world.on_machine(machine_id)
        there = world.on_machine(machine_id)
        if there:
            say(f"draining {count(len(there), 'runner')}")
        for row in there:
            await self.controller.ending.drain(row.runner_id, because)
        self.controller.wake()
        await world.until_held_up(lambda: not world.on_machine(machine_id), lambda: machine_id in world.away)
        return world.on_machine(machine_id)

    # -- the rest -----------------------------------------------------------------------------------------------------

    async def _delete_app(self, operation: Operation, body: AddressBody, say: Say) -> JsonObject:
        world = self.controller.world
        if body.endpoint not in world.apps:
            return {}
        await Deploying(self.controller, self.secrets).supersede(body.endpoint, "the app is removed")
        fp("app.delete.before_commit")
        async with world.rolling:
            app = world.apps.get(body.endpoint)
            if app and not app.deleting:
                await world.save(replace(app, deleting=operation.operation, overrides={}))
        self.controller.parts.publish(body.endpoint)
        self.controller.traffic.forget(body.endpoint)
        self.controller.wake()
        runners = len(world.runners_of(body.endpoint))
        if runners:
            say(f"draining {count(runners, 'runner')}")
        await world.until_held_up(
            lambda: body.endpoint not in world.apps, lambda: bool(world.out_of_reach(body.endpoint))
        )
        if body.endpoint in world.apps:
            left = world.out_of_reach(body.endpoint)
            raise held_up(f"{body.address} can't be removed yet", left, self.controller.host.away())
        await self.forget_versions()
        return {}

    async def _forget_unused(self) -> None:
        revisions = self.controller.world.store.revisions()
        await self.controller.host.forget_unused(needed_by(row.definition for row in revisions))
        await self.forget_versions()

    async def forget_versions(self) -> None:
        """Forget values of secrets that no kept revision needs."""
        revisions = self.controller.world.store.revisions()
        versions = [cast("dict[str, str]", row.definition.get("secrets", {})) for row in revisions]
        await self.secrets.keep_only(v for names in versions for v in names.values())

    async def _stop_runner(self, body: StopRunnerBody) -> JsonObject:
        world = self.controller.world
        row = world.runners.get(body.runner_id)
        if row is None:
            ended = world.store.runner(body.runner_id)
            raise FalplanError(
                "No such runner" if ended is None else "The runner has ended",
                f"{body.runner_id}: `falplan runners list` shows those that run.",
            )
        if body.replace:
            world.replacing.add(body.runner_id)
            self.controller.wake()
        else:
            await self.controller.ending.drain(body.runner_id, "stopped by hand")
        await world.until_held_up(lambda: body.runner_id not in world.runners, lambda: row.machine_id in world.away)
        if body.runner_id in world.runners:
            raise held_up(f"{body.runner_id} can't be stopped yet", [row], self.controller.host.away())
        return {}


def _wanted(body: BuildBody) -> Wanted:
    asked = Wanted(body.kind, body.requirements, body.python_version, body.anew, image=body.image)
    if body.need is None:
        return asked
    sizes = body.need.machine_types
    regions = None if body.need.regions is None else tuple(body.need.regions)
    need = Need(tuple(sizes), body.need.num_gpus, regions, engine=bool(body.image))
    return replace(asked, need=need, types={name: machine_type_from_json(name, size) for name, size in sizes.items()})
