"""Starts, observes, stops and forgets the runners of one folder. Knows what lies on its machine, and nothing of why.

`python -I -S agent.py` reads one JSON object {verb, root, ...} from standard input and prints one: {"ok": ...} or {"error": text}; what
the machine's ledger declines has a "kind" and an "owner" beside the error. Verbs that carry a "fence" act only while its claim holds.
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
import sys
import time

TYPE_CHECKING = False  # importing typing costs time at each start, as does subprocess, a fifth of it
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

if TYPE_CHECKING or __package__:
    from falplan.runner import containers, foreign, images, ledger, units
    from falplan.runner.processes import folder_of, fp, is_locked, is_same, look, mark_table, marks, remove_tree, send
    from falplan.runner.rules import Refusal
else:  # a script finds its neighbours only if it is told where: -I keeps its folder off the path
    if "__file__" in globals():  # as a part of a hand it is no file, and neither are they
        sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import containers
    import foreign
    import images
    import ledger
    import units
    from processes import folder_of, fp, is_locked, is_same, look, mark_table, marks, remove_tree, send
    from rules import Refusal

PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER", "LOGNAME", "SHELL", "XDG_RUNTIME_DIR")
GONE = ".gone"
"""What the name of a home ends with that is being removed."""
RAISED = (OSError, RuntimeError, ValueError, containers.EngineFailed)


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
            if request.get("unit"):
                config["secrets"] = bool(given_to(request))
            foreign.write_settings(folder, json.dumps(config).encode())
            if config.get("container"):
                containers.note_use(containers.home_of(folder), config["container"]["engine"])
            with Fenced(request) as held:  # held until it is there: nobody takes the machine, or its room, in between
                held.reserve(folder)
                fp("agent.start.after_reserve")
                if request.get("unit"):
                    start_unit(folder, request)
                else:
                    call_supervisor(folder, request)
                fp("agent.start.after_supervisor")
        if request.get("unit") and given_to(request):
            give_secrets(folder, given_to(request))
    return wait_for(folder, lambda seen: seen["state"] not in ("ABSENT", "STARTING"), 5.0)


def given_to(request: dict[str, Any]) -> dict[str, Any]:
    """What a runner gets that lies nowhere: its secrets, and what its TLS front needs. Empty if it gets neither."""
    given = {name: request[name] for name in ("secrets", "front") if request.get(name)}
    return {"secrets": {}, **given} if given else {}


class Fenced:
    """The machine's ledger, held while something is done to a runner. A request without a fence needs none."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request, self.fence = request, request.get("fence")
        self.turn = ledger.Turn() if self.fence else None

    def __enter__(self) -> Fenced:
        if self.turn and self.fence:
            self.turn.__enter__()
            try:
                self.turn.check(self.fence)
            except BaseException:
                self.turn.__exit__()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.turn:
            self.turn.__exit__()

    def reserve(self, folder: str) -> None:
        """Record what the runner takes, if the request says."""
        if self.turn and self.fence and self.request.get("reserve"):
            self.turn.reserve(folder, os.path.realpath(self.request["root"]), self.fence, self.request["reserve"])

    def drop(self, folder: str, seen: dict[str, Any]) -> None:
        """What a runner that is gone took is free."""
        if self.turn and not seen["alive"] and not seen["survivors"]:
            self.turn.drop(folder)


def folder_for(root: str, runner_id: str) -> str:
    """Where a runner lies. Ids are single names."""
    if not runner_id or runner_id.startswith(".") or "/" in runner_id or "\0" in runner_id:
        raise ValueError(f"{runner_id!r} is no runner id")
    return os.path.join(os.path.realpath(root), "runners", runner_id)


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
    import subprocess

    names = (*PASSED_ON, *(containers.VARIABLES if request["config"].get("container") else ()))
    env = {n: os.environ[n] for n in names if n in os.environ}
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", request["supervisor"], folder],
            check=False,
            input=json.dumps(given_to(request)).encode(),
            env=env,
            cwd="/",
            capture_output=True,
            timeout=30,
        )
    except subprocess.TimeoutExpired as exc:
        raise RuntimeError(str(exc)) from exc
    if done.returncode not in (0, 3):
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise RuntimeError(f"the supervisor can't be started: {said[-1] if said else f'status {done.returncode}'}")


def start_unit(folder: str, request: dict[str, Any]) -> None:
    """Have systemd keep the runner. Its secrets come by a fifo, and lie nowhere."""
    fifo = os.path.join(folder, "secrets")
    if not os.path.exists(fifo):
        os.mkfifo(fifo, 0o600)
    units.start(folder, request["unit"], request["supervisor"])


def give_secrets(folder: str, given: dict[str, Any]) -> None:
    """Write them to the runner if it waits for them, as it does after each start of its unit."""
    over = ("READY", "STOPPING", "EXITED", "LOST")
    seen = wait_for(folder, lambda seen: is_waiting(seen) or seen["state"] in over, 10.0)
    if not is_waiting(seen):
        return
    line = json.dumps(given).encode() + b"\n"
    deadline = time.monotonic() + 10
    while True:
        try:
            handle = os.open(os.path.join(folder, "secrets"), os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError as exc:
            if exc.errno != errno.ENXIO or time.monotonic() >= deadline:
                raise
            time.sleep(0.01)
    os.set_blocking(handle, True)
    with os.fdopen(handle, "wb") as file:
        file.write(line)
    wait_for(folder, lambda seen: not is_waiting(seen), 10.0)


def is_waiting(seen: dict[str, Any]) -> bool:
    """Whether a runner waits for its secrets: in this life of it, not as its last one left it."""
    return seen.get("waits") == "secrets" and is_same(seen.get("supervisor"))


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
    with Fenced(request):
        found = look(folder, mark_table())
        who = found.get("supervisor")
        units.mark_ending(folder)
        if found["alive"] and who:
            send(who["pid"], signal.SIGTERM, lambda pid: is_same(who) and is_locked(folder))
    seen = wait_for(folder, lambda seen: not seen["alive"], float(request.get("wait") or 0))
    if not seen["alive"]:
        units.remove(os.path.dirname(folder), os.path.basename(folder))
    return seen


def kill(request: dict[str, Any]) -> dict[str, Any]:
    """End the supervisor, the app and all that carries the mark, at once. Returns what is then seen."""
    folder = folder_for(request["root"], request["runner_id"])
    with Fenced(request) as held:
        kill_all(folder)
        seen = look(folder, mark_table())
        held.drop(folder, seen)
        return seen


def kill_all(folder: str) -> None:
    """SIGKILL to all that is a runner's; waits up to 10 s until it is gone. Its unit goes with it."""
    units.mark_ending(folder)
    found = look(folder, mark_table())
    who, child = found.get("supervisor"), found.get("child")
    if found["alive"] and who:
        send(who["pid"], signal.SIGKILL, lambda pid: is_same(who) and is_locked(folder))
    if child and is_same(child):
        send(child["pid"], signal.SIGKILL, lambda pid: is_same(child) and not is_anothers(pid, folder))
    containers.end(containers.home_of(folder), os.path.basename(folder))
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        left = marks().get(folder, [])
        for pid in left:
            send(pid, signal.SIGKILL, lambda pid: folder_of(pid) == folder)
        if not left and not is_locked(folder):
            break
        time.sleep(0.01)
    units.remove(os.path.dirname(folder), os.path.basename(folder))
    clear_leftovers(found, folder)


def is_anothers(pid: int, folder: str) -> bool:
    """Whether a process is of another folder's runner: this one is a copy of that one, and so is its status."""
    return folder_of(pid) not in (None, folder)


def clear_leftovers(status: dict[str, Any], folder: str) -> None:
    """What a supervisor that was killed could not remove: its control group, and a socket's short folder."""
    child = status.get("child")
    if child and is_same(child) and is_anothers(child["pid"], folder):
        return
    group, sockets = status.get("cgroup"), status.get("socket_folder")
    if group and os.path.basename(group) == f"falplan-{status['runner_id']}":
        remove_group(group)
    if sockets and os.path.basename(os.path.dirname(sockets)).startswith("falplan"):
        remove_tree(sockets)
        try:
            os.rmdir(os.path.dirname(sockets))
        except OSError:
            pass  # other runners' sockets lie there


def remove_group(path: str) -> None:
    """Remove a control group. What was killed in it takes a moment to be gone."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.rmdir(path)
            return
        except OSError as exc:
            if exc.errno != errno.EBUSY:
                return
        time.sleep(0.01)


def forget(request: dict[str, Any]) -> None:
    """Remove the folder of a runner that is gone. One that is alive is refused."""
    folder = folder_for(request["root"], request["runner_id"])
    found = look(folder, mark_table())
    if found["alive"] or found["survivors"]:
        raise RuntimeError(f"{request['runner_id']} is still alive")
    if found["state"] != "EXITED" or found.get("left"):
        containers.end(containers.home_of(folder), os.path.basename(folder))
    clear_leftovers(found, folder)
    units.remove(os.path.dirname(folder), os.path.basename(folder))
    try:
        os.rename(folder, os.path.join(os.path.dirname(folder), f".gone-{os.path.basename(folder)}"))
    except FileNotFoundError:
        pass
    except OSError:
        remove_tree(folder)
    remove_tree(os.path.join(os.path.dirname(folder), f".gone-{os.path.basename(folder)}"))
    return


def strays(request: dict[str, Any]) -> list[str]:
    """Ids of runners of this root that are alive, or have left processes, and are not known."""
    base = os.path.join(os.path.realpath(request["root"]), "runners")
    known, table = set(request["known"]), mark_table()
    found = {os.path.basename(f) for f in table() if os.path.dirname(f) == base}
    found |= {n for n in (*names_in(base), *units.names(base)) if n not in known}
    found |= containers.runners(os.path.dirname(base))
    return sorted(found - known)


def clear(request: dict[str, Any]) -> list[str]:
    """End every runner of the root, whoever watches them, and give up what they took and the lineage's claim. Ids of those that ran.

    For the end of a machine's use: the control plane is dead by then, or has drained them.
    """
    base = os.path.join(os.path.realpath(request["root"]), "runners")
    table = mark_table()
    there = {os.path.join(base, name) for name in (*names_in(base), *units.names(base))}
    there |= {f for f in table() if os.path.dirname(f) == base}
    contained = {os.path.join(base, name) for name in containers.runners(os.path.dirname(base))}
    ended = []
    for folder in sorted(there | contained):
        found = look(folder, table)
        if found["alive"] or found["survivors"] or folder in contained:
            kill_all(folder)
            ended.append(os.path.basename(folder))
        elif found.get("runner_id"):
            clear_leftovers(found, folder)  # all of it died at once, and nobody was told
        units.remove(base, os.path.basename(folder))
    images.remove_all(os.path.dirname(base))
    units.remove_made(os.path.dirname(base))
    ledger.give_up(request["root"], request["lineage"])
    return ended


def idle_homes(request: dict[str, Any]) -> list[str]:
    """Names of the homes of other apps than `apps`."""
    root = os.path.realpath(request["root"])
    kept = {units.user_of(os.path.join(root, "runners", "-"), app) for app in request["apps"]}
    return [name for name in names_in(os.path.join(root, "homes")) if name not in kept]


def forget_homes(request: dict[str, Any]) -> None:
    """Remove homes of apps' users, `homes` by name. One whose user a runner has, or gets just now, stays."""
    root = os.path.realpath(request["root"])
    gone = []
    with Fenced(request):  # which whoever starts a runner holds until its unit is written
        taken = units.users(os.path.join(root, "runners"))
        for name in map(os.path.basename, request["homes"]):
            path = os.path.join(root, "homes", name)
            if not name.endswith(GONE) and name not in taken and os.path.isdir(path):
                os.rename(path, path + GONE)
            gone.append(path if name.endswith(GONE) else path + GONE)
    for path in gone:
        remove_tree(path)


VERBS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "start": start,
    "observe": observe,
    "stop": stop,
    "kill": kill,
    "forget": forget,
    "strays": strays,
    "clear": clear,
    "idle_homes": idle_homes,
    "forget_homes": forget_homes,
    "edited": foreign.edited,
    "mend": foreign.mend,
    "unused_images": images.unused,
    "prune_images": images.prune,
    **ledger.VERBS,
}


def main() -> int:
    """Answer one request. It may hold secrets: nothing of this process is ever dumped."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout.write(json.dumps(answer_to(json.loads(sys.stdin.buffer.read()))))
    return 0


def answer_to(request: dict[str, Any]) -> dict[str, Any]:
    """What one request is answered."""
    try:
        return {"ok": VERBS[request["verb"]](request)}
    except Refusal as exc:
        return {"error": str(exc), "kind": exc.kind, "owner": exc.owner}
    except RAISED as exc:
        return {"error": f"{exc.filename}: {exc.strerror}" if isinstance(exc, OSError) and exc.filename else str(exc)}


if __name__ == "__main__":
    sys.exit(main())
