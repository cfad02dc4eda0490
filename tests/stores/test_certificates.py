"""The gateway's certificates: what is made, when it is renewed, and that clients accept it."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest

from falplan import clock
from falplan.core.errors import Refused
from falplan.stores.certificates import LEAF_LIFE, Certificates, Leaf, why_renew

NOON = 1_900_000_000.0
DAY = 86400.0
NAMES = ("localhost", "127.0.0.1", "::1", "box")


def a_leaf(names: tuple[str, ...] = NAMES, expires_at: float = NOON + 200 * DAY) -> Leaf:
    return Leaf(frozenset(names), expires_at)


def test_a_good_certificate_is_kept() -> None:
    assert why_renew(a_leaf(), NAMES, now=NOON) is None


@pytest.mark.parametrize(
    ("leaf", "because"),
    [
        (None, "there is none"),
        (a_leaf(names=("localhost",)), "it lacks 127.0.0.1, ::1, box"),
        (a_leaf(expires_at=NOON + 10 * DAY), "it expires in 10 days"),
        (a_leaf(expires_at=NOON), "it has expired"),
    ],
)
def test_a_certificate_is_renewed_for_a_reason(leaf: Leaf | None, because: str) -> None:
    assert why_renew(leaf, NAMES, now=NOON) == because


def test_ensuring_twice_changes_nothing(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "tls")
    assert certificates.ensure(["box"], now=NOON) == "there is none"
    before = {p.name: p.read_bytes() for p in certificates.folder.iterdir()}

    assert certificates.ensure(["box"], now=NOON) is None
    assert {p.name: p.read_bytes() for p in certificates.folder.iterdir()} == before


def test_private_files_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        certificates = Certificates(tmp_path / "tls")
        certificates.ensure([], now=NOON)
    finally:
        os.umask(old)

    private = [p for p in certificates.folder.iterdir() if b"PRIVATE KEY" in p.read_bytes()]
    assert sorted(p.name for p in private) == ["ca-key.pem", "gateway.pem"]
    assert {stat.S_IMODE(p.stat().st_mode) for p in private} == {0o600}
    assert stat.S_IMODE(certificates.folder.stat().st_mode) == 0o700


def test_a_renewal_keeps_the_authority(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    certificates.ensure([], now=NOON)
    authority = certificates.ca.read_bytes()

    later = NOON + LEAF_LIFE.total_seconds() - 5 * DAY
    assert certificates.ensure([], now=later) == "it expires in 5 days"
    assert certificates.ca.read_bytes() == authority
    assert certificates.ensure([], now=later) is None


def test_a_damaged_certificate_is_made_anew_and_a_damaged_authority_is_refused(tmp_path: Path) -> None:
    """Seen red with a damaged certificate that raised, and with a damaged authority that was silently replaced."""
    certificates = Certificates(tmp_path)
    certificates.ensure([], now=NOON)
    certificates.gateway.write_bytes(b"not pem")
    assert certificates.ensure([], now=NOON) == "there is none"
    (tmp_path / "ca-key.pem").write_bytes(b"not pem")

    with pytest.raises(Refused, match="damaged"):
        certificates.ensure([], now=NOON)


def test_a_certificate_of_another_authority_is_replaced(tmp_path: Path) -> None:
    """Seen red with a certificate whose signature was not verified."""
    ours, theirs = Certificates(tmp_path / "a"), Certificates(tmp_path / "b")
    ours.ensure([], now=NOON)
    theirs.ensure([], now=NOON)
    ours.gateway.write_bytes(theirs.gateway.read_bytes())

    assert ours.ensure([], now=NOON) == "there is none"


def test_the_bundle_holds_the_public_roots_and_ours(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    certificates.ensure([], now=NOON)

    roots = ssl.create_default_context(cafile=str(certificates.ca_bundle)).get_ca_certs(binary_form=True)
    assert ssl.PEM_cert_to_DER_cert(certificates.ca.read_text()) in roots
    assert len(roots) > 100


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", "box.example"])
def test_a_strict_client_accepts_every_name(tmp_path: Path, name: str) -> None:
    certificates = Certificates(tmp_path)
    certificates.ensure(["box.example"], now=clock.now())
    server = certificates.server_context()
    client = certificates.client_context()
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with server.wrap_socket(theirs, server_side=True) as wrapped:
            wrapped.sendall(b"hello")

    thread = threading.Thread(target=serve)
    thread.start()
    with client.wrap_socket(ours, server_hostname=name) as wrapped:
        assert wrapped.recv(5) == b"hello"
    thread.join()
