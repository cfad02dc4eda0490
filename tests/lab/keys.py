"""Situations of host keys: what a spec and known_hosts say of a host, and whether it may be talked to."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import (
    SSHCertificateBuilder,
    SSHCertificateType,
    load_ssh_private_key,
    load_ssh_public_key,
)

from tests.lab.loopback import LoopbackHost, fingerprint_of, make_key

SERVER = "LogLevel DEBUG3"
"""What lets sshd write down each packet that it gets."""

HARMLESS = frozenset({1, 2, 3, 4, 7, 20, 21, *range(30, 50)})
"""Packets by which client and server agree on keys, and take leave: nothing of a person's, and nothing of ours."""


@dataclass(frozen=True)
class Situation:
    """`options` are those of host `a` in the spec. `says` is in the refusal; a valid one has none.

    `hosts` says what kinds of keys the host and the bastion have, `known` what stands in known_hosts.
    """

    name: str
    options: Callable[[LoopbackHost, LoopbackHost], dict[str, Any]]
    says: str = ""
    kinds: Sequence[str] = ("ed25519",)
    known: Callable[[LoopbackHost, LoopbackHost], str] = lambda host, bastion: ""
    change: bool = False  #: the host has another key than its options name
    certified: bool = False  #: the host shows a certificate beside its key


def _pinned(host: LoopbackHost, bastion: LoopbackHost) -> dict[str, Any]:
    return {"host_key": host.keys["ed25519"]}


def _behind(host: LoopbackHost, bastion: LoopbackHost) -> dict[str, Any]:
    return {**_pinned(host, bastion), "jump": f"root@{bastion.address}:{bastion.port}"}


def line_of(host: LoopbackHost, kind: str = "ed25519") -> str:
    """The public key of a host, as two words."""
    return " ".join((host.folder / f"host_{kind}.pub").read_text().split()[:2])


def place_of(host: LoopbackHost) -> str:
    return f"[{host.address}]:{host.port}"


def hashed(name: str) -> str:
    import paramiko

    return str(paramiko.HostKeys.hash_host(name))


CHANGED, UNTRUSTED = "The host's key has changed", "The host's key is not trusted yet"
STRANGER = "SHA256:" + "A" * 43

SITUATIONS = (
    Situation("a fingerprint", _pinned),
    Situation("a whole key", lambda h, b: {"host_key": line_of(h)}),
    Situation("two keys, one of them the host's", lambda h, b: {"host_key": [STRANGER, h.keys["ed25519"]]}),
    Situation("a key of another kind than the first", lambda h, b: {"host_key": h.keys["rsa"]}, kinds=("ed25519", "rsa")),
    Situation("a key beside a certificate", _pinned, certified=True),
    Situation("no key", lambda h, b: {}, UNTRUSTED),
    Situation("a changed key", _pinned, CHANGED, change=True),
    Situation("another kind's key that the host has not", lambda h, b: {"host_key": STRANGER}, CHANGED, kinds=("ed25519", "ecdsa")),
    Situation("known_hosts has the host's key", lambda h, b: {}, UNTRUSTED, known=lambda h, b: f"{place_of(h)} {line_of(h)}"),
    Situation("an authority that signed its key", lambda h, b: {"host_key": f"@cert-authority * {line_of(b)}"}, "one by one", certified=True),
    Situation("a bastion in known_hosts", _behind, known=lambda h, b: f"{place_of(b)} {line_of(b)}"),
    Situation("a bastion by its hashed name", _behind, known=lambda h, b: f"{hashed(place_of(b))} {line_of(b)}"),
    Situation("a bastion that nobody knows", _behind, UNTRUSTED),
    Situation("a bastion with another key", _behind, CHANGED, known=lambda h, b: f"{place_of(b)} {line_of(h)}"),
    Situation("a bastion known at another port", _behind, UNTRUSTED, known=lambda h, b: f"{b.address} {line_of(b)}"),
    Situation(
        "a bastion whose key is revoked",
        _behind,
        UNTRUSTED,
        known=lambda h, b: f"{place_of(b)} {line_of(b)}\n@revoked * {line_of(b)}",
    ),
    Situation("a bastion whose authority is known", _behind, UNTRUSTED, known=lambda h, b: f"@cert-authority * {line_of(h)}"),
)  # fmt: skip


def certify(host: LoopbackHost, authority: Path) -> None:
    """Let a host show a certificate beside its key, from its next start on."""
    make_key(authority)
    signer = load_ssh_private_key(authority.read_bytes(), None)
    builder = (
        SSHCertificateBuilder()
        .public_key(load_ssh_public_key((host.folder / "host_ed25519.pub").read_bytes()))  # type: ignore[arg-type]  # ed25519
        .serial(1)
        .type(SSHCertificateType.HOST)
        .key_id(b"host")
        .valid_principals([host.address.encode()])
        .valid_after(0)
        .valid_before(2**64 - 1)
    )
    certificate = builder.sign(signer)  # type: ignore[arg-type]  # ed25519
    (host.folder / "host_ed25519-cert.pub").write_bytes(certificate.public_bytes() + b"\n")
    host.more += f"\nHostCertificate {host.folder}/host_ed25519-cert.pub"


def packets_to(host: LoopbackHost) -> set[int]:
    """The numbers of all packets that a host's sshd got."""
    return {int(number) for number in re.findall(r"receive packet: type (\d+)", host.log)}


def prepared(
    situation: Situation, make: Callable[..., LoopbackHost]
) -> tuple[LoopbackHost, LoopbackHost, dict[str, Any], str]:
    """The host and the bastion, up and as the situation has them, the options of the one, and what known_hosts says."""
    bastion = make("bastion", more=SERVER)
    host = make("a", kinds=situation.kinds, start=False, more=SERVER)
    options, known = situation.options(host, bastion), situation.known(host, bastion)
    if situation.change:
        host.renew("ed25519")
    if situation.certified:
        certify(host, host.folder / "authority")
    host.start()
    return host, bastion, {"address": host.address, "port": host.port, **options}, known


def check_refused(situation: Situation, told: str, host: LoopbackHost, bastion: LoopbackHost) -> None:
    """It names the key that was shown; and nobody was sent anything before its key was seen."""
    refuser = bastion if "jump" in situation.options(host, bastion) else host
    if situation.says in (CHANGED, UNTRUSTED):
        shown = [fingerprint_of(line_of(refuser, kind)) for kind in refuser.keys]
        assert any(key in told for key in shown), told
    assert packets_to(host) <= HARMLESS and packets_to(bastion) <= HARMLESS
    assert refuser is host or not packets_to(host)
