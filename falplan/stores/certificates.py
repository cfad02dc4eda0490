"""The control plane's own CA and the gateway's certificate, in one folder. Knows nothing of who listens or connects."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import certifi
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from falplan.core.errors import Refused
from falplan.sdk.failpoints import fp
from falplan.stores.files import write_whole

CA_LIFE = timedelta(days=3650)
LEAF_LIFE = timedelta(days=397)  # the most that browsers and Apple's TLS accept
RENEW_BEFORE = timedelta(days=30)
EARLIER = timedelta(hours=1)  # for clients whose clock is behind

ALWAYS = ("localhost", "127.0.0.1", "::1")
"""Names that every certificate of a gateway carries, besides those of its host."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """What is known of the certificate in use. `names` are DNS names and IP addresses; the time in epoch seconds."""

    names: frozenset[str]
    expires_at: float


def why_renew(leaf: Leaf | None, names: Iterable[str], *, now: float) -> str | None:
    """Why the gateway needs a new certificate; None if the one it has will do."""
    if leaf is None:
        return "there is none"
    if missing := sorted(set(names) - leaf.names):
        return f"it lacks {', '.join(missing)}"
    left = leaf.expires_at - now
    if left < RENEW_BEFORE.total_seconds():
        return "it has expired" if left <= 0 else f"it expires in {left / 86400:.0f} days"
    return None


def ensure_certificates(folder: Path, *, now: float, host_names: Iterable[str] | None = None) -> Certificates:
    """The certificates of a folder, made or renewed as needed, for this machine's names unless others are given.

    Raises:
        Refused: the CA has expired or its file is damaged.
        OSError: the folder can't be written.
    """
    certificates = Certificates(folder)
    certificates.ensure(_names_of_host() if host_names is None else host_names, now=now)
    return certificates


@dataclass(frozen=True, slots=True)
class Certificates:
    """A folder (0700) with `ca.pem` for clients, `ca-bundle.pem` (public roots and `ca.pem`), and two private files (0600).

    `ca-key.pem` and `gateway.pem` hold key and certificate together, so that they always belong to each other.
    """

    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def ca_bundle(self) -> Path:
        """For SSL_CERT_FILE, which replaces the public roots and must therefore hold them too."""
        return self.folder / "ca-bundle.pem"

    @property
    def trust(self) -> Path:
        """What vouches for the certificate in use: the CA here, others for one that was given."""
        return self.folder / "trust.pem"

    @property
    def given_ca(self) -> str:
        """What clients have to be given, as PEM text."""
        return self.ca.read_text(encoding="ascii")

    @property
    def gateway(self) -> Path:
        return self.folder / "gateway.pem"

    @property
    def _authority(self) -> Path:
        return self.folder / "ca-key.pem"

    def ensure(self, host_names: Iterable[str], *, now: float) -> str | None:
        """Make what is missing and renew what runs out; may be called at any time. Returns why there is a new certificate.

        The CA is made once and never replaced: clients hold it.

        Raises:
            Refused: the CA has expired or its file is damaged.
            OSError: the folder can't be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.chmod(0o700)
        if not self._authority.exists():
            write_whole(self._authority, _new_authority(now), mode=0o600, point="ca")
        key, certificate = self._load_authority(now)
        public = certificate.public_bytes(serialization.Encoding.PEM)
        _write_if_other(self.ca, public)
        _write_if_other(self.ca_bundle, Path(certifi.where()).read_bytes() + b"\n" + public)
        _write_if_other(self.trust, public)
        names = [*ALWAYS, *sorted(set(host_names) - set(ALWAYS))]
        because = why_renew(self.leaf(certificate), names, now=now)
        if because:
            fp("certificate.renew.before")
            write_whole(self.gateway, _new_leaf(key, certificate, names, now), mode=0o600, point="certificate")
        return because

    def leaf(self, authority: x509.Certificate) -> Leaf | None:
        """The gateway's certificate; None if there is none, or another CA signed it."""
        try:
            content = self.gateway.read_bytes()
            leaf = x509.load_pem_x509_certificate(content)
            serialization.load_pem_private_key(content, None)
            leaf.verify_directly_issued_by(authority)
            names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (FileNotFoundError, ValueError, TypeError, x509.ExtensionNotFound, InvalidSignature):
            return None
        found = {*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))}
        return Leaf(frozenset(found), leaf.not_valid_after_utc.timestamp())

    def server_context(self) -> ssl.SSLContext:
        """For a listener. `reload` brings a renewed certificate into it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        self.reload(context)
        return context

    def reload(self, context: ssl.SSLContext) -> None:
        """Let new connections of a listener get the certificate on disk."""
        context.load_cert_chain(self.gateway)

    def client_context(self) -> ssl.SSLContext:
        """For a connection to this gateway: trusts its CA and no other."""
        return ssl.create_default_context(cafile=str(self.ca))

    def _load_authority(self, now: float) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        content = self._authority.read_bytes()
        try:
            key = serialization.load_pem_private_key(content, None)
            certificate = x509.load_pem_x509_certificate(content)
        except (ValueError, TypeError) as exc:
            raise _unusable(self._authority, "is damaged") from exc
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise _unusable(self._authority, "holds a key of another kind")
        if certificate.not_valid_after_utc.timestamp() <= now:
            raise _unusable(self._authority, "has expired")
        return key, certificate


def _names_of_host() -> list[str]:
    name = socket.gethostname()
    return [name] if name.isascii() and name else []


def _unusable(path: Path, what: str) -> Refused:
    return Refused(
        "The certificate authority can't be used",
        f"{path} {what}. Restore it from a backup. Or remove it: then a new one is made, and every client needs the new ca.pem.",
    )


def _write_if_other(path: Path, content: bytes) -> None:
    if not path.exists() or path.read_bytes() != content:
        write_whole(path, content, mode=0o644, point="certificate")


def _new_authority(now: float) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("falplan control plane")
    usage = _usage(signs_certificates=True)
    builder = _builder(name, key.public_key(), now, CA_LIFE).issuer_name(name)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(usage, critical=True)
    return _pem(key, builder.sign(key, hashes.SHA256()))


def _new_leaf(authority: ec.EllipticCurvePrivateKey, issuer: x509.Certificate, names: list[str], now: float) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    builder = _builder(_name("falplan gateway"), key.public_key(), now, LEAF_LIFE).issuer_name(issuer.subject)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(server, critical=False).add_extension(issuer_id, critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName([_general(n) for n in names]), critical=False)
    return _pem(key, builder.sign(authority, hashes.SHA256()))


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, now: float, life: timedelta
) -> x509.CertificateBuilder:
    at = datetime.fromtimestamp(now, UTC)
    builder = x509.CertificateBuilder().subject_name(subject).public_key(key).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(at - EARLIER).not_valid_after(at - EARLIER + life)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> bytes:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)
