"""What an instance's console shows: in good time, what cloud-init writes of the host's keys."""

from __future__ import annotations

import base64
import hashlib
import struct
from typing import Any

from falplan.sdk.testing.fakeec2.account import Account
from falplan.sdk.testing.fakeec2.things import Instance

MOST = 64 * 1024
"""Characters of it that EC2 keeps: the last ones."""


def get_console_output(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See GetConsoleOutput: nothing at first."""
    instance = account.find("i", p["InstanceId"], "InvalidInstanceID.NotFound")
    assert isinstance(instance, Instance)  # noqa: S101 - they begin with i-
    text = _shown(account, instance)[-MOST:]
    told = {"Output": base64.b64encode(text.encode()).decode()} if text else {}
    return {"InstanceId": instance.id, "Timestamp": account.now, **told}


def _shown(account: Account, instance: Instance) -> str:
    if instance.id in account.consoles:
        return account.consoles[instance.id]
    since, until = instance.paid(account.now)
    booted = until - since >= account.delays.console
    return keys_as_printed(instance.host_key or a_key(instance.id)) if booted else ""


def keys_as_printed(*keys: str) -> str:
    """A console with these public keys, each as `ssh-ed25519 AAAA…`; its lines end as those of a terminal do."""
    lines = (
        "[    0.000000] Linux version 6.8.0-1021-aws (buildd@lcy02-amd64-105)",
        "instance login: ci-info: no authorized SSH keys fingerprints found for user ubuntu.",
        "-----BEGIN SSH HOST KEY KEYS-----",
        *(f"{key} root@instance" for key in keys),
        "-----END SSH HOST KEY KEYS-----",
        "[   24.510221] cloud-init[1402]: Cloud-init v. 24.4 finished. Datasource DataSourceEc2Local.",
    )
    return "".join(f"{line}\r\n" for line in lines)


def a_key(seed: str) -> str:
    """A public key of ed25519 that nobody has the private one of, the same for the same text."""
    parts = b"ssh-ed25519", hashlib.sha256(seed.encode()).digest()
    blob = b"".join(struct.pack(">I", len(part)) + part for part in parts)
    return f"ssh-ed25519 {base64.b64encode(blob).decode()}"
