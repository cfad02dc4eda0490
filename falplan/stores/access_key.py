"""The key that a control plane logs in to hosts with, in its own folder. Knows nothing of hosts."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from falplan.core.errors import Refused
from falplan.stores.files import write_whole


def ensure_access_key(path: Path) -> str:
    """The public key as authorized_keys has it, `ssh-ed25519 AAAA…`; the pair is made once, readable by its user alone.

    Raises:
        Refused: the file is there and holds no key.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        key = ed25519.Ed25519PrivateKey.generate()
        content = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        write_whole(path, content, point="access_key")
    try:
        loaded = load_ssh_private_key(content, None)
    except (ValueError, TypeError) as exc:
        detail = f"{path}: {exc}. Bring it back from a backup; or remove it, and the next apply installs another one on each host."
        raise Refused("The control plane's key for hosts is damaged", detail) from exc
    return loaded.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
