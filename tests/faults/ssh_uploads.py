"""Uploads that are cut off: by the network, by the death of whoever sends, by a disk that is full. A folder is there whole, or not at all."""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import psutil

from falplan.runner.placing import PART, seal
from falplan.sdk.ssh import SshShell
from falplan.sdk.trees import TreeFile, tree_digest, write_archive
from falplan.sdk.values import Command
from tests.lab.loopback import CREDENTIALS
from tests.lab.namespaces import Lab, LabHost

from .sandbox import Broken, Ran, wait_until
from .ssh_client import Watched, after, is_hand

ON_THEIR_WAY = 12 << 20
"""Bytes that a resumed upload may bring again: those that were sent, and not yet written when the connection broke."""
LONG = 120.0
"""Seconds that one upload may take, with all that befalls it."""
TREES = "opt/trees"


@dataclass(frozen=True)
class Tree:
    """What is uploaded."""

    archive: bytes
    digest: str


@functools.cache
def noise(size: int) -> Tree:
    """A tree of about so many bytes that can't be compressed; the same one each time."""
    rng = random.Random(size)
    return _tree({"weights": rng.randbytes(size), "app.py": rng.randbytes(2000), "lib/a/b": rng.randbytes(1000)})


@functools.cache
def zeros(size: int) -> Tree:
    """One whose archive is far smaller than it is."""
    return _tree({"zeros": bytes(size)})


@functools.cache
def crowd(count: int) -> Tree:
    """One of many files, each of which takes the disk a moment."""
    rng = random.Random(count)
    return _tree({f"lib/{number}.py": rng.randbytes(10_000) for number in range(count)})


def _tree(files: Mapping[str, bytes]) -> Tree:
    archive = io.BytesIO()
    write_archive([TreeFile(path, content) for path, content in files.items()], archive)
    return Tree(archive.getvalue(), seal({path: hashlib.sha256(c).hexdigest() for path, c in files.items()}))


OLD = noise(1 << 16)
"""What is there before each trial, and has to be there after it."""


def parts(full: bool) -> Iterator[tuple[str, Callable[[random.Random], None]]]:
    for number in range(10 if full else 1):
        yield f"uploads are cut off {number}", partial(cut_off, trials=10 if full else 3)
    for number in range(10 if full else 1):
        yield f"whoever uploads is killed {number}", partial(killed, trials=9 if full else 2)
    yield "whoever uploads falls asleep", asleep
    for number in range(9 if full else 1):
        yield f"uploads fill a disk {number}", full_disk


def cut_off(rng: random.Random, trials: int) -> None:
    """sshd crashes when a random part of an upload was sent: it goes on where it was, and is whole.

    Seen red when a tree was unpacked in its place, when an upload began again or a little too early without a check of its hash, and
    when what the one before left was not swept.
    """
    with Lab() as lab, lab.inside():
        host = lab.add("h1")
        shell = SshShell(host.target(), CREDENTIALS)
        _put_old(shell)
        for number in range(trials):
            tree = crowd(400) if number == 0 else noise(rng.choice((20, 40, 60)) << 20)
            at, later = _instant(rng, len(tree.archive), last=number == 0)
            moment = after(1e-6, partial(_kill_unpacking, host, later)) if later else host.kill_connections
            stream = Watched(tree.archive, at, moment)
            shell.put_archive(stream, f"/{TREES}/new", tree.digest)
            check_whole(host, "new", tree)
            if stream.sent > len(tree.archive) + ON_THEIR_WAY:
                raise Broken(f"cut off at {at} of {len(tree.archive)} bytes, {stream.sent} were sent: it began again")
            _check_tidy(host)
            shell.remove(f"/{TREES}/new")
        shell.close()


def _kill_unpacking(host: LabHost, later: float) -> None:
    """End the connections so many seconds after the archive began to be unpacked."""
    wait_until(lambda: any(path.is_dir() for path in _unfinished(host)), 30)
    time.sleep(later)
    host.kill_connections()


def _instant(rng: random.Random, size: int, last: bool) -> tuple[int, float]:
    """(after how many bytes, and how many seconds later) something fails. `last`: all was sent, and is being put in place."""
    return (size, rng.uniform(0.001, 0.3)) if last else (rng.randrange(1, size), 0.0)


def killed(rng: random.Random, trials: int) -> None:
    """SIGKILL to the client when a random part was sent: nothing or the whole is there, and another client goes on.

    Seen red when an upload began again from nothing.
    """
    with Lab() as lab, lab.inside():
        host = lab.add("h1")
        shell = SshShell(host.target(), CREDENTIALS)
        _put_old(shell)
        shell.close()
        for number in range(trials):
            tree = crowd(400) if number == 0 else noise(rng.choice((20, 40, 60)) << 20)
            instant = _instant(rng, len(tree.archive), last=number == 0)
            _kill_client(host, tree, *instant, at_once=rng.random() < 0.5)
            shell.remove(f"/{TREES}/new")
            shell.close()


def _kill_client(host: LabHost, tree: Tree, at: int, later: float, *, at_once: bool) -> None:
    """`at_once`: the other client comes while the first one's hand may still write what was on its way."""
    first = _put_in_a_process(host, tree, die_at=at, die_after=later)
    if first.code != -signal.SIGKILL and not later:
        raise Broken(f"the client was to die at {at} bytes, and ended with {first.code}\n{first.err}")
    there = 0
    if not at_once:
        wait_until(lambda: not any(map(is_hand, host.processes())), 30, lambda: "a hand stays, though nobody is there")
        there = sum(path.stat().st_size for path in _unfinished(host) if path.is_file())  # of one upload
        if (host.disk / TREES / "new").exists():
            check_whole(host, "new", tree)
        elif there < at - ON_THEIR_WAY:
            raise Broken(f"of {at} bytes that were sent, {there} are kept")
    second = _put_in_a_process(host, tree, die_at=-1)
    if second.code:
        raise Broken(f"after a death at {at} of {len(tree.archive)} bytes, another client ended so:\n{second.err}")
    sent = json.loads(second.out)["sent"]
    if there and sent > len(tree.archive) - there:
        raise Broken(f"{there} of {len(tree.archive)} bytes were there, and {sent} were sent again")
    check_whole(host, "new", tree)
    _check_tidy(host)


def asleep(rng: random.Random) -> None:
    """A client that stops for long does not keep another one from uploading the same, and finds it done when it goes on.

    To the host, one whose network was lost looks the same. Seen red when a hand waited for the next piece without end.
    """
    with Lab() as lab, lab.inside():
        host = lab.add("h1")
        tree = noise(20 << 20)
        first = _start_to_put(host, tree, die_at=rng.randrange(1, len(tree.archive)), sleep=True)
        try:
            wait_until(lambda: psutil.Process(first.pid).status() == psutil.STATUS_STOPPED, 30)
            second = _put_in_a_process(host, tree, die_at=-1)
            first.send_signal(signal.SIGCONT)
            _, errors = first.communicate(timeout=LONG)
        finally:
            first.kill()
            first.communicate()
    if second.code or first.returncode:
        raise Broken(f"another client: {second.code} {second.err}, the one that slept: {first.returncode} {errors}")


def _put_in_a_process(host: LabHost, tree: Tree, *, die_at: int, die_after: float = 0.0) -> Ran:
    with _start_to_put(host, tree, die_at=die_at, die_after=die_after) as process:
        try:
            out, errors = process.communicate(timeout=LONG)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Broken(f"an upload hangs for {LONG:g} s") from None
    return Ran(process.returncode, out, errors)


def _start_to_put(
    host: LabHost, tree: Tree, *, die_at: int, die_after: float = 0.0, sleep: bool = False
) -> subprocess.Popen[str]:
    archive = host.lab.folder / "archive"
    archive.write_bytes(tree.archive)
    request = {
        "do": "put",
        "target": asdict(host.target()),
        "archive": str(archive),
        "folder": f"/{TREES}/new",
        "digest": tree.digest,
        "die_at": die_at,
        "die_after": die_after,
        "sleep": sleep,
    }
    argv = [sys.executable, "-m", "tests.faults.ssh_client", json.dumps(request)]
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)


def full_disk(rng: random.Random) -> None:
    """An archive that does not fit, a tree that does not, and both at once: nothing is left, the error says where, and all works again.

    Seen red when the archive was kept, or a tree was unpacked in its place.
    """
    with Lab() as lab, lab.inside():
        host = lab.add("h1")
        shell = SshShell(host.target(), CREDENTIALS)
        disk = "/opt/small"
        shell.run(Command(("mkdir", "-p", disk)))
        _must(shell, "mount", "-t", "tmpfs", "-o", f"size={rng.randrange(8, 12)}m", "tmpfs", disk)
        for tree in (noise(20 << 20), zeros(20 << 20), noise(7 << 20)):
            _fill(shell, disk, tree)
        _must(shell, "mount", "-o", "remount,size=64m", disk)
        shell.put_archive(io.BytesIO(zeros(20 << 20).archive), f"{disk}/trees/new", zeros(20 << 20).digest)
        shell.close()


def _fill(shell: SshShell, disk: str, tree: Tree) -> None:
    try:
        shell.put_archive(io.BytesIO(tree.archive), f"{disk}/trees/new", tree.digest)
    except OSError as exc:
        if exc.errno != errno.ENOSPC or f"(on {shell.target.name})" not in str(exc):
            raise Broken(f"a full disk is reported as {exc!r}") from exc
    else:
        raise Broken("an upload fits where there is no room for it")
    left = _must(shell, "find", f"{disk}/trees", "-mindepth", "1").split()
    if left:
        raise Broken(f"left on a full disk: {left}")


def _must(shell: SshShell, *argv: str) -> str:
    output = shell.run(Command(argv))
    if output.code:
        raise Broken(f"{' '.join(argv)}: {output.stderr.decode()}")
    return output.stdout.decode()


def _put_old(shell: SshShell) -> None:
    shell.put_archive(io.BytesIO(OLD.archive), f"/{TREES}/old", OLD.digest)


def check_whole(host: LabHost, name: str, tree: Tree) -> None:
    """What lies there is this tree; seen on the host's disk, not through what is tested."""
    found = tree_digest(host.disk / TREES / name)
    if found != tree.digest:
        raise Broken(f"{name} holds {found[:12]}, and should hold {tree.digest[:12]}")


def _check_tidy(host: LabHost) -> None:
    check_whole(host, "old", OLD)
    wait_until(lambda: not _unfinished(host), 5, lambda: f"left over: {_unfinished(host)}")


def _unfinished(host: LabHost) -> list[Path]:
    return sorted((host.disk / TREES).glob(f"{PART}*"))
