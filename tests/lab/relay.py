"""Standard input and output as a TCP connection: what a ProxyCommand does. `relay.py HOST PORT`."""

from __future__ import annotations

import os
import selectors
import socket
import sys


def main(host: str, port: str) -> None:
    with socket.create_connection((host, int(port))) as peer, selectors.DefaultSelector() as ready:
        ready.register(0, selectors.EVENT_READ)
        ready.register(peer, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                chunk = os.read(0, 65536) if key.fd == 0 else peer.recv(65536)
                if not chunk:
                    return
                peer.sendall(chunk) if key.fd == 0 else os.write(1, chunk)


if __name__ == "__main__":
    main(*sys.argv[1:])
