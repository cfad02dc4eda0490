"""What stands between a store of state and the bytes that its backend keeps: a seal makes them unreadable for others, or not."""

from __future__ import annotations

from typing import Protocol

from falplan.core.envelope import is_envelope
from falplan.core.errors import Refused


class Seal(Protocol):
    """Turns what is kept into what is stored, and back.

    `kind` is `state` for a snapshot and `journal/<seq>` for one entry of the journal. `serial` is the snapshot's own, and for an entry
    that of the snapshot that its journal belongs to. A seal binds both, so that stored bytes are good at one place alone.
    """

    def prepare(self) -> None:
        """Have whatever sealing needs before anything is done that must be recorded. May be called again.

        Raises:
            FalplanError: it can't be had; nothing was touched.
        """
        ...

    def seal(self, plain: bytes, *, kind: str, serial: int) -> bytes:
        """The bytes to store. Never empty; may be called again for the same input and need not return the same."""
        ...

    def open(self, sealed: bytes, *, kind: str, serial: int | None) -> bytes:
        """What was sealed. `serial` is None where nobody knows it yet: that of a snapshot that is read.

        Raises:
            StateUnreadable: sealed for another place, or damaged. Refused: with a key that is not here.
        """
        ...


class NoSeal:
    """Stores what it is given."""

    def prepare(self) -> None:
        return

    def seal(self, plain: bytes, *, kind: str, serial: int) -> bytes:
        return plain

    def open(self, sealed: bytes, *, kind: str, serial: int | None) -> bytes:
        if is_envelope(sealed):
            raise Refused(
                "The state is encrypted",
                "The spec says nothing of that: write `encryption:` back under `state:`. To keep it in clear from now on, say "
                "`key: none` there, with the key that it has under `previous:`. Nothing was touched.",
            )
        return sealed
