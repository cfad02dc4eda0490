"""A fake world in a folder, which processes share: they may be killed at any instant, and what they had done is there.

    things/ADDRESS/IDENTITY.json   one file a thing, written whole or not at all; `_` for those that nobody marked
    addresses/IDENTITY.json        below which address to look for it first; there as long as the thing is
    journal.jsonl                  what was called and what came of it: one line a write, never changed
    faults.json                    rules (falplan.sdk.testing.rules), written by a test
    calls/, processes/             what is under way; a process's file is locked as long as it lives

Nothing is synced: a killed process takes nothing with it that it wrote, only a power cut does.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast
from urllib.parse import quote

from falplan.core.values import Json, JsonObject
from falplan.sdk.testing.rules import Rule, rules_from_json, rules_to_json
from falplan.sdk.testing.things import Call, Lag, Thing, thing_from_json, thing_to_json

_mutexes: dict[str, threading.RLock] = {}
_processes: dict[tuple[str, int], tuple[str, int]] = {}
"""Folder and pid -> the name of this process there, and the descriptor that holds its lock until it ends."""


class DiskWorld:
    """The world in `folder`, which is made when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mutex = _mutexes.setdefault(str(folder), threading.RLock())

    def set_faults(self, rules: Iterable[Rule]) -> None:
        """Rules in place of those that are there; they count anew."""
        with self.locked():
            (self.folder / "counts.json").unlink(missing_ok=True)
            self._write(self.folder / "faults.json", rules_to_json(rules))

    def clear(self) -> None:
        """Forget everything, the history too. No other process may use it meanwhile."""
        shutil.rmtree(self.folder, ignore_errors=True)
        _processes.pop((str(self.folder), os.getpid()), None)

    def process(self) -> str:
        key = (str(self.folder), os.getpid())
        if key not in _processes:
            name = f"{os.getpid()}-{self.number()}"
            path = self.folder / "processes" / name
            path.parent.mkdir(exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            _processes[key] = (name, descriptor)
        return _processes[key][0]

    @contextmanager
    def locked(self) -> Iterator[None]:
        with self._mutex:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)

    def number(self) -> int:
        path = self.folder / "counter"
        number = cast("int", self._read(path) or 0) + 1
        self._write(path, number)
        return number

    def things(self, region: str, address: str | None = None) -> list[Thing]:
        folder = self.folder / "things"
        where = folder.glob("*/*.json") if address is None else (folder / _name(address)).glob("*.json")
        found = [thing_from_json(cast("JsonObject", body)) for p in where if (body := self._read(p)) is not None]
        return sorted((t for t in found if t.region == region), key=lambda t: t.identity)

    def find(self, region: str, identity: str) -> Thing | None:
        index = self._index(identity)
        address = self._read(index)
        if address is None:
            return None
        for there in (str(address), None):  # anywhere, if a process was killed while it was about to move it
            found = next((t for t in self.things(region, there) if t.identity == identity), None)
            if found is not None:
                return found
        return None

    def put(self, thing: Thing, instead: Thing | None = None) -> None:
        if self._read(self._index(thing.identity)) != thing.address:
            self._write(self._index(thing.identity), thing.address)
        if instead is not None and instead.address != thing.address:
            self._place(thing).parent.mkdir(parents=True, exist_ok=True)
            self._place(instead).replace(self._place(thing))  # never two files of one thing
        self._write(self._place(thing), thing_to_json(thing))

    def remove(self, thing: Thing) -> None:
        self._place(thing).unlink(missing_ok=True)
        self._index(thing.identity).unlink(missing_ok=True)

    def _index(self, identity: str) -> Path:
        return self.folder / "addresses" / f"{identity}.json"

    def _place(self, thing: Thing) -> Path:
        return self.folder / "things" / _name(thing.address) / f"{thing.identity}.json"

    def note(self, line: JsonObject) -> None:
        descriptor = os.open(
            self.folder / "journal.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644
        )
        try:
            os.write(descriptor, json.dumps(line).encode() + b"\n")
        finally:
            os.close(descriptor)

    def notes(self) -> list[JsonObject]:
        try:
            return [json.loads(line) for line in (self.folder / "journal.jsonl").read_text().splitlines()]
        except FileNotFoundError:
            return []

    def enter(self, call: Call) -> list[Call]:
        others = [c for path in self._calls().glob("*.json") if (c := self._living(path))]
        self._write(self._calls() / f"{call.number}.json", {n: getattr(call, n) for n in Call.__slots__})
        return others

    def leave(self, call: Call) -> None:
        (self._calls() / f"{call.number}.json").unlink(missing_ok=True)

    def _calls(self) -> Path:
        return self.folder / "calls"

    def _living(self, path: Path) -> Call | None:
        """A call that is under way; one of a process that was killed is forgotten."""
        call = Call(**cast("dict[str, str]", self._read(path)))  # type: ignore[arg-type]  # each value has its field's type
        if call.process == self.process() or self._lives(call.process):
            return call
        path.unlink(missing_ok=True)
        return None

    def _lives(self, process: str) -> bool:
        descriptor = os.open(self.folder / "processes" / process, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def rules(self) -> list[Rule]:
        return rules_from_json(cast("list[JsonObject]", self._read(self.folder / "faults.json") or []))

    def passed(self, rule: int) -> int:
        path = self.folder / "counts.json"
        counts = cast("dict[str, int]", self._read(path) or {})
        counts[str(rule)] = counts.get(str(rule), 0) + 1
        self._write(path, cast("Json", counts))
        return counts[str(rule)]

    def lags(self) -> list[Lag]:
        rows = cast("list[JsonObject]", self._read(self.folder / "lags.json") or [])
        return [_lag(row) for row in rows]

    def keep_lags(self, lags: list[Lag]) -> None:
        rows: list[Json] = [
            {
                "region": g.region,
                "identity": g.identity,
                "looks": g.looks,
                "before": thing_to_json(g.before) if g.before else None,
            }
            for g in lags
        ]
        self._write(self.folder / "lags.json", rows)

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @staticmethod
    def _read(path: Path) -> Json:
        try:
            found: Json = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        return found

    @staticmethod
    def _write(path: Path, body: Json) -> None:
        """Under the world's lock, so that one temporary name for all is enough."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(body))
        temporary.replace(path)


def _name(address: str) -> str:
    return quote(address, safe="") or "_"


def _lag(row: JsonObject) -> Lag:
    before = cast("JsonObject | None", row["before"])
    return Lag(
        str(row["region"]),
        str(row["identity"]),
        thing_from_json(before) if before else None,
        int(cast("int", row["looks"])),
    )
