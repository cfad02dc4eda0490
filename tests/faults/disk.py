"""A disk that fails: every call of the system that state makes in an apply fails once, and a disk that is full stays full.

strace makes the calls fail (`inject=…:when=N`), so nothing of falplan knows of it. The world is on another path, which never fails.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults.cheap import Cheap, cheap, no_bug
from tests.faults.sandbox import Broken, Missing, Ran

CALLS = ("openat", "write", "pwrite64", "fsync", "fdatasync", "rename", "close", "unlink", "link", "ftruncate", "mkdir")
ERRORS = ("ENOSPC", "EIO")
BOUNDED = 12


def files(box: Cheap) -> list[str]:
    """What state writes on this machine."""
    names = (
        "",
        "state.json",
        ".state.json.new",
        "state.journal",
        "state.lock",
        "backups",
        "backend.json",
        ".backend.json.new",
    )
    return [str(box.state_folder / name) if name else str(box.state_folder) for name in names]


def traced(box: Cheap, log: Path, *inject: str) -> list[str]:
    paths = [part for path in files(box) for part in ("-P", path)]
    return ["strace", "-f", "--seccomp-bpf", "-ttt", "-o", str(log), *paths, "-e", f"trace={','.join(CALLS)}", *inject]


def available() -> bool:
    """Whether this machine lets a process be traced."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode == 0


def calls_of_an_apply(second: bool) -> list[tuple[str, int]]:
    """(call, number) of every call on the state's files in one apply: what can fail. Numbers count for each thread by itself."""
    with cheap() as box:
        if second:
            box.must("apply", "--auto-approve")
        log = box.folder / "strace"
        ran = box.run(*_apply(box, second), before=traced(box, log))
        if ran.code != 0:
            raise Broken(f"an apply under strace failed: {ran.code}\n{ran.err}")
        counts: Counter[tuple[str, str]] = Counter()
        for line in log.read_text().splitlines():
            found = re.match(r"(\d+) +[\d.]+ (\w+)\(", line)
            if found:
                counts[found[1], found[2]] += 1
    most: dict[str, int] = {}
    for (_, call), count in counts.items():
        most[call] = max(most.get(call, 0), count)
    return [(call, number) for call, count in sorted(most.items()) for number in range(1, count + 1)]


def _apply(box: Cheap, second: bool) -> tuple[str, ...]:
    return (*_wish(box, second), "apply", "--auto-approve", "--parallelism", "1")


def _wish(box: Cheap, second: bool) -> tuple[str, ...]:
    return box.wish("me") if second else ()


def failing_call(call: str, number: int, error: str, second: bool) -> bool:
    """One apply in which one call fails. Nothing is lost, nothing is begun after it, and it converges. False if the call was never made."""
    with cheap() as box:
        if second:
            box.must("apply", "--auto-approve")
        before = len(box.lines())
        log = box.folder / "strace"
        inject = ("-e", f"inject={call}:error={error}:when={number}")
        ran = box.run(*_apply(box, second), before=traced(box, log, *inject))
        text = log.read_text()
        if "(INJECTED)" not in text:
            return False
        check(box, ran, begun_after(box, text) if ran.code in (1, 5) else [], before)
        box.check_nothing_lost()
        box.check_converges(*_wish(box, second))
        return True


def check(box: Cheap, ran: Ran, after: list[str], before: int) -> None:
    no_bug(ran)
    if ran.code not in (0, 1, 5, 6):
        raise Broken(f"exit {ran.code}\n{ran.out}\n{ran.err}")
    if ran.code == 6 and len(box.lines()) != before:
        raise Broken(f"refused, and something was done\n{ran.err}")
    if ran.code in (1, 5) and not re.search(r"falplan apply|try again|Make room", ran.err):
        raise Broken(f"it does not say what to do\n{ran.err}")
    if after:
        raise Broken(f"begun after the failure: {after}\n{ran.err}")


def begun_after(box: Cheap, text: str) -> list[str]:
    """Addresses whose operations began after the call that failed."""
    failed = next(float(line.split()[1]) for line in text.splitlines() if "(INJECTED)" in line)
    return [line["address"] for line in box.lines() if line["is"] == "begun" and line["at"] > failed]


def full_disk(size: int) -> None:
    """State on a disk of `size` kB, which fills: what does not fit there goes elsewhere, and it converges once there is room."""
    with cheap(apps=40) as box:
        disk = box.state_folder
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(disk)], check=True)
        try:
            ran = box.run("apply", "--auto-approve")
            no_bug(ran)
            if ran.code not in (1, 5):
                raise Broken(
                    f"a disk of {size} kB took it all, or it was not told: exit {ran.code}\n{ran.out}\n{ran.err}"
                )
            box.check_nothing_lost()
            subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
            box.check_converges()
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)


def mounts() -> bool:
    """Whether this process may mount a file system of its own."""
    with cheap() as box:
        box.state_folder.mkdir()
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "tmpfs", str(box.state_folder)], capture_output=True, check=False
        )
        if made.returncode == 0:
            subprocess.run(["umount", str(box.state_folder)], check=True)
        return made.returncode == 0


def cases(rng: random.Random, full: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    """(name, what to run). Whole: every call × each error, of a first apply and of a second one; disks of many sizes."""
    if not available():
        yield "calls of the system that fail", missing
        return
    found = [
        (call, number, error, second)
        for second in (False, True)
        for call, number in calls_of_an_apply(second)
        for error in ERRORS
    ]
    rng.shuffle(found)
    for call, number, error, second in found if full else found[:BOUNDED]:
        name = f"{call} {number} fails with {error} in the {'second' if second else 'first'} apply"
        yield name, lambda c=call, n=number, e=error, s=second: failing_call(c, n, e, s)  # type: ignore[misc]
    if mounts():
        sizes = range(16, 80, 4) if full else [rng.choice(range(16, 80, 4))]
        for size in sizes:
            yield f"a disk of {size} kB", lambda size=size: full_disk(size)  # type: ignore[misc]
    else:
        yield "a disk that fills", no_mounts


def missing() -> None:
    raise Missing("strace, and the right to trace")


def no_mounts() -> None:
    raise Missing("the right to mount a tmpfs", installable=False)
