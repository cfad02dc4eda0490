"""Overrides: settings changed in place, and revisions that serve in the applied one's stead, until the next deploy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from falplan import clock
from falplan.control.controller import Controller
from falplan.control.deploying import Deploying, Say, outputs_of
from falplan.core.audit import setting_word
from falplan.core.bodies import OverrideBody
from falplan.core.definition import Definition, inputs_of, split_settings
from falplan.core.errors import Refused
from falplan.core.operations import Operation
from falplan.core.overrides import (
    REVISION,
    Live,
    Mark,
    NotOverridable,
    applied_revision,
    check_together,
    read_settings,
    with_applied_settings,
    with_revision,
    with_settings,
)
from falplan.core.rollout import Phase, Rollout, Strategy
from falplan.core.runtime import Event
from falplan.core.spec.words import did_you_mean, quoted
from falplan.core.values import JsonObject
from falplan.sdk.failpoints import fp
from falplan.stores.runtime.control import AppRow, RolloutRow
from falplan.stores.runtime.secrets import SecretStore

ADVICE = "`falplan apps revisions` lists those that can serve."


@dataclass(frozen=True, slots=True)
class Overriding:
    """Carries overrides out. Each may be repeated after a restart, and comes out the same."""

    controller: Controller
    secrets: SecretStore
    deploying: Deploying

    async def settings(self, operation: Operation, body: OverrideBody) -> JsonObject:
        """Change settings in place. A deploy that is under way keeps them: they are newer than it.

        Raises:
            NotOverridable: the spec would refuse them, too.
        """
        app = self._app(body.endpoint)
        wanted = read_settings(app.address, body.settings)
        await self._refuse_unknown_regions(app.address, wanted)
        mark = _mark(operation)

        def change(live: Live) -> Live:
            changed = with_settings(live, wanted, mark)
            check_together(app.address, changed.settings)
            return changed

        return await self._change(body.endpoint, change, _told(wanted), mark)

    async def reset(self, operation: Operation, endpoint: str, say: Say) -> JsonObject:
        """Go back to what was applied: settings at once, the revision by a rollout."""
        world = self.controller.world
        rollout = world.rollouts.get(endpoint)
        if rollout is None or rollout.rollout.operation != operation.operation:
            self._app(endpoint)
            await self._change(endpoint, with_applied_settings, "as applied", _mark(operation))
        app = self._app(endpoint)
        applied = applied_revision(app.overrides, app.revision)
        if applied is None or not self._overrides_revision(app):
            return self._outputs(endpoint)
        return await self.revision(operation, endpoint, applied, say)

    async def revision(self, operation: Operation, endpoint: str, revision: str, say: Say) -> JsonObject:
        """Let a kept revision serve, by a rollout like every other: one that is bad never takes traffic.

        Raises:
            Refused: it is not kept, or a secret that it needs is not.
            FalplanError: it never got healthy; what served goes on.
        """
        world = self.controller.world
        app = self._app(endpoint)
        definition = self._definition(app, revision)
        row = world.rollouts.get(endpoint)
        if row is None or row.rollout.operation != operation.operation:
            if app.revision == revision:  # it serves: what was to take its place does not
                await self.deploying.supersede(endpoint, f"{revision} is to go on serving")
                return outputs_of(endpoint, revision)
            self._refuse_missing(app, revision, definition)
            self.deploying.refuse_older(operation, endpoint)
            await self.deploying.supersede(endpoint, f"{revision} is to serve instead")
            row = await self.deploying.begin(lambda: self._rollout(operation, endpoint, revision, definition))
        return await self.deploying.follow(row, definition, say, advice=ADVICE)

    def _rollout(self, operation: Operation, endpoint: str, revision: str, definition: Definition) -> RolloutRow:
        app = self._app(endpoint)
        kept = self.controller.world.store.revision(endpoint, revision)
        inputs = (kept.inputs if kept else None) or inputs_of(definition, app.inputs)
        live = with_revision(_live(app), revision, inputs, serves=app.revision or "", mark=_mark(operation))
        strategy = Strategy(str(live.settings["strategy"]))
        return RolloutRow(
            Rollout(endpoint, revision, app.revision, strategy, Phase.PREPARING, operation.operation),
            live.inputs,
            split_settings(live.settings)[1],
            live.overrides,
        )

    async def _change(self, endpoint: str, change: Callable[[Live], Live], told: str, mark: Mark) -> JsonObject:
        """Change the app as it is live, and as a rollout that is under way will make it."""
        world = self.controller.world
        fp("app.override.before_commit")
        async with world.rolling:
            app, rollout = self._app(endpoint), world.open_rollout(endpoint)
            changed = _changed_app(app, change(_live(app)))
            coming = rollout and _changed_rollout(rollout, change(Live(rollout.inputs, rollout.overrides)))
            rows: list[AppRow | RolloutRow] = [changed, coming] if coming else [changed]
            if (changed, coming) != (app, rollout):
                message = f"{told}, by {mark.by or 'somebody'}"
                await world.save(*rows, Event(clock.now(), "app.overridden", endpoint, message))
        fp("app.override.after_commit")
        self.deploying.configure(changed)
        return self._outputs(endpoint)

    def _outputs(self, endpoint: str) -> JsonObject:
        app = self._app(endpoint)
        return {**outputs_of(endpoint, app.revision or ""), "overrides": app.overrides}

    def _overrides_revision(self, app: AppRow) -> bool:
        """Whether another revision than the applied one serves, or is about to. A deploy that is under way ends that by itself."""
        rollout = self.controller.world.open_rollout(app.endpoint)
        return REVISION in (rollout.overrides if rollout else app.overrides)

    def _app(self, endpoint: str) -> AppRow:
        app = self.controller.world.apps.get(endpoint)
        if app is None:
            hint = did_you_mean(endpoint, self.controller.world.apps)
            raise Refused("No such app", f"The control plane has no app {quoted(endpoint)}; {hint}")
        if app.deleting:
            raise Refused("The app is being removed", f"{endpoint} takes no settings any more.")
        return app

    def _definition(self, app: AppRow, revision: str) -> Definition:
        try:
            return self.controller.world.definition(app.endpoint, revision)
        except LookupError:
            known = [row.revision for row in self.controller.world.store.revisions_of(app.endpoint)]
            detail = f"{app.address} has no revision {quoted(revision)}; {did_you_mean(revision, known)}"
            raise Refused("No such revision", detail) from None

    def _refuse_missing(self, app: AppRow, revision: str, definition: Definition) -> None:
        missing = self.secrets.missing(definition.secrets)
        if missing:
            detail = f"{revision} of {app.address} was deployed with values of {', '.join(missing)} that are not kept any more. "
            raise Refused("The revision can't serve again", f"{detail}Nothing was changed. {ADVICE}")

    async def _refuse_unknown_regions(self, address: str, wanted: JsonObject) -> None:
        named = wanted.get("regions")
        if isinstance(named, list):
            known = {machine.region for machine in await self.controller.host.machines()}
            for name in map(str, named):
                if name not in known:
                    raise NotOverridable(address, f"there is no region {quoted(name)}", did_you_mean(name, known))


def _mark(operation: Operation) -> Mark:
    return Mark(clock.timestamp(operation.created_at), str(operation.asker))


def _live(app: AppRow) -> Live:
    return Live(app.inputs, app.overrides)


def _changed_app(app: AppRow, live: Live) -> AppRow:
    return replace(app, inputs=live.inputs, settings=split_settings(live.settings)[1], overrides=live.overrides)


def _changed_rollout(row: RolloutRow, live: Live) -> RolloutRow:
    return replace(row, inputs=live.inputs, settings=split_settings(live.settings)[1], overrides=live.overrides)


def _told(settings: JsonObject) -> str:
    return ", ".join(f"{name} {setting_word(value)}" for name, value in settings.items())
