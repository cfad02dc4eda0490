"""Who this machine is: an id that outlives reboots, its name, its addresses."""

from __future__ import annotations

import hashlib
import ipaddress
import platform
from pathlib import Path

MACHINE_ID = Path("/etc/machine-id")


def machine_id() -> str:
    """16 hex digits that are this machine's own. Derived, because systemd asks that its id itself is kept to the machine."""
    try:
        found = MACHINE_ID.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        found = ""
    return hashlib.sha256(f"falplan:{found or platform.node()}".encode()).hexdigest()[:16]


def host_name() -> str:
    """The machine's own name; `localhost` if it has none that a certificate could carry."""
    name = platform.node()
    return name if name and name.isascii() else "localhost"


def addresses() -> list[str]:
    """The machine's IP addresses, less those that are valid on one link alone. Sorted."""
    import ifaddr

    found = {a.ip if isinstance(a.ip, str) else a.ip[0] for adapter in ifaddr.get_adapters() for a in adapter.ips}
    return sorted(a for a in found if not ipaddress.ip_address(a.partition("%")[0]).is_link_local)
