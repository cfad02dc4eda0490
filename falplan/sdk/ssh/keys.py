"""Host keys: their fingerprints, which of them are trusted, and how keys are asked for. Connects to nobody."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

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
