"""What command lines ask for: each operation is recorded before it acts, is carried out once, and survives a restart."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace
from functools import partial

from pydantic import ValidationError

from falplan import clock
from falplan.control.acts import Acts
from falplan.control.deploying import Say
from falplan.control.world import World
from falplan.core.audit import subject_of_body
from falplan.core.bodies import ADVICE, BODIES
from falplan.core.errors import ExitCode, FalplanError
from falplan.core.operations import Asker, Operation, OperationKind, OperationStatus
from falplan.core.values import JsonObject, digest
from falplan.sdk.failpoints import fp
from falplan.stores.runtime.database import StoreUnavailable

log = logging.getLogger(__name__)
AGAIN = 1.0
"""Seconds until an operation whose end was not reached is run again."""


class BadOperation(FalplanError):
    """The request is not one that this control plane understands."""


@dataclass(slots=True)
class Operations:
    """The operations of one control plane: at most one task each, whoever asks and however often."""

    world: World
    acts: Acts
    url: str = ""
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _progress: dict[str, list[str]] = field(default_factory=dict)
    _notes: set[asyncio.Task[None]] = field(default_factory=set)
    _stopped: bool = False
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def begin(self, operation_id: str, kind_name: str, body: JsonObject, asker: Asker) -> Operation:
        """Record an operation, with who asked, and start it; the known one if the id was used before.

        Raises:
            BadOperation: unknown kind, wrong body, or the id belongs to a different request.
        """
        kind = _checked(kind_name, body)
        wanted = Operation(
            operation_id,
            kind,
            body,
            digest({name: value for name, value in body.items() if name not in ADVICE}),
            OperationStatus.RUNNING,
            clock.now(),
            asker=asker,
            subject=self._subject(body),
        )
        fp(f"operation.{kind.value}.before_begin")
        recorded = await self.world.store.begin(wanted)
        if recorded.body_digest != wanted.body_digest or recorded.kind != kind:
            raise BadOperation("The operation id is taken", f"{operation_id} was used for a different {recorded.kind}.")
        if recorded.status is OperationStatus.RUNNING:
            self._run(recorded)  # begins once this waits for something: nothing is done before the point below
        fp(f"operation.{kind.value}.after_begin")
        return recorded

    def _subject(self, body: JsonObject) -> str:
        """Of a runner that is to be stopped, its app's address."""
        runner = self.world.runners.get(str(body.get("runner_id", "")))
        app = self.world.apps.get(runner.endpoint) if runner else None
        return app.address if app else subject_of_body(body)

    def resume(self) -> None:
        """At start: go on with what an earlier process had begun."""
        self._stopped = False
        for operation in self.world.store.open_operations():
            self._run(operation)

    async def cancel(self) -> None:
        """Stop working on them; the next control plane goes on. Whoever waits for one is answered now."""
        self._stopped = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._notify()

    async def wait(self, operation_id: str, *, seen: int, within: float) -> tuple[Operation, list[str]] | None:
        """The operation and its progress lines after `seen`, as soon as either is new, at the latest `within` seconds."""

        def news() -> bool:
            return operation_id not in self._tasks or len(self._progress.get(operation_id, [])) > seen

        async with self._changed:
            try:
                async with asyncio.timeout(within):
                    await self._changed.wait_for(news)
            except TimeoutError:
                pass
        operation = self.world.store.operation(operation_id)
        return (operation, self._progress.get(operation_id, [])[seen:]) if operation else None

    def _run(self, operation: Operation) -> None:
        if operation.operation in self._tasks:
            return
        self._progress.setdefault(operation.operation, [])
        task = asyncio.get_running_loop().create_task(
            self._carry_out(operation), name=f"operation {operation.operation}"
        )
        self._tasks[operation.operation] = task
        task.add_done_callback(partial(self._over, operation))

    def _over(self, operation: Operation, task: asyncio.Task[None]) -> None:
        """The task is done with it; or it failed outside of the operation itself, which is then begun again, as after a restart."""
        self._tasks.pop(operation.operation, None)
        if not task.cancelled() and (failure := task.exception()) is not None:
            log.error("the end of operation %s was not reached; it is run again", operation.operation, exc_info=failure)
            task.get_loop().call_later(AGAIN, self._run_again, operation)

    def _run_again(self, operation: Operation) -> None:
        known = self.world.store.operation(operation.operation)
        if not self._stopped and known is not None and known.status is OperationStatus.RUNNING:
            self._run(operation)

    async def _carry_out(self, operation: Operation) -> None:
        try:
            outcome = await self.acts.carry_out(operation, self._say(operation.operation))
            ended = replace(operation, status=OperationStatus.DONE, outcome=outcome, ended_at=clock.now())
        except FalplanError as exc:
            ended = replace(operation, status=OperationStatus.FAILED, outcome=_failure(exc), ended_at=clock.now())
        except OSError as exc:
            error = FalplanError("The control plane's machine failed", str(exc))
            ended = replace(operation, status=OperationStatus.FAILED, outcome=_failure(error), ended_at=clock.now())
        except Exception as exc:  # a bug must end the operation, or its caller would wait for ever
            log.exception("operation %s failed", operation.operation)
            bug = FalplanError("A bug in the control plane", f"{type(exc).__name__}; its log has the traceback.")
            bug.exit_code = ExitCode.BUG
            ended = replace(operation, status=OperationStatus.FAILED, outcome=_failure(bug), ended_at=clock.now())
        fp(f"operation.{operation.kind.value}.before_end")
        await self._save_end(ended)
        fp(f"operation.{operation.kind.value}.after_end")
        self._tasks.pop(operation.operation, None)
        await self._notify()

    async def _save_end(self, ended: Operation) -> None:
        """As long as the disk is full, the operation runs: its caller waits, and gets the outcome once it is durable."""
        while True:
            try:
                await self.world.save(ended)
                return
            except StoreUnavailable as exc:
                log.warning("the end of operation %s can't be saved yet: %s", ended.operation, exc)
                await asyncio.sleep(1)

    def _say(self, operation_id: str) -> Say:
        loop = asyncio.get_running_loop()

        def say(line: str) -> None:
            loop.call_soon_threadsafe(self._note, operation_id, line)

        return say

    def _note(self, operation_id: str, line: str) -> None:
        lines = self._progress.setdefault(operation_id, [])
        if len(lines) < 1000 and (not lines or lines[-1] != line):
            lines.append(line)
            self._notes.add(task := asyncio.get_running_loop().create_task(self._notify()))
            task.add_done_callback(self._notes.discard)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def _checked(kind_name: str, body: JsonObject) -> OperationKind:
    try:
        kind = OperationKind(kind_name)
        if kind in BODIES:
            BODIES[kind].model_validate(body)
            return kind
        raise ValueError(kind_name)
    except ValidationError as exc:
        where = ", ".join(".".join(map(str, e["loc"])) + f" ({e['type']})" for e in exc.errors(include_input=False))
        raise BadOperation("The operation's body is wrong", f"{kind_name}: {where}") from exc
    except ValueError as exc:
        raise BadOperation("Unknown operation", f"{kind_name} is not one of {', '.join(BODIES)}.") from exc


def _failure(error: FalplanError) -> JsonObject:
    return {"summary": error.summary, "detail": error.detail, "code": int(error.exit_code)}
