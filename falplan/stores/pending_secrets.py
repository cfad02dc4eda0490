"""Values that were set while no control plane was there to keep them: beside the state, encrypted, until an apply delivers them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from falplan import clock
from falplan.core.secret import SecretValue
from falplan.core.values import canonical
from falplan.sdk.failpoints import fp
from falplan.stores.files import sync_folder, write_whole
from falplan.stores.project_key import Keyring
from falplan.stores.sealing import NONCE_BYTES, Seal

PURPOSE = "values at rest"


@dataclass(frozen=True, slots=True)
class Pending:
    """A value that waits. `version` is the one that it will have."""

    version: str
    value: SecretValue


@dataclass(frozen=True, slots=True)
class PendingSecrets:
    """The values that wait in a state's folder, by address. Their key is derived from the project's."""

    folder: Path

    def keep(self, address: str, value: SecretValue, keys: Keyring) -> str:
        """Keep a value, durably, in place of an earlier one. Returns its version."""
        version = clock.new_id("secret")
        nonce, sealed = _seal(keys).close(value, _about(address, version))
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(self._path(address), version.encode() + b"\n" + nonce + sealed, mode=0o600, point="pending")
        return version

    def read(self, address: str, keys: Keyring | None) -> Pending | None:
        """What waits for delivery; None if nothing does, or none of the project's keys opens it."""
        try:
            version, _, rest = self._path(address).read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        for key in keys.keys if keys else ():
            seal = Seal.of(key.derive(PURPOSE))
            value = seal.open(
                rest[:NONCE_BYTES], rest[NONCE_BYTES:], _about(address, version.decode("ascii", "replace"))
            )
            if value is not None:
                return Pending(version.decode(), value)
        return None

    def forget(self, address: str) -> bool:
        """Remove a value that waits. Whether there was one."""
        fp("pending.forget.before_unlink")
        try:
            self._path(address).unlink()
        except FileNotFoundError:
            return False
        fp("pending.forget.after_unlink")
        sync_folder(self.folder)
        return True

    def _path(self, address: str) -> Path:
        return self.folder / address


def _seal(keys: Keyring) -> Seal:
    return Seal.of(keys.current.derive(PURPOSE))


def _about(address: str, version: str) -> bytes:
    return canonical([address, version])
