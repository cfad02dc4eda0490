"""A certificate of the user's own for the gateway: two PEM files that somebody else renews."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import certifi
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from falplan.core.errors import Refused
from falplan.stores.files import write_whole

Stamp = tuple[int, int, int, int]


@dataclass(slots=True)
class GivenCertificate:
    """`cert` holds the chain, `key` its private key. `folder` gets `trust.pem` and `ca-bundle.pem`, for clients of this machine."""

    cert: Path
    key: Path
    folder: Path
    _stamp: tuple[Stamp, Stamp] | None = field(default=None)

    def ensure(self, host_names: Iterable[str], *, now: float) -> str | None:
        """Look whether the files changed, and check them. Returns why the certificate has to be loaded anew, None if it has not.

        Raises:
            Refused: a file can't be read, the two don't belong together, the certificate has expired or lacks a name.
        """
        stamp = (self._stamp_of(self.cert), self._stamp_of(self.key))
        if stamp == self._stamp:
            return None
        first = self._stamp is None
        chain = self._chain()
        self._check(chain[0], host_names, now)
        public = Path(certifi.where()).read_bytes()
        own = self.given_ca.encode()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(self.folder / "trust.pem", own or public, point="certificate")
        write_whole(self.folder / "ca-bundle.pem", public + b"\n" + own, point="certificate")
        self._stamp = stamp
        return "it is read for the first time" if first else "its files changed"

    def server_context(self) -> ssl.SSLContext:
        """For a listener. `reload` brings a renewed certificate into it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        self.reload(context)
        return context

    def reload(self, context: ssl.SSLContext) -> None:
        """Let new connections of a listener get the certificate on disk."""
        try:
            context.load_cert_chain(self.cert, self.key, password=lambda: "")
        except (ssl.SSLError, OSError) as exc:
            raise _unusable(self.cert, f"does not go with {self.key}: {exc}") from exc

    @property
    def given_ca(self) -> str:
        """The root at the end of the chain, which clients have to be given; empty if the public ones vouch for it."""
        last = self._chain()[-1]
        if last.issuer != last.subject:
            return ""
        return last.public_bytes(serialization.Encoding.PEM).decode("ascii")

    def _chain(self) -> list[x509.Certificate]:
        try:
            return x509.load_pem_x509_certificates(self.cert.read_bytes())
        except (OSError, ValueError) as exc:
            raise _unusable(self.cert, f"can't be read: {exc}") from exc

    def _check(self, leaf: x509.Certificate, host_names: Iterable[str], now: float) -> None:
        if leaf.not_valid_after_utc.timestamp() <= now:
            raise _unusable(self.cert, f"expired at {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
        try:
            names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (x509.ExtensionNotFound, InvalidSignature, ValueError):
            raise _unusable(self.cert, "names no host (it has no subject alternative names)") from None
        found = {*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))}
        for name in host_names:
            if name not in found and f"*.{name.partition('.')[2]}" not in found:
                raise _unusable(self.cert, f"is for {', '.join(sorted(found))}, not for {name}")

    @staticmethod
    def _stamp_of(path: Path) -> Stamp:
        try:
            found = path.stat()
        except OSError as exc:
            raise _unusable(path, f"can't be read: {exc.strerror}") from exc
        return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)


def _unusable(path: Path, what: str) -> Refused:
    return Refused("The gateway's certificate can't be used", f"{path} {what}. `gateway.tls` in the spec names it.")
