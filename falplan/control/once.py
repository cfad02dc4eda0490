"""Calls that change something and end at once: each is acted upon once, whoever asks and however often."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from falplan import clock
from falplan.control.operations import BadOperation
from falplan.core.audit import subject_of_call
from falplan.core.operations import NOBODY, Asker, Operation, OperationKind, OperationStatus
from falplan.core.values import JsonObject, digest
from falplan.stores.runtime.control import ControlStore
from falplan.stores.runtime.database import StoreUnavailable

log = logging.getLogger(__name__)

OPERATION_ID = re.compile(r"[A-Za-z0-9._:-]{8,200}")


@dataclass(frozen=True, slots=True)
class Call:
    """A mutating call: what it asks for, under the id that its caller made for it."""

    operation: str
    kind: OperationKind
    path: str
    body: JsonObject = field(repr=False)
    asker: Asker = NOBODY

    @property
    def digest(self) -> str:
        """Of everything that it asks for."""
        return digest({"path": self.path, "body": self.body})

    def ended(self, outcome: JsonObject) -> Operation:
        """The record that it was done. What its body held is not in it: that may be a key's hash."""
        now = clock.now()
        about: JsonObject = {"path": self.path}
        return Operation(
            self.operation,
            self.kind,
            about,
            self.digest,
            OperationStatus.DONE,
            now,
            outcome,
            now,
            self.asker,
            subject_of_call(self.path.split("/"), outcome),
        )


Act = Callable[[Call], Awaitable[JsonObject]]
"""Does what a call asks for. What is raised means that nothing was changed, or that asking again finishes it."""


@dataclass(slots=True)
class Once:
    """The calls of one control plane. Outcomes are kept as long as those of other operations."""

    store: ControlStore
    _acting: dict[str, tuple[Call, asyncio.Task[JsonObject]]] = field(default_factory=dict)

    async def outcome(self, call: Call, act: Act) -> JsonObject:
        """What came of a call: of the first one with its id.

        It is durable on return, as far as the disk takes anything. A call that was refused changed nothing and leaves
        nothing: asked again, it is looked at again.

        Raises:
            BadOperation: no id, or one that belongs to something else.
        """
        check_id(call.operation)
        first, task = self._acting.get(call.operation, (None, None))
        if first is None or task is None:
            first, task = call, asyncio.get_running_loop().create_task(self._act(call, act))
            self._acting[call.operation] = first, task
            task.add_done_callback(lambda _: self._acting.pop(call.operation, None))
        _refuse_another(call, first.kind, first.digest)
        return await asyncio.shield(task)

    async def record(self, call: Call, outcome: JsonObject) -> None:
        """Make an outcome durable, unless it is. Also for an act after which nothing can be recorded, before that."""
        await self.note(call.ended(outcome))

    async def note(self, ended: Operation) -> None:
        """Record what was done, unless it is."""
        try:
            await self.store.begin(ended)
        except StoreUnavailable as exc:  # a full disk must keep nobody from ending a control plane, or from making room
            log.warning("what came of %s %s can't be recorded: %s", ended.kind, ended.operation, exc)

    async def _act(self, call: Call, act: Act) -> JsonObject:
        known = self.store.operation(call.operation)
        if known is not None:
            _refuse_another(call, known.kind, known.body_digest)
            return known.outcome
        outcome = await act(call)
        await self.record(call, outcome)
        return outcome


def check_id(operation: str) -> None:
    """Refuse a call whose repetition could not be told from another one.

    Raises:
        BadOperation
    """
    if not OPERATION_ID.fullmatch(operation):
        detail = (
            "A call that changes something has ?operation=ID: 8 to 200 letters, digits and ._:- that no other call has. "
            "A falplan that sends none is older than this control plane: upgrade it."
        )
        raise BadOperation("The call carries no operation id", detail)


def _refuse_another(call: Call, kind: OperationKind, known: str) -> None:
    if (call.kind, call.digest) != (kind, known):
        raise BadOperation("The operation id is taken", f"{call.operation} was used for another {kind}.")
