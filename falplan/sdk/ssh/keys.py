"""Host keys: their fingerprints, which of them are trusted, and how keys are asked for. Connects to nobody, and reads known_hosts alone."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from falplan.core.errors import FalplanError, Refused

FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")

TYPES: tuple[tuple[str, ...], ...] = (
    ("ssh-ed25519",),
    ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"),
    ("rsa-sha2-512", "rsa-sha2-256"),
)
"""Kinds of host keys as they are asked for, one after the other. A server shows one key of one kind in each connection."""


class HostKeyRefused(Refused):
    """The host has another key than the one that is trusted, or none is trusted yet. Nothing was sent to it."""


def fingerprint(blob: bytes) -> str:
    """`SHA256:…`, as ssh-keygen prints it, of a public key's bytes."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def trusted_key(text: str) -> str:
    """The fingerprint that a person trusts by `text`: a fingerprint, or a public key as a line of known_hosts or a .pub file has it.

    Raises:
        FalplanError: it is neither, or a key that can't be trusted in this way.
    """
    text = text.strip()
    if FINGERPRINT.fullmatch(text):
        return text
    words = text.split()
    if words and words[0].startswith("@"):
        raise FalplanError("Not a host key", f"{words[0]} is no key: falplan trusts keys one by one.")
    for kind, blob in pairwise(words):
        if kind.startswith(("ssh-", "ecdsa-", "sk-")):
            return fingerprint(_decoded(kind, blob))
    if text.startswith("MD5:") or re.fullmatch(r"([0-9a-f]{2}:){15}[0-9a-f]{2}", text):
        detail = "MD5 fingerprints can be forged: `ssh-keygen -lf FILE` prints the one that begins with SHA256."
        raise FalplanError("Not a host key", detail)
    raise FalplanError("Not a host key", f"{text[:60]!r} is neither SHA256:… nor a public key.")


def _decoded(kind: str, text: str) -> bytes:
    try:
        blob = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise FalplanError("Not a host key", f"what follows {kind} is no key.") from None
    size = int.from_bytes(blob[:4], "big")
    if blob[4 : 4 + size] != kind.encode():
        raise FalplanError("Not a host key", f"what follows {kind} is no key of that kind.")
    return blob


def known_keys(path: Path, name: str) -> set[str]:
    """Fingerprints that a known_hosts file has of `host`, or of `[host]:port` where the port is not 22. One that cannot be read has none.

    A key that is revoked there, for whichever host, is no host's. Authorities are not followed.
    """
    import paramiko
    from paramiko.hostkeys import HostKeyEntry, InvalidHostKey

    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return set()
    keys = paramiko.HostKeys()
    for line in map(str.strip, lines):
        if line and line[0] not in "#@":  # a line that makes no sense must not hide the others
            with contextlib.suppress(paramiko.SSHException, InvalidHostKey, ValueError):
                entry = HostKeyEntry.from_line(line)
                if entry is not None and entry.key is not None:
                    for host in entry.hostnames or ():
                        keys.add(host, entry.key.get_name(), entry.key)
    return {fingerprint(k.asbytes()) for k in (keys.lookup(name) or {}).values()} - set(_revoked(lines))


def _revoked(lines: Iterable[str]) -> Iterator[str]:
    for words in map(str.split, lines):
        if words[:1] == ["@revoked"] and len(words) > 3:
            with contextlib.suppress(ValueError):
                yield fingerprint(base64.b64decode(words[3]))


def check_key(where: str, seen: Sequence[str], trusted: Iterable[str]) -> None:
    """Refuse a host none of whose keys is trusted. `seen` are the fingerprints that it showed.

    Raises:
        HostKeyRefused: both sides are named.
    """
    wanted = sorted(trusted)
    if set(seen) & set(wanted):
        return
    shown = ", ".join(seen)
    if not wanted:
        raise HostKeyRefused(
            "The host's key is not trusted yet",
            f"{where} shows {shown}. Compare it with what `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` prints there, "
            "then write it as `host_key:` of the host.",
        )
    raise HostKeyRefused(
        "The host's key has changed",
        f"{where} shows {shown}; trusted is {', '.join(wanted)}. Either the host was installed anew, or somebody else answers in its "
        "place. Nothing was sent to it. If the new key is right, write it as `host_key:` of the host.",
    )
