"""State in S3 whose writes fail where a test says. An object is never torn: it is there, or it is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from falplan.stores.state.backend import Log, NotWritten
from falplan.stores.state.holding import new_holder
from falplan.stores.state.s3 import S3Objects
from falplan.stores.state.store import Store
from tests.engine.faulty_files import Faults, Mishap, Trouble


class FaultyObjects(S3Objects):
    """Objects at the same keys as those of `real`, over its connections, with faults."""

    def __init__(self, real: S3Objects, faults: Faults) -> None:
        super().__init__(real._place, real._lease)
        self._bucket = real._bucket  # a client costs more than all that a history asks of it
        self.real, self.faults = real, faults

    def write(self, content: bytes, *, expected: str | None, keep: str) -> str:
        trouble = self.faults.next()
        self._before(trouble)
        version = super().write(content, expected=expected, keep=keep)
        self._after(trouble)
        return version

    def append(self, log: Log, seq: int, records: Sequence[bytes], before_durable: Callable[[], None]) -> None:
        trouble = self.faults.next()
        self._before(trouble)
        super().append(log, seq, records, before_durable)
        self._after(trouble)

    def _before(self, trouble: Trouble | None) -> None:
        if trouble is None or trouble.mishap is Mishap.DIE_AFTER:
            return
        if trouble.mishap is Mishap.FULL:
            raise NotWritten("no answer", "Try again.")
        if trouble.mishap is not Mishap.TAKEN:
            self.faults.world.die()
        self._taken()

    def _after(self, trouble: Trouble | None) -> None:
        if trouble is not None and trouble.mishap is Mishap.DIE_AFTER:
            self.faults.world.die()

    def _taken(self) -> None:
        """Another holder takes the lock from this one, makes all useless that this one has, and gives it back."""
        held = self.holder()
        assert held is not None
        other = Store(self.real)
        with other._holding(self.real.take_from(held.lock_id, new_holder("apply"))):
            other.read("demo")
