"""A control plane on this machine as somebody elsewhere keeps it: whether it lives, what starts it, its folders.

Sent to the machine, and begun with one JSON object {verb, lineage, folder, ...} as its argument; prints one: {"ok": ...} or
{"error": text}. Two folders are its own: `home`, with the control plane's data, and `root`, with the program. Every verb may be repeated.
Needs Python 3.9 and its standard library alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time

TYPE_CHECKING = False  # importing typing costs time at each start
if TYPE_CHECKING:
    from typing import Any

if TYPE_CHECKING or __package__:
    from falplan.runner import units
    from falplan.runner.placing import remove_tree
    from falplan.runner.processes import is_locked
else:
    import units
    from placing import remove_tree
    from processes import is_locked

RECORD = "plane.json"
DATA = "~/.local/state/falplan"
PATHS = ("~/.local/bin", "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
"""Where the control plane finds programs: systemd's own PATH is shorter."""


def tell() -> None:
    """Answer the request that is this program's argument."""
    try:
        request = json.loads(sys.argv[1])
        answer: dict[str, Any] = {"ok": VERBS[request["verb"]](Place(request), request)}
    except (OSError, RuntimeError, ValueError) as exc:
        answer = {"error": str(exc)}
    sys.stdout.write(json.dumps(answer))


class Place:
    """Where a lineage's control plane lies on this machine."""

    def __init__(self, request: dict[str, Any]) -> None:
        lineage = request["lineage"]
        self.home = os.path.join(os.path.expanduser(DATA), lineage)
        self.root = os.path.join(os.path.expanduser(request["folder"]), f"plane-{lineage}")
        self.unit = f"falplan-plane-{lineage[:8]}.service"

    def unit_path(self, manager: str) -> str:
        return os.path.join(units.unit_folder(manager), self.unit)

    def whose(self) -> str:
        """Whose systemd would have the unit, whether or not that runs, or lingers, at the moment."""
        return units.SYSTEM if os.getuid() == 0 else units.USER


# -- looking --------------------------------------------------------------------------------------------------------------


def look(place: Place, request: dict[str, Any]) -> dict[str, Any]:
    """What is there: {home, root, alive, database, url, manager, kept, unit, failed, platform, record}.

    `alive`: a process holds the folder's lock. `url` is where it says that it listens, empty if it says nothing. `kept` is the
    command that systemd starts at each boot, empty if it starts none; `failed` how often that ended by an error since it was
    started. `record` is what was noted: `made`, the folders that were made for it, and `served`, the command that served last.
    """
    manager = units.manager()
    alive, command = is_locked(place.home), kept(place, manager)
    return {
        "home": place.home,
        "root": place.root,
        "alive": alive,
        "database": os.path.exists(os.path.join(place.home, "control.db")),
        "url": read(place.home, "endpoint.json").get("url", ""),
        "manager": manager,
        "kept": command,
        "unit": place.unit,
        "failed": int(units.systemctl(manager, "show", "--value", "-p", "NRestarts", place.unit) or 0)
        if command and not alive
        else 0,
        "platform": f"{sys.platform}-{os.uname().machine}",
        "record": read(place.root, RECORD),
    }


def read(folder: str, name: str) -> dict[str, Any]:
    """A JSON file of falplan; empty if there is none."""
    try:
        with open(os.path.join(folder, name), "rb") as file:
            found = json.load(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def kept(place: Place, manager: str) -> str:
    """The command in the unit of systemd; empty without one."""
    try:
        with open(place.unit_path(manager), encoding="utf-8") as file:
            lines = file.read().splitlines() if manager else []
    except FileNotFoundError:
        return ""
    return next((line.partition("=")[2] for line in lines if line.startswith("ExecStart=")), "")


def holders(home: str) -> list[int]:
    """Processes that have the folder's lock open."""
    try:
        wanted = os.stat(os.path.join(home, "lock"))
    except FileNotFoundError:
        return []
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            for link in os.scandir(f"/proc/{name}/fd"):
                at = os.stat(link.path)
                if (at.st_dev, at.st_ino) == (wanted.st_dev, wanted.st_ino):
                    found.append(int(name))
                    break
    return found


# -- making ---------------------------------------------------------------------------------------------------------------


def claim(place: Place, request: dict[str, Any]) -> dict[str, Any]:
    """Make both folders, private, and write down which were made for them: whoever removes them takes those away as well."""
    made = read(place.root, RECORD).get("made")
    if made is None:
        made = {*missing(place.home), *missing(place.root)}
        if place.whose() == units.USER:
            made |= set(missing(place.unit_path(units.USER)))
        made = sorted(made, key=len, reverse=True)
    for folder in (place.root, place.home):
        os.makedirs(folder, mode=0o700, exist_ok=True)
        os.chmod(folder, 0o700)
    note(place, lineage=request["lineage"], made=made)
    return look(place, request)


def note(place: Place, **more: Any) -> None:
    """Write something down in the record."""
    write(os.path.join(place.root, RECORD), json.dumps({**read(place.root, RECORD), **more}))


def missing(folder: str) -> list[str]:
    """The folders above this one that are not there."""
    found, above = [], os.path.dirname(folder)
    while above != "/" and not os.path.isdir(above):
        found.append(above)
        above = os.path.dirname(above)
    return found


def write(path: str, text: str) -> None:
    """Write a file whole or not at all, durably."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    part = f"{path}.falplan-new"
    with open(part, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(part, path)


def keep(place: Place, request: dict[str, Any]) -> str:
    """Have `argv` started at each boot, and whenever it ends by an error. Whose systemd does; empty if there is none.

    What runs is left alone: it may be another version by now. With `serves`, it is known that this one does.
    """
    if request.get("serves"):
        note(place, served=request["argv"])
    manager = units.manager()
    if manager:
        path, text = place.unit_path(manager), unit_text(place, request, manager)
        try:
            with open(path, encoding="utf-8") as file:
                same = file.read() == text
        except FileNotFoundError:
            same = False
        if not same:
            write(path, text)
            units.systemctl(manager, "daemon-reload")
        units.systemctl(manager, "enable", "--quiet", place.unit)
    return manager


def start(place: Place, request: dict[str, Any]) -> None:
    """Start it as it is kept, or detached where nothing keeps it. Nothing happens if it lives."""
    if is_locked(place.home):
        return
    manager = keep(place, request)
    if manager:
        with contextlib.suppress(RuntimeError):
            units.systemctl(manager, "reset-failed", place.unit)  # which systemd does not know yet the first time
        units.systemctl(manager, "start", "--no-block", place.unit)
        return
    import subprocess  # takes a fifth of the time of a look, which starts nothing

    with open(os.path.join(place.home, "serve.log"), "ab") as log:
        os.chmod(log.name, 0o600)
        subprocess.Popen(
            request["argv"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env={**os.environ, "PATH": path_of()},
            start_new_session=True,
        )


def unit_text(place: Place, request: dict[str, Any], manager: str) -> str:
    """The unit of systemd. Only the main process is ended with it: runners go on without a control plane."""
    log = units.path_of(os.path.join(place.home, "serve.log"))
    lines = [
        "# Written by falplan. Settings of your own go into a drop-in: systemctl edit.",
        "[Unit]",
        f"Description=falplan control plane of {units.escaped(request['project'])}",
        "Wants=network-online.target",
        "After=network-online.target",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=notify",
        "NotifyAccess=all",  # a successor says itself that it is the main process now
        f"ExecStart={units.words(request['argv'])}",
        "Restart=on-failure",
        "RestartSec=1",
        "RestartPreventExitStatus=6",  # another one has the machine, or the data are not ours to read: trying again does not help
        "KillMode=process",
        "TimeoutStartSec=180",
        "TimeoutStopSec=180",
        units.variable("HOME", os.path.expanduser("~")),
        units.variable("PATH", path_of()),
        "WorkingDirectory=/",
        "UMask=0077",
        "LimitNOFILE=65536",
        f"StandardOutput=append:{log}",
        f"StandardError=append:{log}",
        "",
        "[Install]",
        f"WantedBy={units.TARGETS[manager]}",
        "",
    ]
    return "\n".join(lines)


def path_of() -> str:
    """PATH of a control plane."""
    return ":".join(map(os.path.expanduser, PATHS))


# -- ending ---------------------------------------------------------------------------------------------------------------


def kill(place: Place, request: dict[str, Any]) -> list[int]:
    """End it at once, and have nothing start it again. The pids that were killed."""
    if os.path.exists(place.unit_path(place.whose())):
        with contextlib.suppress(RuntimeError):
            units.systemctl(
                place.whose(), "stop", "--no-block", place.unit
            )  # what is being stopped is not started again
    ended = holders(place.home)
    for pid in ended:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while is_locked(place.home) and time.monotonic() < deadline:
        time.sleep(0.02)
    dismiss(place)
    return ended


def dismiss(place: Place) -> None:
    """Take the unit away, with what `systemctl edit` laid beside it. The files are what counts: its systemd may not run by now."""
    whose = place.whose()
    path = place.unit_path(whose)
    wants = os.path.join(units.unit_folder(whose), f"{units.TARGETS[whose]}.wants", place.unit)
    there = [p for p in (wants, path, f"{path}.falplan-new", f"{path}.d") if os.path.lexists(p)]
    for each in there:
        remove_tree(each)
    if whose == units.USER:
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(wants))  # systemctl made it, if nobody else's unit is in it
    if there:
        for argv in (("daemon-reload",), ("reset-failed", place.unit)):  # or what was killed stays listed
            with contextlib.suppress(RuntimeError):
                units.systemctl(whose, *argv)


def remove(place: Place, request: dict[str, Any]) -> None:
    """Take everything away, and the folders that were made for it and are empty by now. The control plane must have ended."""
    if is_locked(place.home):
        raise RuntimeError("the control plane runs")
    dismiss(place)
    made = read(place.root, RECORD).get("made", [])
    remove_tree(place.home)
    for name in units.listed(place.root):
        if name != RECORD:
            remove_tree(os.path.join(place.root, name))
    remove_tree(place.root)
    for folder in made:
        with contextlib.suppress(OSError):
            os.rmdir(folder)  # somebody else keeps something there


VERBS = {"look": look, "claim": claim, "keep": keep, "start": start, "kill": kill, "remove": remove}
