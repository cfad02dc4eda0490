"""The project's key: where it is kept, how it is made and renewed, and the keys derived from it. Never printed, never in state."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from falplan.core.errors import FalplanError, Refused
from falplan.core.secret import SecretValue
from falplan.sdk.failpoints import fp
from falplan.stores.files import sync_folder, write_whole

VARIABLE = "FALPLAN_PROJECT_KEY"
FILE = "project.key"
SIZE = 32
"""Bytes of a key, all of them random."""


@dataclass(frozen=True, slots=True)
class ProjectKey:
    """One key. `key_id`, 8 hex digits, is derived from it and tells nothing of it."""

    key_id: str
    _key: bytes = field(repr=False)

    @classmethod
    def of(cls, key: bytes) -> ProjectKey:
        return cls(_derive(key, "key id", 4).hex(), key)

    def derive(self, purpose: str) -> bytes:
        """A key of 32 bytes for one purpose alone; it tells nothing of this key or of those for other purposes."""
        return _derive(self._key, purpose, SIZE)

    def fingerprint(self, address: str, value: SecretValue) -> str:
        """`<key id>:<32 hex digits>`: the same for the same value of the same secret, and useless without the key."""
        seal = hmac.new(self.derive("fingerprints"), digestmod=hashlib.sha256)
        seal.update(address.encode() + b"\0" + value.reveal())
        return f"{self.key_id}:{seal.hexdigest()[:32]}"

    def encoded(self) -> str:
        return base64.b64encode(self._key).decode()


@dataclass(frozen=True, slots=True)
class Keyring:
    """The project's keys, the current one first. Older ones are kept to compare what they fingerprinted."""

    keys: tuple[ProjectKey, ...]

    @property
    def current(self) -> ProjectKey:
        return self.keys[0]

    def find(self, key_id: str) -> ProjectKey | None:
        return next((k for k in self.keys if k.key_id == key_id), None)


@dataclass(frozen=True, slots=True)
class ProjectKeys:
    """Where the keys of a project are: `FALPLAN_PROJECT_KEY`, or `project.key` in the state's folder, 0600.

    Both hold base64, one key or several, the current one first.
    """

    folder: Path
    environ: Mapping[str, str] = field(repr=False)

    @property
    def path(self) -> Path:
        return self.folder / FILE

    def read(self) -> Keyring | None:
        """The keys; None if there are none.

        Raises:
            Refused: what is there is no key, or others can read it. The message never shows it.
        """
        text = self.environ.get(VARIABLE)
        if text is not None:
            return _parse(text, VARIABLE)
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise Refused("The project's key can't be read", f"{self.path}: {exc.strerror}.") from exc
        with os.fdopen(descriptor, "rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                detail = f"{self.path} can be read by others. Nothing was done: chmod 600 {self.path}"
                raise Refused("The project's key is not private", detail)
            return _parse(file.read().decode("ascii", "replace"), str(self.path))

    def ensure(self) -> Keyring:
        """The keys; a first one is made, and is durable before this returns, where there is none. May be called at any time."""
        found = self.read()
        if found is not None:
            return found
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{FILE}.{os.getpid()}"
        temporary.unlink(missing_ok=True)
        _write_private(temporary, _text([ProjectKey.of(os.urandom(SIZE))]))
        fp("project_key.make.before_link")
        try:
            os.link(temporary, self.path)  # whoever is first: two that make one at a time use the same
        except FileExistsError:
            pass
        fp("project_key.make.after_link")
        temporary.unlink()
        sync_folder(self.folder)
        made = self.read()
        if made is None:
            raise FalplanError("The project's key is gone", f"{self.path} was removed while it was made. Run it again.")
        return made

    def rotate(self) -> Keyring:
        """Make a new current key; those there are stay, to compare with. The caller holds the state's lock.

        Raises:
            Refused: the key is in the environment, which can't be changed from here.
        """
        if VARIABLE in self.environ:
            detail = (
                f"{VARIABLE} holds the key. Put a new one in front of it, with a comma between: "
                "`openssl rand -base64 32` makes one."
            )
            raise Refused("The project's key is in the environment", detail)
        old = self.ensure()
        keys = (ProjectKey.of(os.urandom(SIZE)), *old.keys)
        write_whole(self.path, _text(keys), mode=0o600, point="project_key")
        return Keyring(keys)


def _write_private(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _text(keys: list[ProjectKey] | tuple[ProjectKey, ...]) -> bytes:
    return "".join(k.encoded() + "\n" for k in keys).encode()


def _parse(text: str, where: str) -> Keyring:
    words = text.replace(",", " ").split()
    keys = []
    for word in words:
        try:
            key = base64.b64decode(word, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != SIZE:
            raise _no_key(where)
        keys.append(ProjectKey.of(key))
    if not keys:
        raise _no_key(where)
    return Keyring(tuple(keys))


def _no_key(where: str) -> Refused:
    detail = f"{where} does not hold base64 of {SIZE} bytes, one key or several. Restore it: fingerprints are compared with it."
    return Refused("Not a key of a project", detail)


def _derive(key: bytes, purpose: str, length: int) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), length, salt=None, info=b"falplan/1/" + purpose.encode()).derive(key)
