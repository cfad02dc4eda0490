"""A slow cable between a lab and a host: frames go from one TAP device to the other, each of them late.

`wire.py LAB PORT NETWORK DEVICE SECONDS`. The kernel's own way, `tc netem`, is a module that many kernels lack. Prints a line once it works.
"""

from __future__ import annotations

import collections
import fcntl
import os
import selectors
import struct
import sys
import time

from tests.lab.networks import within

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
FRAME = 1 << 16


def tap(network: str, name: str) -> int:
    """A network device of a namespace, whose frames are read and written here."""
    with within(network):
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return device


def carry(ends: tuple[int, int], delay: float) -> None:
    """Carry frames both ways until standard input ends, as it does with whoever started this. All are as late, so they stay in order."""
    under_way: collections.deque[tuple[float, int, bytes]] = collections.deque()
    with selectors.DefaultSelector() as ready:
        ready.register(sys.stdin, selectors.EVENT_READ)
        for end, other in (ends, ends[::-1]):
            ready.register(end, selectors.EVENT_READ, other)
        while True:
            now = time.monotonic()
            while under_way and under_way[0][0] <= now:
                _, end, frame = under_way.popleft()
                deliver(end, frame)
            pause = max(0.0, under_way[0][0] - now) if under_way else None
            for key, _ in ready.select(pause):
                if key.data is None:
                    return
                for frame in frames(key.fd):
                    under_way.append((time.monotonic() + delay, key.data, frame))


def frames(end: int) -> list[bytes]:
    found: list[bytes] = []
    try:
        while len(found) < 64:  # then the other direction gets its turn
            found.append(os.read(end, FRAME))
    except OSError:
        pass  # no more for now, or the device is down: a cable that is pulled
    return found


def deliver(end: int, frame: bytes) -> None:
    try:
        os.write(end, frame)
    except OSError:
        pass  # down, or full: lost, as on a cable


def main(lab: str, port: str, network: str, device: str, delay: str) -> None:
    ends = tap(lab, port), tap(network, device)
    print("ready", flush=True)
    carry(ends, float(delay))


if __name__ == "__main__":
    main(*sys.argv[1:])
