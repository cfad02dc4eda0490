"""Decides from a history of calls whether the published guarantees held. Reads JSON lines; knows nothing of how they came about.

Each line is `{"t": seconds, "op": …, "id": request id or null, "n": the caller's number, …}`:
`submit` (`ok` true: an id came back; false: refused; null: unknown, the answer was lost), `seen` (a status or result read
by a caller: `status`, and `result` once COMPLETED), `ran` (an app's own log: it executed the request).
An unknown outcome is a "maybe": its request may exist or not, at any later time, and is never a failure by itself.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Line = dict[str, Any]


@dataclass
class Recorder:
    """Appends lines, from any thread."""

    path: Path
    mutex: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, **line: Any) -> None:
        with self.mutex, self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def read(path: Path) -> list[Line]:
    """The lines of a history; a torn last one is left out."""
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def violations(lines: Iterable[Line]) -> list[str]:
    """Every way in which the history breaks a guarantee, in words; empty when all hold.

    Durable: what was accepted reaches COMPLETED. One result: once seen, it never changes, and COMPLETED is final.
    At least once: what completed with success was executed. No ghosts: nothing is executed that nobody may have sent.
    """
    found: list[str] = []
    accepted: dict[str, Any] = {}
    possible: set[Any] = set()
    results: dict[str, Any] = {}
    executed: dict[Any, int] = {}
    for line in lines:
        match line["op"]:
            case "submit":
                if line["ok"]:
                    accepted[line["id"]] = line["n"]
                if line["ok"] is not False:
                    possible.add(line["n"])
            case "seen":
                found += _seen(line, results)
            case "ran":
                executed[line["n"]] = executed.get(line["n"], 0) + 1
            case other:
                found.append(f"unknown operation {other!r}")
    found += [f"accepted, but never completed: request {r} (n={n})" for r, n in accepted.items() if r not in results]
    for request, result in results.items():
        if result.get("ok") and not executed.get(result.get("n")):
            found.append(f"completed with success, but never executed: request {request}")
        if request in accepted and result.get("ok") and result.get("n") != accepted[request]:
            found.append(f"answered with another request's result: {request}")
    found += [f"executed, but nobody sent it: n={n}" for n in executed if n not in possible]
    return found


def _seen(line: Line, results: dict[str, Any]) -> list[str]:
    request = line["id"]
    if line["status"] != "COMPLETED":
        return [f"{request} went back from COMPLETED to {line['status']}"] if request in results else []
    before = results.setdefault(request, line["result"])
    return [] if before == line["result"] else [f"the result of {request} changed from {before} to {line['result']}"]
