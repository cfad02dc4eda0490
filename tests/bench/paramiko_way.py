"""A unix socket whose connections go through paramiko's `direct-tcpip` channels, two threads each: the way that falplan does not take.

python -m tests.bench.paramiko_way ADDRESS PORT KEY HOST_KEY SOCKET TARGET_PORT
"""

from __future__ import annotations

import socket
import sys
import threading
from contextlib import suppress
from typing import Protocol

from falplan.sdk.ssh import Credentials, Target
from falplan.sdk.ssh.connect import connect

PIECE = 1 << 15


class Pipe(Protocol):
    def recv(self, size: int, /) -> bytes: ...
    def sendall(self, data: bytes, /) -> object: ...


def pump(source: Pipe, sink: Pipe, end: socket.socket) -> None:
    with suppress(OSError, EOFError):
        while data := source.recv(PIECE):
            sink.sendall(data)
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


def main(address: str, port: str, key: str, host_key: str, path: str, target: str) -> None:
    """Forward until it is killed."""
    way = Target("host", address, int(port), "root", trusted=(host_key,), identity_files=(key,))
    transport = connect(way, Credentials(config="", agent=False)).transport
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(512)
        print("ready", flush=True)
        while transport.is_active():
            ours, _ = listener.accept()
            channel = transport.open_channel("direct-tcpip", ("127.0.0.1", int(target)), ("127.0.0.1", 0))
            for one, other in ((ours, channel), (channel, ours)):
                threading.Thread(target=pump, args=(one, other, ours), daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
