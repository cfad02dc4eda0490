"""What runners printed, read through a shell as it grows. Knows the log's form, and nothing of who wants it."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from falplan.core.errors import FalplanError
from falplan.core.runtime import LogEntry
from falplan.sdk.shell import Shell

_HEAD = 30  # bytes of a log's first line, which says where in the whole log its own first byte stands
_KEPT = 5000  # newest entries of a runner that are held in memory for questions about requests
_PIECE = 4 << 20  # most bytes read at a time


@dataclass(slots=True)
class _Recent:
    """A runner's newest entries. `position` is where reading goes on; `since` the time before which entries may be missing."""

    position: int = 0
    since: float = 0.0
    entries: deque[LogEntry] = field(default_factory=lambda: deque(maxlen=_KEPT))
    mutex: threading.Lock = field(default_factory=threading.Lock)


class RunnerLogs:
    """The logs of one machine's runners. A position counts bytes from the beginning of a runner's log, rotated parts included."""

    def __init__(self, shell: Shell, root: str) -> None:
        self._shell, self._root = shell, root
        self._recent: dict[str, _Recent] = {}

    def tail(self, runner_id: str, lines: int) -> list[LogEntry]:
        """The last entries, oldest first; none if there is no such runner."""
        return self.last(runner_id, lines)[0]

    def last(self, runner_id: str, lines: int) -> tuple[list[LogEntry], int]:
        """The last entries, oldest first, and the position after them."""
        end = self.end(runner_id)
        size = 64 << 10
        while True:
            start = max(0, end - size)
            found, position = self._everything(runner_id, start)
            if len(found) > lines or start == 0 or size > 32 << 20:
                kept = found if start == 0 else found[1:]  # the first one may be the end of a line
                return _entries(kept)[-lines:] if lines else [], position
            size *= 8

    def end(self, runner_id: str) -> int:
        """The position after the last entry."""
        base = self._base(runner_id, "log.jsonl") or 0
        sizes = {e.name: e.size for e in self._shell.list(self._folder(runner_id))}
        return base + sizes.get("log.jsonl", 0)

    def since(self, runner_id: str, position: int) -> tuple[list[LogEntry], int]:
        """Entries after a position, at most some megabytes of them, and the position to go on from. What was rotated away is skipped."""
        raw, position = self._read(runner_id, position)
        return _entries(raw.splitlines()), position

    def of_request(self, runner_id: str, request_id: str, since_time: float = 0.0) -> list[LogEntry]:
        """What was printed for a request, not before `since_time`. Cheap when asked often: only what is new is read.

        Where the machine does not answer, it is what was read before.
        """
        recent = self._recent.setdefault(runner_id, _Recent())
        with recent.mutex:
            silent = not self._caught_up(runner_id, recent)
            if silent or since_time >= recent.since:
                return [e for e in recent.entries if e.request_id == request_id and e.timestamp >= since_time]
        mark = json.dumps(request_id, ensure_ascii=False).encode()
        found = _entries(line for line in self._everything(runner_id, 0)[0] if mark in line)
        return [e for e in found if e.request_id == request_id and e.timestamp >= since_time]

    def forget(self, runner_id: str) -> None:
        """Hold nothing of a runner that is gone."""
        self._recent.pop(runner_id, None)

    def _caught_up(self, runner_id: str, recent: _Recent) -> bool:
        try:
            self._catch_up(runner_id, recent)
        except (FalplanError, OSError):
            return False  # a request's status is told without its newest lines, rather than not at all
        return True

    def _catch_up(self, runner_id: str, recent: _Recent) -> None:
        while True:
            before = recent.position
            entries, recent.position = self.since(runner_id, before)
            for entry in entries:
                if len(recent.entries) == _KEPT:
                    recent.since = recent.entries[0].timestamp + 1e-6
                recent.entries.append(entry)
            if recent.position == before or not entries:
                return

    def _everything(self, runner_id: str, position: int) -> tuple[list[bytes], int]:
        """(all lines after a position, the position after them)."""
        lines: list[bytes] = []
        while True:
            raw, after = self._read(runner_id, position)
            lines += raw.splitlines()
            if after == position or not raw:
                return lines, after
            position = after

    def _read(self, runner_id: str, position: int) -> tuple[bytes, int]:
        """(whole lines after a position, the position after them). Read again if the log was rotated meanwhile."""
        for _ in range(5):
            base = self._base(runner_id, "log.jsonl")
            if base is None:
                return b"", position
            name, start = (
                ("log.jsonl", base) if position >= base else ("log.1.jsonl", self._base(runner_id, "log.1.jsonl"))
            )
            if start is None:
                position = base
                continue
            raw = self._bytes(runner_id, name, max(0, position - start), _PIECE)
            if raw is None or self._base(runner_id, "log.jsonl") != base:
                continue
            whole = raw[: raw.rfind(b"\n") + 1]
            after = max(position, start) + len(whole)
            if name == "log.1.jsonl" and not whole:
                position = base
                continue
            return whole, after
        return b"", position

    def _base(self, runner_id: str, name: str) -> int | None:
        head = self._bytes(runner_id, name, 0, _HEAD)
        try:
            return int(json.loads(head)["base"]) if head else None
        except (ValueError, KeyError, TypeError):
            return None

    def _bytes(self, runner_id: str, name: str, offset: int, limit: int) -> bytes | None:
        try:
            return self._shell.read_file(f"{self._folder(runner_id)}/{name}", offset, limit)
        except FileNotFoundError:
            return None

    def _folder(self, runner_id: str) -> str:
        return f"{self._root}/runners/{runner_id}"


def _entries(lines: Iterable[bytes]) -> list[LogEntry]:
    found = []
    for line in lines:
        try:
            body: dict[str, Any] = json.loads(line)
            found.append(LogEntry(float(body["t"]), str(body["s"]), str(body["m"]), body.get("r")))
        except (ValueError, KeyError, TypeError):
            continue  # the log's head, or a line that a full disk cut
    return found
