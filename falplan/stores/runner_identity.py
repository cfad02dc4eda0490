"""The certificate, key and token of a runner that is reached without SSH. They are derived anew when they are needed, and kept nowhere."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from falplan.core.runtime import RunnerAccess
from falplan.core.secret import SecretValue
from falplan.stores.sealing import Seal

SINCE, UNTIL = datetime(2000, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""Its own certificate is all that a runner's is compared with: no clock of a machine has a say in that."""

KEPT = 4096
"""Identities that are kept in memory: every look at a machine asks for those of its runners."""


@dataclass(frozen=True, slots=True)
class RunnerIdentity:
    """`certificate` and `key` as PEM text; `token` as 64 hexadecimal digits; `fingerprint` is the certificate's SHA-256, in such digits."""

    certificate: str
    fingerprint: str
    key: SecretValue
    token: SecretValue

    @property
    def access(self) -> RunnerAccess:
        """What connecting to the runner takes."""
        return RunnerAccess(self.certificate, self.token)


def identities(seal: Seal) -> Callable[[str], RunnerIdentity]:
    """Those of runners, by id. The same key and id always give the same: whoever holds the key reaches the runners."""

    @functools.lru_cache(maxsize=KEPT)
    def identity(runner_id: str) -> RunnerIdentity:
        return _identity(runner_id, seal.derive(b"falplan runner\0" + runner_id.encode(), 80))

    return identity


def _identity(runner_id: str, material: bytes) -> RunnerIdentity:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import NameOID

    # Ed25519: a key is any 32 bytes, and it signs the same in the same way, so that the certificate is the same, too.
    key = Ed25519PrivateKey.from_private_bytes(material[:32])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, runner_id[:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(int.from_bytes(material[64:], "big") >> 1 | 1)
        .not_valid_before(SINCE)
        .not_valid_after(UNTIL)
        .sign(key, None)
    )
    return RunnerIdentity(
        certificate.public_bytes(Encoding.PEM).decode(),
        hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest(),
        SecretValue(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())),
        SecretValue(material[32:64].hex().encode()),
    )
