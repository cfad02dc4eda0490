"""Falplan's own scripts on a machine: put there once for each version, and called with JSON. Knows nothing of what they do."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast, runtime_checkable

from falplan.core.errors import FalplanError
from falplan.core.values import Json, JsonObject
from falplan.sdk.scripts import put, tool
from falplan.sdk.shell import Shell
from falplan.sdk.values import Command, Output

LOOKING = frozenset({"observe", "strays", "ledger", "edited", "unused_images"})
"""Verbs of the agent that change nothing."""

SHORT = LOOKING - {"unused_images"} | {"claim", "confirm", "release"}
"""Verbs that start nothing and signal nobody, and may be asked again wherever they were cut off."""


@runtime_checkable
class Asking(Protocol):
    """A shell that has the agent of this version with it: nothing has to lie on the machine, and no Python starts there."""

    def ask_agent(self, request: Mapping[str, Json]) -> Mapping[str, Any]:
        """What it answers to a request that may be repeated."""
        ...


class Declined(FalplanError):
    """The agent did nothing, and says why. `kind` is the sort of reason, `owner` the claim on the machine that is in the way."""

    def __init__(self, detail: str, kind: str, owner: Mapping[str, Json]) -> None:
        super().__init__("The machine's agent declined", detail)
        self.kind, self.owner = kind, owner


def call(
    shell: Shell,
    root: str,
    script: str,
    request: Mapping[str, Json],
    *,
    timeout: float = 60.0,
    on_line: Callable[[str], None] | None = None,
    env: Mapping[str, str] | None = None,
) -> Output:
    """Run a script with a request on its standard input. Puts the scripts there first if they are missing.

    Raises:
        FalplanError: the script failed in a way that it has no words for.
    """
    argv = (shell.python, "-I", "-S", tool(root, script))
    looks = request.get("verb") in LOOKING
    command = Command(argv, stdin=json.dumps(request).encode(), env=env or {}, timeout=timeout, repeatable=looks)
    output = shell.run(command, on_line)
    if output.code == 2 and b"can't open file" in output.stderr:
        put(shell, root)
        output = shell.run(command, on_line)
    if output.code != 0:
        said = output.stderr.decode(errors="replace").strip().splitlines()
        raise FalplanError(
            "A script failed on the machine", f"{script}: {said[-1] if said else f'status {output.code}'}"
        )
    return output


def ask(shell: Shell, root: str, request: Mapping[str, Json], *, timeout: float = 60.0) -> Json:
    """Ask the agent, and return its answer.

    Raises:
        Declined: the machine's ledger says that it must not be done, and why.
        FalplanError: the agent says that it can't be done, and why.
    """
    answer: Mapping[str, Any]
    if request["verb"] in SHORT and isinstance(shell, Asking):
        answer = shell.ask_agent(request)
    else:
        answer = json.loads(call(shell, root, "agent.py", request, timeout=timeout).stdout)
    if "kind" in answer:
        raise Declined(str(answer["error"]), str(answer["kind"]), cast("JsonObject", answer["owner"] or {}))
    if "error" in answer:
        raise FalplanError(f"A runner's {request['verb']} failed", str(answer["error"]))
    return cast("Json", answer["ok"])
