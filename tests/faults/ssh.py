"""The way onto machines by SSH while the network, sshd and the machines fail. Hosts are real ones, in a lab of network namespaces.

Instants and bytes at which something fails are drawn from the seed that a case's name shows.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from falplan.sdk.shell import Unreachable
from falplan.sdk.ssh import SshShell
from falplan.sdk.ssh.connect import SILENCE
from falplan.sdk.values import Command, Output
from tests.lab.loopback import CREDENTIALS
from tests.lab.namespaces import Lab, LabHost

from . import (
    ssh_away,
    ssh_broken,
    ssh_claims,
    ssh_fleet,
    ssh_output,
    ssh_pids,
    ssh_rotation,
    ssh_secrets,
    ssh_trust,
    ssh_uploads,
)
from .sandbox import Broken, wait_until
from .ssh_client import Watched
from .ssh_inside import HUNG, check_answers, result, start
from .ssh_uploads import Tree, check_whole, noise

NamedCase = tuple[str, Callable[[], None]]

DETECTED = 20.0
"""Seconds within which a connection that has gone silent counts as lost."""
CONNECTING = 0.4
"""Seconds that a connection takes to be made, about."""


def cases(rng: random.Random, full: bool) -> Iterator[NamedCase]:
    """100 silences, 200 commands, 200 uploads and 1 GB of output; or 3, 5, 6 and 100 MB. Beside them, hosts under the whole product."""
    for name, run in _parts(rng, full):
        seed = rng.randrange(2**32)
        yield f"{name} (seed {seed})", partial(run, random.Random(seed))


def _parts(rng: random.Random, full: bool) -> Iterator[tuple[str, Callable[[random.Random], None]]]:
    """In an order in which those that wait run beside those that compute."""
    yield from ssh_away.parts()
    yield from ssh_fleet.parts(rng, full)
    yield from ssh_broken.parts()
    yield from ssh_pids.parts(full)
    yield from ssh_rotation.parts(full)
    yield from ssh_claims.parts(full)
    yield from ssh_secrets.parts(full)
    yield from ssh_trust.parts(rng, full)
    for number in range(20 if full else 1):
        yield f"hosts fall silent {number}", partial(silences, works=WORKS + (WORKS[:2] if full else ()))
    for fault, trials, rounds in (("drop", 5, 8), ("cut", 5, 8), ("kill", 20, 6)):
        for number in range(rounds if full else 1):
            count = trials if full else 3 if fault == "kill" else 1
            yield f"a command runs once: {count} times {fault} {number}", partial(counted, fault=fault, trials=count)
    yield from ssh_uploads.parts(full)
    yield from ssh_output.parts(full)


# -- SSH-3: silence -------------------------------------------------------------------------------------------------------

WORKS = ("command", "upload", "nothing")
"""What is under way when a host falls silent."""


def silences(rng: random.Random, works: tuple[str, ...]) -> None:
    """Each host loses all packets at an instant of its own: that is noticed in time, and the same shell goes on once it is over.

    Seen red with 600 s of patience and without TCP's own (`watch`).
    """
    with Lab() as lab:
        trials = []
        for number, work in enumerate(works):
            host = lab.add(f"h{number}")
            trials.append(start(lab, partial(_silence, lab, host, work, random.Random(rng.random()))))
        for trial in trials:
            result(trial, HUNG, "a trial of silence")


def _silence(lab: Lab, host: LabHost, work: str, rng: random.Random) -> None:
    shell = SshShell(host.target(), CREDENTIALS)
    link = shell.link
    tree = noise(24 << 20)
    stream = Watched(tree.archive, rng.randrange(1, len(tree.archive)), host.drop)
    under_way: Future[object] = start(lab, lambda: _work(shell, work, tree, stream))
    if work == "upload":
        wait_until(lambda: stream.sent >= stream.at or under_way.done(), HUNG, lambda: "nothing is uploaded")
    else:
        time.sleep(rng.uniform(0, 1.5))
        host.drop()
    begun = time.monotonic()
    try:
        wait_until(lambda: link.lost, DETECTED, lambda: f"silence during {work} is not noticed")
        noticed = time.monotonic() - begun
        if work == "command" and not isinstance(under_way.exception(1.0), Unreachable):
            raise Broken(f"a command whose host fell silent ended with {under_way.exception()!r}")
    finally:
        host.undrop()
    print(f"    silence during {work}: noticed after {noticed:.1f} s: {link.lost}", flush=True)
    if work != "command":
        result(under_way, HUNG, work)
    if work == "upload":
        check_whole(host, "new", tree)
    check_answers(shell)


def _work(shell: SshShell, work: str, tree: Tree, stream: Watched) -> object:
    if work == "command":
        return shell.run(Command(("sleep", "600"), timeout=900))
    if work == "upload":
        shell.put_archive(stream, "/opt/trees/new", tree.digest)
    return None


# -- SSH-4: once ----------------------------------------------------------------------------------------------------------


def counted(rng: random.Random, fault: str, trials: int) -> None:
    """A command that counts, while its connection is lost at some instant before, in or after it: it counted once, and tells all.

    Seen red with each of the faults, when a command whose connection was lost was simply begun again.
    """
    with Lab() as lab:
        host = lab.add("h1")
        shell = SshShell(host.target(), CREDENTIALS, jobs="/var/tmp/jobs")
        for number in range(trials):
            fresh = rng.random() < 0.5
            if fresh:
                shell.close()  # so that the connection may be lost while it is made
            else:
                result(start(lab, lambda: shell.facts), HUNG, "connecting")
            pause = rng.uniform(0.1, 0.6)
            instant = rng.uniform(0, pause + (CONNECTING if fresh else 0.02))
            _count(lab, host, shell, number, pause, instant, lambda under_way: FAULTS[fault](host, under_way, rng))
        shell.close()
        # That one may be forgotten can get lost, too: it is cleared away later.
        wait_until(lambda: not _unended(host), 10, lambda: f"jobs without an end: {_unended(host)}")


def _unended(host: LabHost) -> list[Path]:
    folder = host.disk / "var/tmp/jobs"
    with contextlib.suppress(FileNotFoundError):  # the last one that is forgotten takes it along
        return [path for path in folder.iterdir() if not (path / "end").exists() and path.exists()]
    return []


def _count(
    lab: Lab,
    host: LabHost,
    shell: SshShell,
    number: int,
    pause: float,
    instant: float,
    fail: Callable[[Future[Output]], None],
) -> None:
    script = f"cat >> /root/count-{number}; sleep {pause}; echo out {number}; echo err {number} >&2; exit 7"
    command = Command(("sh", "-c", script), stdin=b"x\n")
    under_way = start(lab, lambda: shell.run(command))
    time.sleep(instant)
    fail(under_way)
    output = result(under_way, HUNG, f"a command whose connection failed after {instant:.3f} s")
    if output != Output(7, f"out {number}\n".encode(), f"err {number}\n".encode()):
        raise Broken(f"failed after {instant:.3f} s: it came back with {output}")
    counter = (host.disk / f"root/count-{number}").read_bytes()
    if counter != b"x\n":
        raise Broken(f"failed after {instant:.3f} s: it ran {counter.count(b'x')} times")


def _kill(host: LabHost, under_way: Future[Output], rng: random.Random) -> None:
    host.kill_connections()


def _cut(host: LabHost, under_way: Future[Output], rng: random.Random) -> None:
    host.cut()
    _let_pass(under_way, rng)
    host.join()


def _drop(host: LabHost, under_way: Future[Output], rng: random.Random) -> None:
    host.drop()
    _let_pass(under_way, rng)
    host.undrop()


def _let_pass(under_way: Future[Output], rng: random.Random) -> None:
    """A moment that TCP gets over by itself, or so long that the connection is lost."""
    with contextlib.suppress(TimeoutError):
        under_way.exception(rng.choice((rng.uniform(0.1, 3), SILENCE + 5, SILENCE + 5)))


FAULTS: Mapping[str, Callable[[LabHost, Future[Output], random.Random], None]] = {
    "kill": _kill,
    "cut": _cut,
    "drop": _drop,
}
