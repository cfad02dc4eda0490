"""The highest serial of each lineage that this user has seen on this machine: an older state is not taken for the newest one."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from falplan import clock
from falplan.core.errors import Refused
from falplan.core.state import State

_LINEAGE = re.compile(r"[A-Za-z0-9-]{1,64}")


@dataclass(frozen=True, slots=True)
class Seen:
    """A serial, when it was seen first (RFC 3339 in UTC), and where."""

    serial: int
    at: str
    where: str


class StateOlder(Refused):
    """The state is older than one that was seen before. Nothing was touched. `state` is the one that is there."""

    def __init__(self, state: State, where: str, seen: Seen) -> None:
        super().__init__(
            "The state is older than it was",
            f"{where} has serial {state.serial}; this machine saw serial {seen.serial} at {seen.at}, in {seen.where}. "
            "What was done since is not in it. Put the newer state back if it still exists: `falplan state backup list`. "
            "If this one is there on purpose, restored from a backup or copied: `falplan state repair --apply` takes it as it is, with "
            "a serial above all that were seen.",
        )
        self.state = state
        self.seen = seen


@dataclass(frozen=True, slots=True)
class SeenSerials:
    """One small file a lineage in `$XDG_STATE_HOME/falplan-serials/`, readable by its user alone.

    It is a memory and no promise: a home that can't be read or written is as one without memory, and fails nothing. Two processes that
    write at once may leave the lower of two serials; the next one that sees the state writes the higher.
    """

    environ: Mapping[str, str] = field(repr=False)

    def _file(self, lineage: str) -> Path | None:
        """Where a lineage's serial is; None for a user without a home, and for what is no lineage."""
        home, state = self.environ.get("HOME"), self.environ.get("XDG_STATE_HOME")
        if not (home or state) or not _LINEAGE.fullmatch(lineage):
            return None
        return Path(state or Path(str(home), ".local", "state")) / "falplan-serials" / lineage

    def newest(self, lineage: str) -> Seen | None:
        """What was seen last; None if nothing was, or it can't be told."""
        path = self._file(lineage)
        if path is None:
            return None
        try:
            body = json.loads(path.read_bytes())
            return Seen(int(body["serial"]), str(body["at"]), str(body["where"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def note(self, state: State, where: str) -> None:
        """Remember the state's serial if it is the highest so far. Never fails."""
        path, seen = self._file(state.lineage), self.newest(state.lineage)
        if path is None or state.serial <= (seen.serial if seen else 0):
            return
        body = {"serial": state.serial, "at": clock.timestamp(clock.now()), "where": where}
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Not made durable: after a power cut an older serial, or none, is remembered, which costs a warning and no data.
            descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600
            try:
                with os.fdopen(descriptor, "w") as file:
                    json.dump(body, file)
                Path(temporary).replace(path)
            except OSError:
                Path(temporary).unlink(missing_ok=True)
        except OSError:
            return
