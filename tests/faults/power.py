"""Kills and power cuts while state is written: what was acknowledged is there afterwards, and what is there can be read.

`python -m tests.faults.power kills|cuts COUNT SEED`. A cut is an ext4 of its own on a loop device that is shut down without its log, as when
the power goes; it needs root. Seen red with a store that calls no fsync (FALPLAN_TEST_NO_FSYNC=1): acknowledged steps were gone.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from falplan.core.errors import FalplanError
from falplan.core.state import State
from falplan.stores.state.local import LocalState
from tests.faults.sandbox import Broken, Missing
from tests.stores.state.worker import LINEAGE, entry

SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2
ROOT = Path(__file__).parents[2]
AT_A_TIME = 25


def work(folder: Path, ack: Callable[[str], None], rng: random.Random) -> None:
    """Steps and snapshots, each acknowledged once it is durable, until it can't go on."""
    store = LocalState(folder)
    base = store.save(State("demo", LINEAGE, 0))
    ack(f"s{base.serial}")
    for number in range(10_000):
        address = f"app.main.a{number}"
        store.append(base, entry(address))
        ack(address)
        if rng.random() < 0.3:
            state = store.read("demo")
            assert state is not None
            # Old ones go, so that a snapshot stays small.
            kept = dict(list(state.resources.items())[-5:])
            base = store.save(State("demo", LINEAGE, state.serial, kept))
            ack(f"s{base.serial}")


def check(folder: Path, acknowledged: list[str]) -> None:
    state = LocalState(folder).read("demo")
    serials = [int(a[1:]) for a in acknowledged if a.startswith("s")]
    if state is None:
        if acknowledged:
            raise Broken(f"state is gone, and {acknowledged[-3:]} were acknowledged")
        return
    if serials and state.serial < serials[-1]:
        raise Broken(f"serial {state.serial}, and {serials[-1]} was acknowledged")
    steps = (
        acknowledged[-6:]
        if not serials
        else acknowledged[len(acknowledged) - acknowledged[::-1].index(f"s{serials[-1]}") :]
    )
    lost = (
        [a for a in steps if not a.startswith("s") and a not in state.resources]
        if state.serial == (serials or [0])[-1]
        else []
    )
    if lost:
        raise Broken(f"acknowledged and gone: {lost}")


def kill_one(rng: random.Random) -> None:
    """A process that works is killed at a random instant."""
    folder = Path(tempfile.mkdtemp(prefix="fpf-"))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with os.fdopen(writing, "w", buffering=1) as telling:
                work(folder, lambda text: print(text, file=telling), rng)
        finally:
            os._exit(1)
    os.close(writing)
    try:
        with os.fdopen(reading) as told:
            first = told.readline()  # it is at work
            time.sleep(rng.uniform(0, 0.1))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            acknowledged = [line.strip() for line in (first, *told) if line.endswith("\n")]
        check(folder, acknowledged)
    finally:
        shutil.rmtree(folder)


@contextmanager
def disk() -> Iterator[Path]:
    """An ext4 of 32 MB in a file, mounted."""
    folder = Path(tempfile.mkdtemp(prefix="fpf-"))
    image, at = folder / "image", folder / "at"
    at.mkdir()
    try:
        with image.open("wb") as file:
            file.truncate(32 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(at)], check=True)
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=False, capture_output=True)
        shutil.rmtree(folder)


def cut(at: Path) -> None:
    """The power goes: nothing more is written, not even the file system's log."""
    descriptor = os.open(at, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
    finally:
        os.close(descriptor)


def cut_one(rng: random.Random) -> None:
    """The power goes at a random instant while somebody works; then the machine starts again."""
    with disk() as at:
        acknowledged: list[str] = []
        over = threading.Event()

        def at_work() -> None:
            try:
                work(at / "state", acknowledged.append, rng)
            except (FalplanError, OSError):
                pass  # the disk is off
            finally:
                over.set()

        thread = threading.Thread(target=at_work)
        thread.start()
        while not acknowledged and not over.is_set():
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.15))
        before = list(acknowledged)  # what was told before the cut has to be there after it
        cut(at)
        thread.join(30)
        image = at.parent / "image"
        subprocess.run(["umount", str(at)], check=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(at)], check=True)
        check(at / "state", before)


def can_cut() -> bool:
    """Whether this machine lets a file system of one's own be shut down."""
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        return False
    try:
        with disk() as at:
            cut(at)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def cases(rng: random.Random, full: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    """Whole: 200 kills and 200 cuts; bounded: 30 of each."""
    for what in ("kills", *(["cuts"] if can_cut() else [])):
        for part in range(8 if full else 1):
            seed, count = rng.randrange(2**32), AT_A_TIME if full else 30
            yield f"{count} {what}, part {part} (seed {seed})", lambda w=what, c=count, s=seed: _apart(w, c, s)  # type: ignore[misc]
    if not can_cut():
        yield "power cuts", no_cuts


def no_cuts() -> None:
    raise Missing("root, mkfs.ext4 and an ext4 of its own on a loop device", installable=False)


def _apart(what: str, count: int, seed: int) -> None:
    """In a process with one thread, which may fork."""
    argv = [sys.executable, "-m", "tests.faults.power", what, str(count), str(seed)]
    ran = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
    if ran.returncode != 0:
        raise Broken(ran.stdout + ran.stderr)


def main(what: str, count: int, seed: int) -> None:
    if os.environ.get("FALPLAN_TEST_NO_FSYNC"):
        os.fsync = lambda descriptor: None  # type: ignore[assignment]  # the twin that has to fail
    rng = random.Random(seed)
    for _ in range(count):
        (kill_one if what == "kills" else cut_one)(rng)
    print(f"{count} {what} passed")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
