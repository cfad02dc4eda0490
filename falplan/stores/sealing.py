"""Encrypts values at rest, each bound to what it belongs to. Knows nothing of what they are."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from falplan.core.errors import Refused
from falplan.core.secret import SecretValue
from falplan.stores.files import write_whole

KEY_BYTES = 32
NONCE_BYTES = 12


@dataclass(frozen=True, slots=True)
class Seal:
    """Encrypts values at rest. `key_id` tells which key it was, and nothing of the key."""

    key_id: str
    _key: bytes = field(repr=False)

    @classmethod
    def of(cls, key: bytes) -> Seal:
        return cls(hashlib.sha256(b"falplan key id\0" + key).hexdigest()[:16], key)

    @classmethod
    def kept_in(cls, path: Path) -> Seal:
        """The key in the file; made there (0600), durable before it is used, at the first start.

        Raises:
            Refused: the file holds something else.
        """
        try:
            key = path.read_bytes()
        except FileNotFoundError:
            key = os.urandom(KEY_BYTES)
            write_whole(path, key, mode=0o600, point="secrets_key")
        if len(key) != KEY_BYTES:
            detail = f"{path} does not hold {KEY_BYTES} bytes. Restore it from a backup; nothing was touched."
            raise Refused("Not a key of a control plane", detail)
        return cls.of(key)

    def derive(self, purpose: bytes, size: int) -> bytes:
        """So many bytes for a purpose of its own, always the same; they tell nothing of the key, nor of those for other purposes."""
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        return HKDF(SHA256(), size, salt=None, info=purpose).derive(self._key)

    def close(self, value: SecretValue, about: bytes) -> tuple[bytes, bytes]:
        """(nonce, sealed) of a value that belongs to `about`."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(NONCE_BYTES)
        return nonce, AESGCM(self._key).encrypt(nonce, value.reveal(), about)

    def open(self, nonce: bytes, sealed: bytes, about: bytes) -> SecretValue | None:
        """The value; None if it was changed, belongs to something else, or another key closed it."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            return SecretValue(AESGCM(self._key).decrypt(nonce, sealed, about))
        except InvalidTag:
            return None
