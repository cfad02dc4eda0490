"""Starts, observes, stops and forgets the runners of one folder. Knows what lies on its machine, and nothing of why.

`python -I -S agent.py` reads one JSON object {verb, root, ...} from standard input and prints one: {"ok": ...} or {"error": text}.
Runners lie in ROOT/runners/ID/. A process is never signalled by its pid alone: pid, start time and boot must be those of the status
file, or its environment must carry the runner's mark for this very folder. Every verb may be repeated.
Needs Python 3.9 and its standard library alone.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import time

TYPE_CHECKING = False  # importing typing costs time at each start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Table = Callable[[], dict[str, list[int]]]

LINUX = sys.platform.startswith("linux")
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER", "LOGNAME", "SHELL", "XDG_RUNTIME_DIR")


# -- processes ------------------------------------------------------------------------------------------------------------


def boot_id() -> str:
    """A text that changes with every boot."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        done = subprocess.run(["sysctl", "-n", "kern.bootsessionuuid"], check=False, capture_output=True, text=True)
        return done.stdout.strip()


def start_of(pid: int) -> str | None:
    """The start time of a living process, zombies not among them; None if there is none."""
    if not LINUX:
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


def folder_for(root: str, runner_id: str) -> str:
    """Where a runner lies. Ids are single names."""
    if not runner_id or runner_id.startswith(".") or "/" in runner_id or "\0" in runner_id:
        raise ValueError(f"{runner_id!r} is no runner id")
    return os.path.join(os.path.realpath(root), "runners", runner_id)


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


def look(folder: str, marked: Table) -> dict[str, Any]:
    """What there is to know of a runner. `marked()` gives the mark table, and is called only if it is needed."""
    status = read_json(os.path.join(folder, "status.json")) or {}
    alive = is_locked(folder)
    if not alive and status.get("state") != "EXITED":
        status = read_json(os.path.join(folder, "status.json")) or status  # it may have ended in between
    state = status.get("state", "STARTING" if alive else "ABSENT")
    survivors: list[int] = []
    reason = status.get("reason", "")
    if not alive and state != "EXITED":
        survivors = marked().get(folder, [])
        reason = "it was never started" if state == "ABSENT" else lost_reason(status)
        state = "ABSENT" if state == "ABSENT" and not survivors else "LOST"
    return {
        **status,
        "runner_id": os.path.basename(folder),
        "state": state,
        "alive": alive,
        "reason": reason,
        "survivors": survivors,
    }


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


# -- verbs ----------------------------------------------------------------------------------------------------------------


def start(request: dict[str, Any]) -> dict[str, Any]:
    """Start a runner once. A second call, at any time, finds what became of the first."""
    config = request["config"]
    folder = folder_for(request["root"], config["runner_id"])
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with open(os.path.join(folder, "start.lock"), "ab") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # calls at the same time take turns; all but the first find a live one
        if look(folder, mark_table())["state"] == "ABSENT":
            config = {**config, "cwd": work_folder(folder, request.get("files"), config.get("cwd"))}
            write_whole(os.path.join(folder, "runner.json"), json.dumps(config).encode())
            call_supervisor(folder, request)
    return wait_for(folder, lambda seen: seen["state"] not in ("ABSENT", "STARTING"), 5.0)


def work_folder(folder: str, files: str | None, cwd: str | None) -> str:
    """The folder to run in: one of the runner's own with links to `files`, so that what an app writes stays its own."""
    if not files:
        return cwd or folder
    work, temporary = os.path.join(folder, "work"), os.path.join(folder, "work.tmp")
    if not os.path.isdir(work):
        remove_tree(temporary)
        for base, _, names in os.walk(files):
            target = os.path.normpath(os.path.join(temporary, os.path.relpath(base, files)))
            os.mkdir(target, 0o700)
            for name in names:
                link(os.path.join(base, name), os.path.join(target, name))
        os.rename(temporary, work)
    return os.path.join(work, cwd) if cwd and not os.path.isabs(cwd) else cwd or work


def link(source: str, target: str) -> None:
    """A hard link, or a copy where there can be none."""
    try:
        os.link(source, target)
    except OSError:
        import shutil

        shutil.copy2(source, target)


def call_supervisor(folder: str, request: dict[str, Any]) -> None:
    """Run the supervisor until it is a daemon. Status 3: another call was first, which is just as well."""
    env = {n: os.environ[n] for n in PASSED_ON if n in os.environ}
    done = subprocess.run(
        [sys.executable, "-I", "-S", request["supervisor"], folder],
        check=False,
        input=json.dumps({"secrets": request.get("secrets") or {}}).encode(),
        env=env,
        cwd="/",
        capture_output=True,
        timeout=30,
    )
    if done.returncode not in (0, 3):
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise RuntimeError(f"the supervisor can't be started: {said[-1] if said else f'status {done.returncode}'}")


def wait_for(folder: str, true: Callable[[dict[str, Any]], bool], seconds: float) -> dict[str, Any]:
    """Look until something is true or time is up."""
    deadline = time.monotonic() + seconds
    while True:
        seen = look(folder, mark_table())
        if true(seen) or time.monotonic() >= deadline:
            return seen
        time.sleep(0.01)


def observe(request: dict[str, Any]) -> list[dict[str, Any]]:
    """All runners of the root, sorted by id."""
    base = os.path.join(os.path.realpath(request["root"]), "runners")
    table = mark_table()
    return [look(os.path.join(base, name), table) for name in names_in(base)]


def names_in(base: str) -> list[str]:
    """Runner folders, sorted; those being removed are not among them."""
    try:
        return sorted(n for n in os.listdir(base) if not n.startswith("."))
    except FileNotFoundError:
        return []


def stop(request: dict[str, Any]) -> dict[str, Any]:
    """Tell the supervisor to end the app. Returns after at most `wait` seconds with what is then seen."""
    folder = folder_for(request["root"], request["runner_id"])
    found = look(folder, mark_table())
    who = found.get("supervisor")
    if found["alive"] and who:
        send(who["pid"], signal.SIGTERM, lambda pid: is_same(who) and is_locked(folder))
    return wait_for(folder, lambda seen: not seen["alive"], float(request.get("wait") or 0))


def kill(request: dict[str, Any]) -> dict[str, Any]:
    """End the supervisor, the app and all that carries the mark, at once. Returns what is then seen."""
    folder = folder_for(request["root"], request["runner_id"])
    found = look(folder, mark_table())
    who, child = found.get("supervisor"), found.get("child")
    if found["alive"] and who:
        send(who["pid"], signal.SIGKILL, lambda pid: is_same(who) and is_locked(folder))
    if child and is_same(child):
        send(child["pid"], signal.SIGKILL, lambda pid: is_same(child))
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        left = marks().get(folder, [])
        for pid in left:
            send(pid, signal.SIGKILL, lambda pid: folder_of(pid) == folder)
        if not left and not is_locked(folder):
            break
        time.sleep(0.01)
    clear_leftovers(found)
    return look(folder, mark_table())


def clear_leftovers(status: dict[str, Any]) -> None:
    """What a supervisor that was killed could not remove: its control group, and a socket's short folder."""
    group, sockets = status.get("cgroup"), status.get("socket_folder")
    if group and os.path.basename(group) == f"falplan-{status['runner_id']}":
        try:
            os.rmdir(group)
        except OSError:
            pass
    if sockets and os.path.basename(os.path.dirname(sockets)).startswith("falplan"):
        remove_tree(sockets)


def forget(request: dict[str, Any]) -> None:
    """Remove the folder of a runner that is gone. One that is alive is refused."""
    folder = folder_for(request["root"], request["runner_id"])
    found = look(folder, mark_table())
    if found["alive"] or found["survivors"]:
        raise RuntimeError(f"{request['runner_id']} is still alive")
    clear_leftovers(found)
    try:
        os.rename(folder, os.path.join(os.path.dirname(folder), f".gone-{os.path.basename(folder)}"))
    except FileNotFoundError:
        pass
    except OSError:
        remove_tree(folder)
    remove_tree(os.path.join(os.path.dirname(folder), f".gone-{os.path.basename(folder)}"))
    return


def remove_tree(path: str) -> None:
    """Remove a folder, read-only or not. Nothing there is no error."""
    for base, folders, names in os.walk(path, topdown=False):
        os.chmod(base, stat.S_IRWXU)
        for name in names:
            os.unlink(os.path.join(base, name))
        for name in folders:
            below = os.path.join(base, name)
            os.unlink(below) if os.path.islink(below) else os.rmdir(below)
    try:
        os.rmdir(path)
    except FileNotFoundError:
        pass


def strays(request: dict[str, Any]) -> list[str]:
    """Ids of runners of this root that are alive, or have left processes, and are not known."""
    base = os.path.join(os.path.realpath(request["root"]), "runners")
    known, table = set(request["known"]), mark_table()
    found = {os.path.basename(f) for f in table() if os.path.dirname(f) == base}
    found |= {n for n in names_in(base) if n not in known}
    return sorted(found - known)


VERBS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "start": start,
    "observe": observe,
    "stop": stop,
    "kill": kill,
    "forget": forget,
    "strays": strays,
}


def main() -> int:
    """Answer one request. It may hold secrets: nothing of this process is ever dumped."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    request = json.loads(sys.stdin.buffer.read())
    try:
        answer = {"ok": VERBS[request["verb"]](request)}
    except (OSError, RuntimeError, ValueError, subprocess.TimeoutExpired) as exc:
        answer = {"error": f"{exc.filename}: {exc.strerror}" if isinstance(exc, OSError) and exc.filename else str(exc)}
    sys.stdout.write(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
