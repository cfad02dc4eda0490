"""Whether a control plane is there: one that dies as it is asked is stopped, not unknown."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import threading
import time
from pathlib import Path

from falplan import clock
from falplan.core.plan import Presence
from falplan.engine.reaching import _here
from falplan.stores.certificates import ensure_certificates
from falplan.stores.home import ControlHome, Endpoint


def _dies_when_asked(listener: socket.socket, lock: int) -> None:
    """Reset the first connection that says anything; then, as the kernel does it, let go of the rest one by one."""
    while True:
        connection, _ = listener.accept()
        with connection:
            if connection.recv(1):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                break
    time.sleep(0.02)
    listener.close()
    time.sleep(0.02)
    os.close(lock)


def test_a_control_plane_that_dies_as_it_is_asked_is_stopped(tmp_path: Path) -> None:
    """Seen red without a second look: it was unknown, and apply refused to do anything."""
    home = ControlHome(tmp_path / "home")
    home.make()
    home.database.touch()
    home.keep_key("admin", "key-1:secret")
    ensure_certificates(home.tls, now=clock.now())
    lock = os.open(home.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    listener = socket.create_server(("127.0.0.1", 0))
    home.announce(Endpoint(f"https://127.0.0.1:{listener.getsockname()[1]}", os.getpid(), "0.1.0"))
    dying = threading.Thread(target=_dies_when_asked, args=(listener, lock))
    dying.start()
    reached = _here(home, {})
    dying.join(10)

    assert (reached.presence, reached.because) == (Presence.STOPPED, "it is stopped")
