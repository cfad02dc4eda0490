"""Commands that print far more than anybody keeps: nobody hangs, and neither side takes much memory."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

from tests.lab.namespaces import Lab, LabHost

from .sandbox import Broken
from .ssh_client import is_hand, peak

ROOM = 50 << 20
"""Bytes by which the memory of either side may grow."""
MB = 1 << 20


def parts(full: bool) -> Iterator[tuple[str, Callable[[random.Random], None]]]:
    for size in (100, 1024) if full else (100,):
        for stream in (False, True):
            yield f"{size} MB of output{', as it comes' * stream}", partial(flood, size=size * MB, stream=stream)


def flood(rng: random.Random, size: int, stream: bool) -> None:
    """So many bytes on standard output and as many on standard error, both without a line's end, with a job's name.

    Seen red when all of it was kept.
    """
    script = f"head -c {size} /dev/zero | tr '\\0' x & head -c {size} /dev/zero | tr '\\0' '\\377' >&2; wait"
    with Lab() as lab, lab.inside():
        host = lab.add("h1")
        request = {
            "do": "run",
            "target": asdict(host.target()),
            "argv": ["sh", "-c", script],
            "stream": stream,
            "jobs": "/var/tmp/jobs",
        }
        argv = [sys.executable, "-m", "tests.faults.ssh_client", json.dumps(request)]
        client = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            _next(client)
            before = _peak_of_hand(host)
            _go_on(client)
            told = _next(client)
            grown = _peak_of_hand(host) - before
            client.communicate("\n", timeout=30)
        finally:
            client.kill()
            client.wait()
    print(f"    {size // MB} MB: client +{told['grown'] // MB} MB, hand +{grown // MB} MB, {told}", flush=True)
    _check(told, grown, size, stream)


def _check(told: dict[str, Any], grown: int, size: int, stream: bool) -> None:
    if told["code"] or told["heard"] != (size if stream else 0):
        raise Broken(f"not all came back: {told}")
    if not 8 * MB <= told["err"] <= 9 * MB or (not stream and not 8 * MB <= told["out"] <= 9 * MB):
        raise Broken(f"what is kept of {size} bytes: {told}")
    if max(told["grown"], grown) > ROOM:
        raise Broken(f"memory grew by {told['grown'] / MB:.0f} MB here and {grown / MB:.0f} MB there")


def _next(client: subprocess.Popen[str]) -> dict[str, Any]:
    assert client.stdout is not None
    line = client.stdout.readline()
    if not line:
        raise Broken(f"the client ended with {client.wait()}")
    found: dict[str, Any] = json.loads(line)
    return found


def _go_on(client: subprocess.Popen[str]) -> None:
    assert client.stdin is not None
    client.stdin.write("\n")
    client.stdin.flush()


def _peak_of_hand(host: LabHost) -> int:
    (hand,) = filter(is_hand, host.processes())
    return peak(hand)
