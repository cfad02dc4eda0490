"""Tells systemd, where it started the control plane, that it serves, and which process it is by now. See sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger("falplan.serve")


def tell_systemd(environ: Mapping[str, str]) -> None:
    """Say that this process is the service's main one, and ready. A successor says so in its turn, before the one before it ends.

    Nothing happens where nobody asked to be told. Whoever can't be told is no reason to end.
    """
    asked = environ.get("NOTIFY_SOCKET", "")
    if not asked:
        return
    address = f"\0{asked[1:]}" if asked.startswith("@") else asked
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as told:
            told.connect(address)
            told.sendall(f"READY=1\nMAINPID={os.getpid()}".encode())
    except OSError as exc:
        log.warning("systemd can't be told that the control plane is ready: %s", exc)
