"""Named places where a test may kill, fail or delay the program. Does nothing unless the test variable is set.

`FALPLAN_FAILPOINTS="state.save.after_rename=kill;build.lock=raise@2"` fires at the named points: `kill` sends SIGKILL to
this process, `raise` raises OSError(EIO), `hang` sleeps for an hour, `sleep:SECONDS` sleeps. `@N` waits for the N-th pass.
`FALPLAN_FAILPOINTS_LOG=FILE` appends the name of each point passed, so that a test can list those that a run reaches.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time

_SPEC = os.environ.get("FALPLAN_FAILPOINTS", "")
_LOG = os.environ.get("FALPLAN_FAILPOINTS_LOG", "")
_counts: dict[str, int] = {}
_mutex = threading.Lock()


def _parse(spec: str) -> dict[str, tuple[str, int]]:
    actions: dict[str, tuple[str, int]] = {}
    for part in filter(None, spec.split(";")):
        name, _, action = part.partition("=")
        verb, _, nth = action.partition("@")
        actions[name] = (verb, int(nth or 1))
    return actions


_ACTIONS = _parse(_SPEC)


def fp(name: str) -> None:
    """Mark a point between two effects. `name` is `part.verb.moment`, unique in the code base.

    Raises:
        OSError: when the test asked for `raise` here.
    """
    if not _SPEC and not _LOG:
        return
    _fire(name)


def _fire(name: str) -> None:
    with _mutex:
        _counts[name] = count = _counts.get(name, 0) + 1
    if _LOG:
        with open(_LOG, "a", encoding="utf-8") as log:  # noqa: PTH123 - append-only, one short line: atomic
            log.write(name + "\n")
    verb, nth = _ACTIONS.get(name, ("", 0))
    if not verb or count != nth:
        return
    if verb == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif verb == "raise":
        raise OSError(errno.EIO, f"failpoint {name}")
    elif verb == "hang":
        time.sleep(3600)
    elif verb.startswith("sleep:"):
        time.sleep(float(verb[6:]))
    else:
        raise ValueError(f"failpoint {name}: unknown action {verb!r}")
