"""What operations do: configure, build, deploy, remove, stop. Each act may be carried out again after a restart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

from falplan import clock
from falplan.control.controller import Controller
from falplan.control.world import live_app
from falplan.core.bodies import BODIES, AddressBody, BuildBody, ConfigureBody, DeployBody, StopRunnerBody
from falplan.core.definition import Definition, definition_to_json, make_definition, split_settings
from falplan.core.errors import ExitCode, FalplanError
from falplan.core.operations import Operation, OperationKind
from falplan.core.rollout import Event as RolloutEvent
from falplan.core.rollout import Phase, Rollout, Strategy
from falplan.core.values import JsonObject
from falplan.sdk.failpoints import fp
from falplan.stores.runtime.control import AppRow, RevisionRow, RolloutRow
from falplan.stores.runtime.secrets import SecretStore

Say = Callable[[str], None]
"""Takes a line of progress, from any thread."""


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
                await self.controller.host.configure(cast("JsonObject", body.regions))
                await self.controller.spend(body.prices, body.budgets.model_dump(exclude_none=True))
                return {}
            case BuildBody():
                built = await self.controller.host.build(body.kind, body.requirements, body.python_version, say)
                return {"lock": built.lock, "packages": built.packages}
            case DeployBody():
                return await self._deploy(operation, body, say)
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
        raise AssertionError(operation.kind)

    # -- deploy -------------------------------------------------------------------------------------------------------

    async def _deploy(self, operation: Operation, body: DeployBody, say: Say) -> JsonObject:
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
            rollout = await self._begin_rollout(operation, body, definition, endpoint)
        if rollout.rollout.phase is Phase.PREPARING:
            await self._prepare(rollout.rollout, definition, say)
        return await self._follow_rollout(operation, endpoint, say)

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
        await world.until(lambda: endpoint not in world.apps)

    def _refuse_missing(self, body: DeployBody) -> None:
        missing = self.secrets.missing(body.secrets)
        if missing:
            detail = f"{body.address} needs {', '.join(missing)}, of which a newer version came or none is kept. Run `falplan apply` again."
            raise FalplanError("A secret is not there", detail)

    async def _change_settings(self, app: AppRow, body: DeployBody, definition: Definition) -> JsonObject:
        world = self.controller.world
        open_rollout = world.open_rollout(app.endpoint)
        if open_rollout:  # back to what serves: the rollout that is under way is given up
            because = "the spec went back to the revision that serves"
            await self.controller.rollouts.end(
                open_rollout.rollout.operation, app.endpoint, because, RolloutEvent.SUPERSEDED
            )
        settings = split_settings(cast("JsonObject", body.inputs["settings"]))[1]
        fp("app.settings.before_commit")
        async with world.rolling:
            changed = replace(world.apps[app.endpoint], inputs=body.inputs, settings=settings, address=body.address)
            await world.save(changed)
        self._configure(changed)
        return self._outputs(app.endpoint, definition.revision)

    def _configure(self, app: AppRow) -> None:
        self.controller.traffic.configure(live_app(app))
        self.controller.publish(app.endpoint)
        self.controller.wake()

    async def _begin_rollout(
        self, operation: Operation, body: DeployBody, definition: Definition, endpoint: str
    ) -> RolloutRow:
        world = self.controller.world
        self._refuse_older(operation, endpoint)
        await self._supersede(endpoint)
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
        revision = RevisionRow(endpoint, definition.revision, definition_to_json(definition), clock.now())
        rows: list[AppRow | RevisionRow | RolloutRow] = [revision, rollout]
        if app is None:
            rows.append(AppRow(endpoint, body.address, None, body.inputs, settings))
        elif app.deleting:
            raise FalplanError("The app is being removed", f"{endpoint} still has runners that finish their requests.")
        fp("rollout.begin.before_commit")
        async with world.rolling:
            await world.save(*rows)
        fp("rollout.begin.after_commit")
        await self.controller.adoption.adopt_of(endpoint, definition.revision)
        if app is None:
            self._configure(world.apps[endpoint])
        return rollout

    def _refuse_older(self, operation: Operation, endpoint: str) -> None:
        """A deploy that is resumed after a restart must not roll back what a newer one has done since."""
        row = self.controller.world.rollouts.get(endpoint)
        newer = self.controller.world.store.operation(row.rollout.operation) if row else None
        if newer and newer.created_at > operation.created_at:
            raise FalplanError("The deploy was superseded", f"A newer deploy of {endpoint} took over.")

    async def _supersede(self, endpoint: str) -> None:
        row = self.controller.world.open_rollout(endpoint)
        if row:
            because = "a newer deploy took over"
            await self.controller.rollouts.end(row.rollout.operation, endpoint, because, RolloutEvent.SUPERSEDED)

    async def _prepare(self, rollout: Rollout, definition: Definition, say: Say) -> None:
        try:
            await self.controller.host.prepare(definition, say)
        except (FalplanError, OSError) as exc:
            await self.controller.rollouts.end(rollout.operation, rollout.endpoint, str(exc))
            return
        fp("rollout.prepare.after")
        await self.controller.rollouts.prepared(rollout.operation, rollout.endpoint)

    async def _follow_rollout(self, operation: Operation, endpoint: str, say: Say) -> JsonObject:
        rollouts = self.controller.world.rollouts
        told: RolloutRow | None = None
        while True:
            await self.controller.world.until(lambda before=told: rollouts.get(endpoint) is not before)  # type: ignore[misc]
            told = row = rollouts.get(endpoint)
            if row is None or row.rollout.operation != operation.operation:
                raise FalplanError("The deploy was superseded", f"A newer deploy of {endpoint} took over.")
            rollout = row.rollout
            if rollout.phase is Phase.DONE:
                return self._outputs(endpoint, rollout.revision)
            if rollout.phase is Phase.FAILED:
                raise await self._rollout_failure(rollout)
            say(_progress_line(rollout))

    async def _rollout_failure(self, rollout: Rollout) -> FalplanError:
        log = await self.controller.host.tail(rollout.runner_id, 20) if rollout.runner_id else []
        lines = "".join(f"\n  | {_shortened(line)}" for line in log)
        serves = f"{rollout.before} keeps serving." if rollout.before else "No revision serves it."
        detail = f"{rollout.endpoint}: {rollout.because}. {serves}"
        if lines:
            detail += f"\nThe runner's last lines:{lines}"
        detail += "\nRepair the app and run `falplan apply` again."
        if rollout.runner_id:
            detail += f" All its lines: falplan runners logs {rollout.runner_id}"
        error = FalplanError(f"Revision {rollout.revision} never got healthy", detail)
        error.exit_code = ExitCode.ROLLOUT_FAILED if rollout.before else ExitCode.FAILED
        return error

    @staticmethod
    def _outputs(endpoint: str, revision: str) -> JsonObject:
        return {"endpoint": endpoint, "revision": revision}

    # -- the rest -----------------------------------------------------------------------------------------------------

    async def _delete_app(self, operation: Operation, body: AddressBody, say: Say) -> JsonObject:
        world = self.controller.world
        if body.endpoint not in world.apps:
            return {}
        await self._supersede(body.endpoint)
        fp("app.delete.before_commit")
        async with world.rolling:
            app = world.apps.get(body.endpoint)
            if app and not app.deleting:
                await world.save(replace(app, deleting=operation.operation))
        self.controller.publish(body.endpoint)
        self.controller.traffic.forget(body.endpoint)
        self.controller.wake()
        runners = len(world.runners_of(body.endpoint))
        if runners:
            say(f"draining {runners} runners")
        await world.until(lambda: body.endpoint not in world.apps)
        await self.forget_versions()
        return {}

    async def _forget_unused(self) -> None:
        revisions = [make for row in self.controller.world.store.revisions() for make in [row.definition]]
        bundles = {str(d["bundle"]) for d in revisions}
        locks = {str(d["lock"]) for d in revisions if d["lock"]}
        await self.controller.host.forget_unused(bundles, locks)
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
            await self.controller.drain(body.runner_id, "stopped by hand")
        await world.until(lambda: body.runner_id not in world.runners)
        return {}


def _shortened(line: str, most: int = 300) -> str:
    return line if len(line) <= most else f"{line[:most]}…"


def _progress_line(rollout: Rollout) -> str:
    if rollout.phase is Phase.PREPARING:
        return f"preparing {rollout.revision}"
    where = f" on {rollout.runner_id}" if rollout.runner_id else ""
    return f"verifying {rollout.revision}{where}" + (f": {rollout.because}" if rollout.because else "")
