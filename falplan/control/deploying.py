"""Deploys: an app's new revision or settings, and the rollout that every change of its revision goes through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

from falplan import clock
from falplan.control.controller import Controller
from falplan.control.silence import held_up
from falplan.control.world import live_app
from falplan.core.bodies import DeployBody
from falplan.core.definition import Definition, definition_to_json, make_definition, split_settings
from falplan.core.errors import ExitCode, FalplanError
from falplan.core.operations import Operation
from falplan.core.rollout import Event as RolloutEvent
from falplan.core.rollout import Phase, Rollout, Strategy
from falplan.core.values import JsonObject
from falplan.sdk.failpoints import fp
from falplan.stores.runtime.control import AppRow, RevisionRow, RolloutRow
from falplan.stores.runtime.secrets import SecretStore

Say = Callable[[str], None]
"""Takes a line of progress, from any thread."""

REPAIR = "Repair the app and run `falplan apply` again."


@dataclass(frozen=True, slots=True)
class Deploying:
    """Carries out deploys. Every step may be repeated after a restart."""

    controller: Controller
    secrets: SecretStore

    async def deploy(self, operation: Operation, body: DeployBody, say: Say) -> JsonObject:
        world = self.controller.world
        definition = make_definition(
            body.inputs,
            lock=body.lock,
            bundle=body.bundle,
            machine_types=body.machine_types,
            secrets=body.secrets,
        )
        endpoint = str(body.inputs["endpoint"])
        await self._until_removed(operation, endpoint, say)
        self._refuse_missing(body)
        rollout = world.rollouts.get(endpoint)
        if rollout is None or rollout.rollout.operation != operation.operation:
            app = world.apps.get(endpoint)
            if app and app.revision == definition.revision and not app.deleting:
                return await self._change_settings(app, body, definition)
            rollout = await self._begin(operation, body, definition, endpoint)
        return await self.follow(rollout, definition, say)

    async def _until_removed(self, operation: Operation, endpoint: str, say: Say) -> None:
        """An app that was taken out of the spec and put back: what is left of it finishes first.

        A deploy from before the removal, resumed after a restart, must not undo it.
        """
        world = self.controller.world
        app = world.apps.get(endpoint)
        if app is None or not app.deleting:
            return
        removal = world.store.operation(app.deleting)
        if removal and removal.created_at > operation.created_at:
            raise FalplanError("The deploy was superseded", f"{endpoint} was removed meanwhile.")
        say(f"waiting for the removal of {endpoint} to end")
        await world.until_held_up(lambda: endpoint not in world.apps, lambda: bool(world.out_of_reach(endpoint)))
        if endpoint in world.apps:
            summary = f"What {app.address} was before can't be removed yet"
            raise held_up(summary, world.out_of_reach(endpoint), self.controller.host.away())

    def _refuse_missing(self, body: DeployBody) -> None:
        missing = self.secrets.missing(body.secrets)
        if missing:
            detail = f"{body.address} needs {', '.join(missing)}, of which a newer version came or none is kept. Run `falplan apply` again."
            raise FalplanError("A secret is not there", detail)

    async def _change_settings(self, app: AppRow, body: DeployBody, definition: Definition) -> JsonObject:
        world = self.controller.world
        # Back to what serves: a rollout that is under way is given up.
        await self.supersede(app.endpoint, "the spec went back to the revision that serves")
        settings = split_settings(cast("JsonObject", body.inputs["settings"]))[1]
        fp("app.settings.before_commit")
        async with world.rolling:
            changed = replace(
                world.apps[app.endpoint], inputs=body.inputs, settings=settings, address=body.address, overrides={}
            )
            await world.save(changed, self._revision_row(app.endpoint, definition, body))
        self.configure(changed)
        return outputs_of(app.endpoint, definition.revision)

    def _revision_row(self, endpoint: str, definition: Definition, body: DeployBody) -> RevisionRow:
        known = self.controller.world.store.revision(endpoint, definition.revision)
        if known:
            return replace(known, inputs=body.inputs)
        return RevisionRow(endpoint, definition.revision, definition_to_json(definition), clock.now(), body.inputs)

    def configure(self, app: AppRow) -> None:
        """Let an app's settings count for callers and runners."""
        self.controller.traffic.configure(live_app(app))
        self.controller.parts.publish(app.endpoint)
        self.controller.wake()

    async def _begin(self, operation: Operation, body: DeployBody, definition: Definition, endpoint: str) -> RolloutRow:
        world = self.controller.world
        self.refuse_older(operation, endpoint)
        await self.supersede(endpoint, "a newer deploy took over")
        app = world.apps.get(endpoint)
        settings = split_settings(cast("JsonObject", body.inputs["settings"]))[1]
        before = app.revision if app else None
        rollout = RolloutRow(
            Rollout(
                endpoint,
                definition.revision,
                before,
                Strategy(str(settings["strategy"])),
                Phase.PREPARING,
                operation.operation,
            ),
            body.inputs,
            settings,
        )
        rows: list[AppRow | RevisionRow] = [self._revision_row(endpoint, definition, body)]
        if app is None:
            rows.append(AppRow(endpoint, body.address, None, body.inputs, settings))
        elif app.deleting:
            raise FalplanError("The app is being removed", f"{endpoint} still has runners that finish their requests.")
        await self.begin(lambda: rollout, *rows)
        if app is None:
            self.configure(world.apps[endpoint])
        return rollout

    async def begin(self, make: Callable[[], RolloutRow], *rows: AppRow | RevisionRow) -> RolloutRow:
        """Make a rollout durable, with the other rows that begin with it. `make` is called when nothing else can change the app."""
        world = self.controller.world
        fp("rollout.begin.before_commit")
        async with world.rolling:
            rollout = make()
            await world.save(rollout, *rows)
        fp("rollout.begin.after_commit")
        await self.controller.adoption.adopt_of(rollout.rollout.endpoint, rollout.rollout.revision)
        return rollout

    def refuse_older(self, operation: Operation, endpoint: str) -> None:
        """A deploy that is resumed after a restart must not roll back what a newer one has done since."""
        row = self.controller.world.rollouts.get(endpoint)
        newer = self.controller.world.store.operation(row.rollout.operation) if row else None
        if newer and newer.created_at > operation.created_at:
            raise FalplanError("The deploy was superseded", f"A newer deploy of {endpoint} took over.")

    async def supersede(self, endpoint: str, because: str) -> None:
        """End the rollout that is under way, if there is one."""
        row = self.controller.world.open_rollout(endpoint)
        if row:
            await self.controller.parts.rollouts.end(row.rollout.operation, endpoint, because, RolloutEvent.SUPERSEDED)

    async def follow(self, row: RolloutRow, definition: Definition, say: Say, *, advice: str = REPAIR) -> JsonObject:
        """Go with a rollout to its end. Returns the outputs of an app; `advice` is what its failure says to do.

        Raises:
            FalplanError: it failed, or something newer took over.
        """
        if row.rollout.phase is Phase.PREPARING:
            await self._prepare(row, definition, say)
        return await self._until_ended(row.rollout.operation, row.rollout.endpoint, say, advice)

    async def _prepare(self, row: RolloutRow, definition: Definition, say: Say) -> None:
        rollout = row.rollout
        try:
            if await self.controller.room.may_run_here(definition, row.settings):
                await self.controller.host.prepare(definition, say)
        except (FalplanError, OSError) as exc:
            await self.controller.parts.rollouts.end(rollout.operation, rollout.endpoint, str(exc))
            return
        fp("rollout.prepare.after")
        await self.controller.parts.rollouts.prepared(rollout.operation, rollout.endpoint)

    async def _until_ended(self, operation: str, endpoint: str, say: Say, advice: str) -> JsonObject:
        rollouts = self.controller.world.rollouts
        told: RolloutRow | None = None
        while True:
            await self.controller.world.until(lambda before=told: rollouts.get(endpoint) is not before)  # type: ignore[misc]
            told = row = rollouts.get(endpoint)
            if row is None or row.rollout.operation != operation:
                raise FalplanError("The deploy was superseded", f"A newer deploy of {endpoint} took over.")
            rollout = row.rollout
            if rollout.phase is Phase.DONE:
                return outputs_of(endpoint, rollout.revision)
            if rollout.phase is Phase.FAILED:
                raise await self._failure(rollout, advice)
            say(_progress_line(rollout))
            if rollout.runner_id:
                self.controller.parts.progress.listen(rollout.runner_id, say)

    async def _failure(self, rollout: Rollout, advice: str) -> FalplanError:
        log = await self.controller.host.tail(rollout.runner_id, 20) if rollout.runner_id else []
        lines = "".join(f"\n  | {_shortened(line)}" for line in log)
        serves = f"{rollout.before} keeps serving." if rollout.before else "No revision serves it."
        detail = f"{rollout.endpoint}: {rollout.because}. {serves}"
        if lines:
            detail += f"\nThe runner's last lines:{lines}"
        detail += f"\n{advice}"
        if rollout.runner_id:
            detail += f" All its lines: falplan runners logs {rollout.runner_id}"
        error = FalplanError(f"Revision {rollout.revision} never got healthy", detail)
        error.exit_code = ExitCode.ROLLOUT_FAILED if rollout.before else ExitCode.FAILED
        return error


def outputs_of(endpoint: str, revision: str) -> JsonObject:
    """What a deploy ends with."""
    return {"endpoint": endpoint, "revision": revision}


def _shortened(line: str, most: int = 300) -> str:
    return line if len(line) <= most else f"{line[:most]}…"


def _progress_line(rollout: Rollout) -> str:
    if rollout.phase is Phase.PREPARING:
        return f"preparing {rollout.revision}"
    where = f" on {rollout.runner_id}" if rollout.runner_id else ""
    return f"verifying {rollout.revision}{where}" + (f": {rollout.because}" if rollout.because else "")
