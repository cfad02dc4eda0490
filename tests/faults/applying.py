"""The real `falplan` with a world that is a file: what a control plane would make are lines in it. Cheap enough for thousands of faults.

`python -m tests.faults.applying COMMAND …` takes falplan's own command line. Only two things are in place of the real ones: the handlers of
resources, and what is seen of them. FALPLAN_TEST_WORLD is the file; every operation is told by a line as it begins and one as it ends. An
operation that is repeated gets its first outcome, as from a control plane. FALPLAN_TEST_GATE, a file: operations wait until it is there, but
for the first FALPLAN_TEST_FREE.
FALPLAN_TEST_PACE: seconds that each one takes. FALPLAN_TEST_READY: say `ready` and wait for a line before anything is done.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from falplan.cli import carry_out
from falplan.cli import main as falplan
from falplan.core.plan import Action, Change, Plan, Presence, Seen
from falplan.core.resources import GATEWAY, ResourceType
from falplan.core.state import State
from falplan.core.values import JsonObject
from falplan.engine import planning
from falplan.engine.handlers import Handler, Say
from falplan.engine.observe import Observed

Line = dict[str, Any]


def read_world(path: Path) -> list[Line]:
    """What was done, in order; a line that is being written is none."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def living(lines: list[Line]) -> dict[str, Line]:
    """What exists, by address."""
    found: dict[str, Line] = {}
    for line in lines:
        if line["is"] == "done":
            if line["action"] == Action.DELETE:
                found.pop(line["address"], None)
            else:
                found[line["address"]] = line
    return found


class World:
    """The file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.gate = os.environ.get("FALPLAN_TEST_GATE", "")
        self.free = int(os.environ.get("FALPLAN_TEST_FREE") or 0)
        self.pace = float(os.environ.get("FALPLAN_TEST_PACE") or 0)

    def apply(self, change: Change, state: State, say: Say) -> JsonObject:
        made = next(
            (x for x in read_world(self.path) if x["operation"] == change.operation and x["is"] == "done"), None
        )
        if made is None:
            made = self._do(change)
        return {"operation": made["operation"], **({"url": "https://localhost:1"} if change.address == GATEWAY else {})}

    def delete(self, change: Change, state: State, say: Say) -> None:
        if change.address in living(read_world(self.path)):
            self._do(change)

    def _do(self, change: Change) -> Line:
        line: Line = {"is": "begun", "address": change.address, "operation": change.operation, "pid": os.getpid()}
        line["action"] = change.action.value
        line |= {"inputs": change.after, "at": time.time()}
        self._say(line)
        held = self.gate and sum(x["is"] == "begun" for x in read_world(self.path)) > self.free
        while held and not Path(self.gate).exists():
            time.sleep(0.02)
        time.sleep(self.pace)
        self._say({**line, "is": "done"})
        return line

    def _say(self, line: Line) -> None:
        """One call of the system, which no other process's can come in between of."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, (json.dumps(line) + "\n").encode())
        finally:
            os.close(descriptor)


def main() -> None:
    world = World(Path(os.environ["FALPLAN_TEST_WORLD"]))

    def handlers_for(
        project: object, plan: Plan, state: State, secrets: Mapping[str, object], looked: object
    ) -> dict[ResourceType, Handler]:
        return dict.fromkeys(ResourceType, world)

    def observe(project: object, state: State, imports: Mapping[str, str] = {}) -> Observed:
        there = living(read_world(world.path))
        gone = Seen(Presence.ABSENT, because="the world does not have it")
        return Observed({a: Seen(Presence.PRESENT) if a in there else gone for a in state.resources})

    setattr(carry_out, "handlers_for", handlers_for)  # noqa: B010 - the two names that stand for the world
    setattr(planning, "observe", observe)  # noqa: B010
    if os.environ.get("FALPLAN_TEST_READY"):
        print("ready", flush=True)
        sys.stdin.readline()
    falplan(sys.argv[1:])


if __name__ == "__main__":
    main()
