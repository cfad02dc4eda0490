"""The way onto a machine: its address, and its host keys as it showed them on its console, which nobody can come between."""

from __future__ import annotations

import base64
import re

from falplan.core.errors import FalplanError
from falplan.core.values import Json, JsonObject
from falplan.sdk.launches import Bought, Entry
from falplan.sdk.ssh.keys import trusted_key

from .account import Account
from .boot import FOLDER, USER

PORT = 22
_KEYS = re.compile(r"-----BEGIN SSH HOST KEY KEYS-----(.*?)-----END SSH HOST KEY KEYS-----", re.DOTALL)
_KEY = re.compile(r"((?:ssh|ecdsa)-[a-z0-9-]+) ([A-Za-z0-9+/]+={0,2})")


def entry(account: Account, machine: Bought, *, public: bool) -> Entry | None:
    """The way onto a machine; None before it has an address and has shown its keys."""
    address = machine.public if public else machine.address
    if not address:
        return None
    keys = host_keys(console(account, machine.identity))
    if not keys:
        return None
    options: JsonObject = {
        "address": address,
        "port": PORT,
        "user": USER,
        "host_key": list[Json](keys),
        "root": FOLDER,
    }
    return Entry("ssh", options)


def console(account: Account, identity: str) -> str:
    """What a machine has written to its console so far."""
    told = account.ec2("get_console_output", InstanceId=identity, Latest=True)
    text = str(told.get("Output") or "")
    try:
        return base64.b64decode(text, validate=True).decode(errors="replace")
    except ValueError:
        return text  # boto3 has decoded it


def host_keys(text: str) -> list[str]:
    """Fingerprints of the keys that cloud-init printed last: a machine that is booted anew may have new ones."""
    found = _KEYS.findall(text)
    if not found:
        return []
    try:
        return sorted({trusted_key(f"{kind} {blob}") for kind, blob in _KEY.findall(found[-1])})
    except FalplanError:
        return []  # a line is not there in full yet
