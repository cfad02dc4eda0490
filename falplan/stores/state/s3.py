"""State in a bucket of S3, or of a server that speaks it. Whatever is written is written on condition.

Beside the key of the state: `<key>.lock`, which is never removed once it is there (a lock that was given back says so);
`<key>.journal/<lineage>/<serial>/<seq>`, an object for each write; `<key>.backups/`. The server's clock alone tells how old a lock is: its
own Date against the lock's LastModified.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from falplan.core.errors import FalplanError, Refused
from falplan.core.values import JsonObject
from falplan.sdk.failpoints import fp
from falplan.stores.state import holding
from falplan.stores.state.backend import (
    BACKUPS,
    Held,
    Journal,
    Lease,
    Loaded,
    Log,
    Lost,
    NotWritten,
    Snapshot,
    backup_serial,
)
from falplan.stores.state.heartbeat import Heartbeat
from falplan.stores.state.interface import Holder, Kept
from falplan.stores.state.lines import from_lines, to_lines
from falplan.stores.state.s3_client import Bucket, Object, Where

MARK = b"!closed\n"
"""What closes a journal. No entry is as short."""
READS = 10
"""Tries to read snapshot and journal at one instant, while somebody writes."""
NEXT_STEP = "Look at the network and the bucket."


@dataclass(frozen=True, slots=True)
class _Lock:
    """What a lock object says. Without a holder it was given back."""

    found: Object
    holder: Holder | None
    lease: float

    @property
    def expired(self) -> bool:
        return self.found.age > self.lease


class ObjectLease:
    """A lock object that carries our id, rewritten again and again."""

    def __init__(self, bucket: Bucket, key: str, holder: Holder, etag: str, lease: float, *, must_fence: bool) -> None:
        self.must_fence = must_fence
        self._bucket, self._key, self._holder, self._etag, self._seconds = bucket, key, holder, etag, lease
        self._beats = 0
        self._mutex = threading.Lock()
        self._released = False
        self._heartbeat = Heartbeat(self._beat, lease)

    def lost(self) -> Lost | None:
        return self._heartbeat.lost

    def check(self) -> None:
        holder = read_lock(self._bucket, self._key)
        if holder is None or holder.lock_id != self._holder.lock_id:
            raise Lost("its lease ran out", holder)

    def release(self, *, give_back: bool = True) -> None:
        if self._released:
            return
        self._released = True
        self._heartbeat.stop()
        if not give_back:
            return
        try:
            self._put(given_back(self._holder))
        except (Lost, FalplanError):
            pass  # it is not ours any more, or runs out by itself

    def _beat(self) -> None:
        self._beats += 1
        self._put(lock_body(self._holder, self._seconds, self._beats))

    def _put(self, body: bytes) -> None:
        with self._mutex:
            etag = self._bucket.put(self._key, body, expected=self._etag)
            if etag is None:
                raise Lost("its lease ran out", read_lock(self._bucket, self._key))
            self._etag = etag


def lock_body(holder: Holder, lease: float, beats: int) -> bytes:
    """The lock as JSON. Another number of beats makes another version, so that a holder that just spoke is not taken for silent."""
    body: JsonObject = {**holding.to_json(holder), "lease": lease, "beats": beats}
    del body["heartbeat"]
    return (json.dumps(body, indent=1) + "\n").encode()


def given_back(holder: Holder) -> bytes:
    """The lock that nobody holds."""
    return (json.dumps({"given_back_by": holder.lock_id}, indent=1) + "\n").encode()


def read_lock(bucket: Bucket, key: str) -> Holder | None:
    """Who holds the lock now, be it expired; None if nobody does."""
    found = bucket.get(key)
    return _parse_lock(found).holder if found else None


def _parse_lock(found: Object) -> _Lock:
    try:
        body = json.loads(found.content)
        holder = replace(holding.from_json(body), heartbeat=found.written_at)
        return _Lock(found, holder if holder.lock_id else None, float(body.get("lease", holding.LEASE)))
    except (ValueError, TypeError, AttributeError):
        # Something else was put there. It counts as a lock that nobody renews.
        return _Lock(found, Holder("", "", "somebody", "", 0, "", found.written_at), holding.LEASE)


class S3Objects:
    """The backend. `lease` in seconds."""

    poll = 0.5
    needs_lock = True

    def __init__(self, where: Where, lease: float) -> None:
        self._place, self._bucket, self._lease = where, Bucket(where), lease
        self._key, self._lock_key = where.key, f"{where.key}.lock"

    @property
    def where(self) -> str:
        return self._place.text

    @property
    def backups_where(self) -> str:
        return f"s3://{self._place.bucket}/{self._key}.backups/"

    def journal_place(self, log: Log, seq: int) -> str:
        return f"s3://{self._place.bucket}/{self._prefix(log)}, entry {seq}"

    def load(self, log_of: Callable[[bytes], Log]) -> Loaded:
        for _ in range(READS):
            found = self._bucket.get(self._key)
            if found is None:
                return Loaded(None, Journal(), self._remains())
            journal = self.journal(log_of(found.content))
            if self._bucket.etag(self._key) == found.etag:
                return Loaded(Snapshot(found.content, found.etag), journal)
        raise FalplanError("The state changes all the time", f"{self.where}: {READS} tries. Try again in a moment.")

    def _remains(self) -> str:
        for folder in ("journal", "backups"):
            for item in self._bucket.listed(f"{self._key}.{folder}/", limit=1):
                return f"s3://{self._place.bucket}/{item.key}"
        return ""

    def write(self, content: bytes, *, expected: str | None, keep: str) -> str:
        try:
            backup = f"{self._key}.backups/{keep}"
            if expected is not None and keep and self._bucket.etag(backup) is None:
                self._bucket.copy(self._key, backup)
            fp("s3.write.before_put")
            version = self._bucket.put(self._key, content, expected=expected)
            fp("s3.write.after_put")
            if version is None:
                raise Lost("the state was written by somebody else", self._taker(), overtaken=True)
        except FalplanError as exc:
            raise _not_written(exc) from exc
        self._prune()
        return version

    def append(self, log: Log, seq: int, records: Sequence[bytes], before_durable: Callable[[], None]) -> None:
        try:
            before_durable()
            if self._bucket.put(self._entry(log, seq), to_lines(records), expected=None) is None:
                raise Lost("somebody else took the lock and closed the journal", self._taker(), overtaken=True)
        except FalplanError as exc:
            raise _not_written(exc) from exc

    def close_journal(self, log: Log, seq: int) -> bool:
        return self._bucket.put(self._entry(log, seq), MARK, expected=None) is not None

    def journal(self, log: Log) -> Journal:
        records: list[tuple[int, bytes]] = []
        end, closed = 1, False
        items = list(self._bucket.listed(self._prefix(log)))
        entries = [i.key for i in items if i.size != len(MARK)]
        contents = dict(zip(entries, self._bucket.get_all(entries), strict=True))
        for item in items:
            seq = int(item.key.rpartition("/")[2])
            found = contents.get(item.key)
            if found is None:
                # A closing mark; or the journal was dropped meanwhile, which the snapshot's version shows.
                end, closed = seq + 1, True
                continue
            lines = from_lines(found.content, f"s3://{self._place.bucket}/{item.key}")
            records += enumerate(lines, seq)
            end = seq + len(lines)
        return Journal(log, tuple(records), end, closed=closed)

    def drop_journal(self, log: Log) -> None:
        try:
            prefix = f"{self._key}.journal/{log.lineage}/"
            old = [i.key for i in self._bucket.listed(prefix) if i.size != len(MARK)]
            self._bucket.delete([key for key in old if int(key.split("/")[-2]) <= log.serial])
        except FalplanError:
            pass  # they count for nothing, and the next snapshot removes them

    def acquire(self, holder: Holder) -> Lease:
        found = self._bucket.get(self._lock_key)
        lock = _parse_lock(found) if found else None
        if lock and lock.holder and not lock.expired:
            raise Held(lock.holder)
        return self._take(holder, lock)

    def _take(self, holder: Holder, lock: _Lock | None) -> ObjectLease:
        fp("s3.lock.before_put")
        expected = lock.found.etag if lock else None
        etag = self._bucket.put(self._lock_key, lock_body(holder, self._lease, 0), expected=expected)
        if etag is None:
            raise Held(self.holder())
        fp("s3.lock.after_put")
        ignored = self._bucket.ignores_conditions(self._lock_key, etag)
        if ignored:
            self._bucket.delete([self._lock_key])
            raise Refused(
                "The S3 server does not keep writers apart",
                f"{self.where}: it ignores {ignored} in PutObject, so that two applies could write at a time. Nothing was touched. "
                "Use a server that heeds conditional writes (AWS does), or `backend: postgres`.",
            )
        # A lock that is not there although there is a state was removed by hand: its holder may live.
        gone = lock is None and self._bucket.etag(self._key) is not None
        must_fence = gone or bool(lock and lock.holder)
        return ObjectLease(self._bucket, self._lock_key, holder, etag, self._lease, must_fence=must_fence)

    def holder(self) -> Holder | None:
        return read_lock(self._bucket, self._lock_key)

    def take_from(self, lock_id: str, holder: Holder) -> Lease:
        while True:
            found = self._bucket.get(self._lock_key)
            lock = _parse_lock(found) if found else None
            if lock is None or lock.holder is None:
                raise Lost("nobody holds it")
            if lock.holder.lock_id != lock_id:
                raise Held(lock.holder)
            try:
                return self._take(holder, lock)
            except Held:
                continue  # its heartbeat came in between

    def backups(self) -> list[Kept]:
        prefix = f"{self._key}.backups/"
        found = [(i.key.removeprefix(prefix), i) for i in self._bucket.listed(prefix)]
        return [Kept(n, backup_serial(n), i.size, i.written_at) for n, i in sorted(found, reverse=True)]

    def read_backup(self, name: str) -> bytes | None:
        if "/" in name:
            return None
        found = self._bucket.get(f"{self._key}.backups/{name}")
        return found.content if found else None

    def _prune(self) -> None:
        try:
            old = [k.name for k in self.backups() if k.name.startswith("state.")][BACKUPS:]
            self._bucket.delete([f"{self._key}.backups/{name}" for name in old])
        except FalplanError:
            pass  # one too many is kept until the next snapshot

    def _prefix(self, log: Log) -> str:
        return f"{self._key}.journal/{log.lineage}/{log.serial:08d}/"

    def _entry(self, log: Log, seq: int) -> str:
        return f"{self._prefix(log)}{seq:08d}"

    def _taker(self) -> Holder | None:
        try:
            return self.holder()
        except FalplanError:
            return None


def _not_written(error: FalplanError) -> NotWritten:
    return NotWritten(f"{error.summary}: {error.detail}".rstrip(". "), NEXT_STEP)
