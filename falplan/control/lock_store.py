"""Locks that were built, in the control plane's folder: a file each, by digest. A lock never changes; platforms are added to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from falplan.control.locks import Lock, also_for, lock_from_bytes, lock_to_bytes
from falplan.core.errors import FalplanError
from falplan.stores.files import write_whole
from falplan.stores.home import ControlHome

_WRITING = threading.Lock()
"""Held from reading a file until it is written anew."""


@dataclass(frozen=True, slots=True)
class LockStore:
    """The locks of one control plane."""

    home: ControlHome

    def digests(self) -> list[str]:
        return sorted(p.stem for p in self.home.locks.glob("*.json"))

    def read(self, digest: str) -> Lock:
        """A lock that was built before.

        Raises:
            FalplanError: it is not there any more.
        """
        try:
            return lock_from_bytes((self.home.locks / f"{digest}.json").read_bytes())
        except FileNotFoundError:
            raise FalplanError("A lock is gone", f"{digest}: `falplan apply` locks the requirements again.") from None

    def keep(self, lock: Lock) -> Lock:
        """Write it, durably, with the platforms that are known of it already; those stay as they are. What is kept then."""
        path = self.home.locks / f"{lock.digest}.json"
        with _WRITING:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                known = lock_from_bytes(path.read_bytes())
            except (FileNotFoundError, ValueError, TypeError):
                known = lock
            others = {
                p: text for p, text in {**lock.texts, **known.texts}.items() if p not in replace(known, others={}).texts
            }
            lines = known.lines if known.lines is not None else lock.lines
            kept = replace(known, lines=lines, others=others)
            write_whole(path, lock_to_bytes(kept), point="lock")
        return kept

    def on(self, digest: str, platform: str, say: Callable[[str], None]) -> Lock:
        """A lock for one platform; it is locked for that now if nobody has asked for it before.

        Raises:
            FalplanError: it is gone, or can't be locked for that.
        """
        lock = self.read(digest)
        if platform not in lock.texts:
            lock = self.keep(also_for(lock, platform, cache=self.home.cache, progress=say))
        return lock.on(platform)
