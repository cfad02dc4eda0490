"""Which processes are a runner's, and how its folder shows it. Never trusts a pid alone. Changes nothing but by `send`.

A part of the agent: lies beside it on each machine. Needs Python 3.9 and its standard library alone.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import sys

TYPE_CHECKING = False  # importing typing costs time at each start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Table = Callable[[], dict[str, list[int]]]

SPOILED = "spoiled"
"""The file in a runner's folder that says: somebody changed what it is run from, it is to be replaced."""
LINUX = sys.platform.startswith("linux")
BOOT = 60.0  # seconds after the start of process 1 within which systemd may have units to start yet


def fp(name: str) -> None:
    """A failpoint of a script: `kill` alone, and for this process alone. See `falplan.sdk.failpoints`."""
    if f"{name}=kill;" in os.environ.get("FALPLAN_FAILPOINTS", "") + ";":
        os.kill(os.getpid(), signal.SIGKILL)


# -- processes ------------------------------------------------------------------------------------------------------------


def boot_id() -> str:
    """A text that changes with every boot."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        import subprocess

        done = subprocess.run(["sysctl", "-n", "kern.bootsessionuuid"], check=False, capture_output=True, text=True)
        return done.stdout.strip()


def start_of(pid: int) -> str | None:
    """The start time of a living process, zombies not among them; None if there is none."""
    if not LINUX:
        import subprocess

        done = subprocess.run(
            ["ps", "-o", "stat=,lstart=", "-p", str(pid)], check=False, capture_output=True, text=True
        )
        letter, _, start = done.stdout.strip().partition(" ")
        return start.strip() if letter and letter[0] != "Z" else None
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return fields[19].decode() if fields[0] not in (b"Z", b"X") else None


def is_same(who: dict[str, Any] | None) -> bool:
    """Whether the process that an identity names is alive."""
    return who is not None and who["boot_id"] == boot_id() and start_of(who["pid"]) == who["start"]


def send(pid: int, number: int, still: Callable[[int], bool]) -> bool:
    """Signal a process if `still(pid)` holds once it is pinned, so that a reused pid is never hit. Whether it was sent."""
    if not hasattr(os, "pidfd_open"):
        return still(pid) and _kill(pid, number)
    try:
        handle = os.pidfd_open(pid)
    except OSError as exc:
        return exc.errno == errno.ENOSYS and still(pid) and _kill(pid, number)
    try:
        if not still(pid):
            return False
        signal.pidfd_send_signal(handle, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)


def _kill(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def marks() -> dict[str, list[int]]:
    """Runner folder -> living processes that carry its mark. Linux only; elsewhere empty."""
    found: dict[str, list[int]] = {}
    for name in os.listdir("/proc") if LINUX else ():
        if name.isdigit():
            folder = folder_of(int(name))
            if folder and start_of(int(name)):
                found.setdefault(folder, []).append(int(name))
    return found


def folder_of(pid: int) -> str | None:
    """The runner folder that a process's environment names, or None."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return None
    if not any(v.startswith(b"FALPLAN_RUNNER=") for v in variables):
        return None
    return next((os.fsdecode(v[22:]) for v in variables if v.startswith(b"FALPLAN_RUNNER_FOLDER=")), None)


# -- one runner's folder --------------------------------------------------------------------------------------------------


def is_locked(folder: str) -> bool:
    """Whether a supervisor holds the folder's lock."""
    try:
        handle = os.open(os.path.join(folder, "lock"), os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(handle)


def read_json(path: str) -> Any:
    """A JSON file's value, or None if there is none or it is not whole."""
    try:
        with open(path, "rb") as file:
            return json.loads(file.read())
    except (OSError, ValueError):
        return None


def write_whole(path: str, content: bytes) -> None:
    """Replace a file durably, so that readers see the old or the new one."""
    temporary = f"{path}.tmp"
    with open(temporary, "wb", opener=lambda p, f: os.open(p, f, 0o600)) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    flush(os.path.dirname(path))


def flush(folder: str) -> None:
    """Make a rename in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_tree(path: str) -> None:
    """Remove a folder, read-only or not. Nothing there is no error."""
    for base, folders, names in os.walk(path, topdown=False):
        os.chmod(base, 0o700)
        for name in names:
            os.unlink(os.path.join(base, name))
        for name in folders:
            below = os.path.join(base, name)
            os.unlink(below) if os.path.islink(below) else os.rmdir(below)
    try:
        os.rmdir(path)
    except FileNotFoundError:
        pass


def look(folder: str, marked: Table) -> dict[str, Any]:
    """What there is to know of a runner, its labels too. `marked()` gives the mark table, and is called only if it is needed."""
    status = read_json(os.path.join(folder, "status.json")) or {}
    alive = is_locked(folder)
    if not alive and status.get("state") != "EXITED":
        status = read_json(os.path.join(folder, "status.json")) or status  # it may have ended in between
    state = status.get("state", "STARTING" if alive else "ABSENT")
    survivors: list[int] = []
    reason = status.get("reason", "")
    if not alive and is_coming(folder, status):
        alive, state, reason = True, "STARTING", "the machine was restarted, and brings it back"
    if not alive and state != "EXITED":
        survivors = sorted({*marked().get(folder, []), *in_container(folder)})
        reason = "it was never started" if state == "ABSENT" else lost_reason(status)
        state = "ABSENT" if state == "ABSENT" and not survivors else "LOST"
    elif not alive and status.get("left"):
        survivors = in_container(folder)  # its engine did not answer when it ended
    return {
        **status,
        "runner_id": os.path.basename(folder),
        "state": state,
        "alive": alive,
        "reason": reason,
        "survivors": survivors,
        "spoiled": os.path.exists(os.path.join(folder, SPOILED)),
        "labels": (read_json(os.path.join(folder, "runner.json")) or {}).get("labels") or {},
    }


def in_container(folder: str) -> list[int]:
    """Processes of a runner's container that lives; of other runners none."""
    if not os.path.isdir(os.path.join(os.path.dirname(os.path.dirname(folder)), "containers")):
        return []  # no runner here ever was one
    if TYPE_CHECKING or __package__:
        from falplan.runner import containers
    else:
        import containers
    return containers.pids(folder)


def is_coming(folder: str, status: dict[str, Any]) -> bool:
    """Whether the machine was just restarted, and its systemd has yet to start the runner again."""
    if not os.path.exists(os.path.join(folder, "unit.json")) or os.path.exists(os.path.join(folder, "ending")):
        return False
    if status.get("state") == "EXITED" and not status.get("unit_stopped"):
        return False
    first, who = start_of(1), status.get("supervisor")
    if not first or not who:
        return False
    earlier = who["boot_id"] != boot_id() or int(who["start"]) < int(first)
    with open("/proc/uptime", encoding="ascii") as file:
        up = float(file.read().split()[0]) - int(first) / os.sysconf("SC_CLK_TCK")
    return earlier and 0 <= up < BOOT


def lost_reason(status: dict[str, Any]) -> str:
    """Why a supervisor that wrote no end is no more."""
    who = status.get("supervisor") or {}
    if who.get("boot_id") and who["boot_id"] != boot_id():
        return "the machine was restarted"
    return "its supervisor was killed"


def mark_table() -> Table:
    """The mark table, read at most once."""
    cache: list[dict[str, list[int]]] = []

    def table() -> dict[str, list[int]]:
        if not cache:
            cache.append(marks())
        return cache[0]

    return table
