"""What instances write to their consoles. A host's keys are among it, once it has booted, as cloud-init prints them."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from falplan.sdk.testing.fakeec2.account import Account, Instance

PRINTED = 10.0
"""Seconds from when an instance runs until its keys stand on its console."""


def get_console_output(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See GetConsoleOutput."""
    instance = account.find("i", str(p["InstanceId"]), "InvalidInstanceID.NotFound")
    assert isinstance(instance, Instance)  # noqa: S101 - ids of instances are theirs alone
    text = account.consoles.get(instance.id)
    if text is None:
        printed = account.now >= instance.runs_at + PRINTED
        text = keys_as_printed(a_key(instance.id)) if printed else ""
    told = {"Output": base64.b64encode(text.encode()).decode()} if text else {}
    return {"InstanceId": instance.id, "Timestamp": account.now, **told}


def keys_as_printed(*keys: str) -> str:
    """The part of a console's text that has these public keys, each as `ssh-ed25519 AAAA…`."""
    lines = "\n".join(f"{key} root@instance" for key in keys)
    return (
        f"cloud-init[812]: done\n-----BEGIN SSH HOST KEY KEYS-----\n{lines}\n-----END SSH HOST KEY KEYS-----\nlogin: \n"
    )


def a_key(seed: str) -> str:
    """A public key that nobody has the private one of, the same for the same text."""
    kind = b"ssh-ed25519"
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in (kind, hashlib.sha256(seed.encode()).digest()))
    return f"{kind.decode()} {base64.b64encode(blob).decode()}"
