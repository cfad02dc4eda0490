"""Installs, finds, upgrades and removes a control plane on another machine, through its shell. Everything it does may be repeated."""

from __future__ import annotations

import ipaddress
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from falplan import clock
from falplan.core.errors import ExitCode, FalplanError, Refused
from falplan.core.values import Json, JsonObject
from falplan.engine.client import AdminClient, Answered, Unreachable, connect
from falplan.engine.local_gateway import REPLACE_TIMEOUT, STOP_TIMEOUT, Need, Whose, needed
from falplan.sdk.failpoints import fp
from falplan.sdk.shell import Shell
from falplan.sdk.shell import Unreachable as NoWay
from falplan.sdk.values import Command
from falplan.stores.home import LOOPBACK, GatewaySettings
from falplan.stores.release import Release, this_release

FOLDER = "~/.local/share/falplan"
"""Where falplan keeps its things on a host, unless its region says otherwise."""

START_TIMEOUT = 180.0
"""Seconds within which it has to answer, a migration of its database included; its unit says so, too."""

PROGRAM = ("plane.py",)
LOG = 20_000  # bytes of its end that are read
Say = Callable[[str], None]
Install = Callable[..., str]
"""(shell, folder, platform, say, pushes=…) -> this falplan's interpreter there, put there if need be."""


@runtime_checkable
class Ports(Protocol):
    """A shell that leads from a port of this machine to an address there."""

    def port(self, address: str) -> int:
        """The port that leads to `HOST:PORT` as seen there, until the shell is closed."""
        ...


@dataclass(frozen=True, slots=True)
class There:
    """A lineage's place on a machine, whether or not a control plane is in it. `at` is the machine's name, for people."""

    shell: Shell
    lineage: str
    at: str
    folder: str = FOLDER

    def ask(self, verb: str, **more: Json) -> Any:
        """Have `falplan.runner.plane` do it there.

        Raises:
            FalplanError: it could not be done, in the machine's words.
        """
        from falplan.sdk.ssh.link import TELLER, program_of  # only those who have a host pay for it

        request = json.dumps({"verb": verb, "lineage": self.lineage, "folder": self.folder, **more})
        argv = (self.shell.python, "-I", "-S", "-B", "-c", TELLER, request)
        done = self.shell.run(Command(argv, stdin=program_of(PROGRAM), timeout=90, repeatable=verb == "look"))
        answer = json.loads(done.stdout) if done.code == 0 else {"error": done.stderr.decode(errors="replace")[-500:]}
        if "error" in answer:
            raise FalplanError(f"The control plane's machine can't be used: {verb}", f"{self.at}: {answer['error']}")
        return answer["ok"]

    def look(self) -> JsonObject:
        """See `falplan.runner.plane.look`."""
        return cast("JsonObject", self.ask("look"))

    def client(self, seen: JsonObject, key: str = "") -> AdminClient | None:
        """A client for what lives there, through the connection; None if it says not where it listens. `key` is the one kept there."""
        url = str(seen["url"])
        if not url:
            return None
        home = str(seen["home"])
        try:
            key = key or self.key(seen, "admin")
            trust = self._text(f"{home}/tls/trust.pem")
        except FileNotFoundError:
            return None  # it is being made, or removed
        way = self.shell.reach(f"tcp:{url.removeprefix('https://')}")
        return connect(url, key, ca_data=trust, through=way.removeprefix("unix:"))

    def key(self, seen: JsonObject, name: str) -> str:
        """A key that is kept there: `admin` or `api`."""
        return self._text(f"{seen['home']}/{name}.key").strip()

    def port(self, seen: JsonObject) -> int:
        """A port of this machine that leads to it, for as long as this process lives."""
        url, shell = str(seen["url"]), self.shell
        if not isinstance(shell, Ports):
            raise FalplanError(
                "The gateway can't be reached from here", f"{self.at}: it listens on its own machine alone."
            )
        return shell.port(url.removeprefix("https://"))

    def _text(self, path: str) -> str:
        return self.shell.read_file(path).decode()

    def asleep(self, ids: list[str]) -> JsonObject:
        """What its database tells while it is stopped: {unfinished, secrets, operations}, those of `ids` that are known.

        Raises:
            FalplanError: its program is not there, or can't read it.
        """
        seen = self.look()
        python = self.interpreter(seen)
        if python is None:
            return {"unfinished": {}, "secrets": {}, "operations": []}
        argv = (python, "-m", "falplan", "serve", "--home", str(seen["home"]), "--asleep")
        done = self.shell.run(Command(argv, stdin=json.dumps(ids).encode(), timeout=60, repeatable=True))
        if done.code != 0:
            said = done.stderr.decode(errors="replace")[-500:]
            raise FalplanError("The control plane's database can't be read", f"{self.at}: {said}")
        return cast("JsonObject", json.loads(done.stdout))

    def restore(self, seen: JsonObject, python: str, source: Path, at: str) -> tuple[JsonObject, str]:
        """Put a backup in the place of what it keeps. (what it held, where the old data lies; empty if there was none)

        Raises:
            Refused: the backup can't be used there. FalplanError: it could not be brought there, or used.
        """
        folder = f"{seen['root']}/restore"
        with tempfile.TemporaryDirectory() as name:
            (Path(name) / "backup.tar.gz").symlink_to(source.absolute())
            self.shell.remove(folder)
            self.shell.put_tree(Path(name), folder)
        try:
            argv = (python, "-m", "falplan", "serve", "--home", str(seen["home"]), "--lineage", self.lineage)
            done = self.shell.run(Command((*argv, "--restore", f"{folder}/backup.tar.gz", "--at", at), timeout=600))
        finally:
            self.shell.remove(folder)
        if done.code != 0:
            said = done.stderr.decode(errors="replace").strip().removeprefix("Error: ")
            summary, _, detail = said.partition("\n")
            raise (Refused if done.code == ExitCode.REFUSED else FalplanError)(
                summary or "It failed", f"{self.at}: {detail}"
            )
        answer = json.loads(done.stdout)
        return answer["manifest"], str(answer["aside"] or "")

    def interpreter(self, seen: JsonObject) -> str | None:
        """An interpreter with a falplan that is whole: the one that served last, if it is there. None without one."""
        record: Any = seen["record"]
        served = str((record.get("served") or [""])[0])
        root = f"{seen['root']}/environments"
        whole = [e.name for e in self.shell.list(root) if e.is_folder and "." not in e.name]
        for name in sorted(whole, key=lambda n: f"{root}/{n}/bin/python" != served):
            for library in self.shell.list(f"{root}/{name}/lib"):
                site = self.shell.list(f"{root}/{name}/lib/{library.name}/site-packages")
                if any(e.name == "falplan.pth" for e in site):  # comes last
                    return f"{root}/{name}/bin/python"
        return None

    def log(self, seen: JsonObject, lines: int = 15) -> str:
        """The end of its log."""
        home = str(seen["home"])
        size = next((e.size for e in self.shell.list(home) if e.name == "serve.log"), 0)
        said = self.shell.read_file(f"{home}/serve.log", max(0, size - LOG)) if size else b"(no log)"
        return "\n".join(said.decode(errors="replace").splitlines()[-lines:])


def ensure(there: There, settings: GatewaySettings, whose: Whose, install: Install, say: Say) -> AdminClient:
    """The control plane on that machine, of this falplan and with these settings: installed, started or upgraded as needed.

    One that is newer than this falplan is left as it is.

    Raises:
        FalplanError: it did not start, or its successor did not; the detail holds the end of its log.
        Refused: it is newer, and would have to be started anew.
    """
    seen = cast("JsonObject", there.ask("claim", project=whose.project))
    fp("host_gateway.claim.after")
    client = _answering(there, seen) if seen["alive"] else None
    settings = replace(settings, port=settings.port or kept_settings(there, seen).port)
    need = Need.NOTHING
    if client is not None:
        status: Any = client.get("/status")
        need, runs = needed(status, settings, this_release()), Release.parse(status["release"])
        if this_release().is_older_than(runs):
            if need is Need.NOTHING:
                return client
            detail = f"It runs falplan {runs.version}, and this is {this_release().version}: apply with that one, or a newer one."
            raise Refused("The control plane is newer than this falplan", f"{there.at}: {detail}")
    python = install(there.shell, str(seen["root"]), str(seen["platform"]), say)
    fp("host_gateway.install.after")
    argv = _argv(python, seen, whose)
    if client is not None and need is Need.MOVE:
        say(f"moving from {client.url}")
        _end(there, client, say, runners=False)
        client = None
    _keep(there, seen, settings)
    if client is None:
        client = _start(there, argv, seen, whose, say)
    elif need is Need.REPLACE:
        client = _replace(there, client, python, seen, whose, say)
    # What the next boot starts is what serves now: a release that did not get healthy is never kept.
    there.ask("keep", project=whose.project, argv=_again(argv, whose), serves=True)
    fp("host_gateway.keep.after")
    _forget_others(there, seen, python)
    return client


def _again(argv: list[str], whose: Whose) -> list[Json]:
    """The same command for later starts: what it takes the place of is gone by then."""
    kept = len(argv) - len(whose.arguments())
    return list[Json]([*argv[:kept], *replace(whose, replaces="").arguments()])


def _argv(python: str, seen: JsonObject, whose: Whose) -> list[str]:
    return [python, "-m", "falplan", "serve", "--home", str(seen["home"]), *whose.arguments()]


def kept_settings(there: There, seen: JsonObject) -> GatewaySettings:
    """How the control plane there was told to listen."""
    try:
        body: Any = json.loads(there.shell.read_file(f"{seen['home']}/gateway.json"))
    except (FileNotFoundError, ValueError):
        body = {}
    return GatewaySettings(**{f.name: body[f.name] for f in fields(GatewaySettings) if f.name in body})


def _keep(there: There, seen: JsonObject, settings: GatewaySettings) -> None:
    """Choose how it listens from its next start on."""
    if settings != kept_settings(there, seen):
        there.shell.write_file(f"{seen['home']}/gateway.json", json.dumps(asdict(settings)).encode())


def _answering(there: There, seen: JsonObject) -> AdminClient | None:
    try:
        client = there.client(seen)
        if client:
            client.get("/status", timeout=10)
        return client
    except (Unreachable, Answered, NoWay):
        return None


def _start(there: There, argv: list[str], before: JsonObject, whose: Whose, say: Say) -> AdminClient:
    """Start it. One that does not get healthy leaves what served before it to the next boot, as it found it."""
    say("starting the control plane")
    there.ask("start", project=whose.project, argv=list[Json](argv))
    fp("host_gateway.start.after")
    give_up = clock.monotonic() + START_TIMEOUT
    seen = there.look()
    while clock.monotonic() < give_up and not seen["failed"]:
        client = _answering(there, seen) if seen["alive"] else None
        if client is not None:
            return client
        time.sleep(0.1)
        seen = there.look()
    said = there.log(seen)
    there.ask("kill")  # or it would be tried again and again
    record: Any = before["record"]
    if record.get("served"):
        there.ask("keep", project=whose.project, argv=record["served"])
    raise FalplanError("The control plane did not start", f"The end of {seen['home']}/serve.log on {there.at}:\n{said}")


def _replace(there: There, client: AdminClient, python: str, seen: JsonObject, whose: Whose, say: Say) -> AdminClient:
    """Let the control plane start its successor beside itself, and hand everything over to it. Runners go on."""
    before: Any = client.get("/status")
    say(f"replacing falplan {before['release']} by {this_release()}, side by side")
    body: JsonObject = {"python": python, "project": whose.project, "argv": []}
    client.send("POST", "/handover", body, operation=clock.new_uuid())
    fp("host_gateway.handover.after")
    give_up = clock.monotonic() + REPLACE_TIMEOUT
    while clock.monotonic() < give_up:
        try:
            status: Any = client.get("/status", timeout=5)
        except (Unreachable, Answered):
            status = None
        if status and status["successors"]["tried"] > before["successors"]["tried"]:
            because = f"{status['successors']['failed']}\nThe old one serves on. The end of its log on {there.at}:\n"
            raise FalplanError("The control plane could not be replaced", because + there.log(there.look()))
        if status and status["instance"] != before["instance"]:
            return client
        if status is None and not there.look()["alive"]:
            say("both have ended: starting it again")
            return _start(there, _argv(python, seen, whose), seen, whose, say)
        time.sleep(0.2)
    raise FalplanError("The control plane was not replaced", f"Not within {REPLACE_TIMEOUT:g} s on {there.at}.")


def _forget_others(there: There, seen: JsonObject, python: str) -> None:
    """Remove releases but the one that serves, and the one before it: it may be finishing what is under way."""
    record: Any = seen["record"]
    kept = {_release_in(python), _release_in(str((record.get("served") or [""])[0]))}
    for folder in ("environments", "releases"):
        for entry in there.shell.list(f"{seen['root']}/{folder}"):
            if entry.is_folder and "." not in entry.name and entry.name.partition("-")[0] not in kept:
                there.shell.remove(f"{seen['root']}/{folder}/{entry.name}")


def _release_in(command: str) -> str:
    """The release that an interpreter's path, or a command with it, belongs to."""
    return command.partition("/environments/")[2].partition("-")[0]


def _end(there: There, client: AdminClient | None, say: Say, *, runners: bool) -> None:
    """End it: by telling it, or else at once."""
    told = False
    if client is not None:
        try:
            client.send("POST", "/shutdown", {"stop_runners": runners}, operation=clock.new_uuid())
            told = True
        except (Unreachable, Answered):
            say("the control plane does not answer")
    if not told:
        _kill(there, say)
    give_up = clock.monotonic() + STOP_TIMEOUT
    while there.look()["alive"]:
        if clock.monotonic() > give_up:
            raise FalplanError(
                "The control plane does not stop", f"It did not end within {STOP_TIMEOUT:g} s on {there.at}."
            )
        time.sleep(0.1)


def _kill(there: There, say: Say) -> None:
    pids = there.ask("kill")
    if pids:
        say(f"killed the control plane (pid {', '.join(map(str, pids))}), which does not answer")


def remove(there: There, say: Say) -> None:
    """End the control plane and its runners, and take away everything that is there of it. What is gone already is no error."""
    seen = there.look()
    if seen["alive"]:
        _end(there, _answering(there, seen), say, runners=True)
    fp("host_gateway.remove.after_stop")
    _kill(there, say)  # nothing starts it again
    _reap(there, seen)
    there.ask("remove")


def _reap(there: There, seen: JsonObject) -> None:
    """End runners that a dead control plane left on its own machine. Without its program it never had any, or they were ended."""
    python = there.interpreter(seen)
    if python is None or not seen["database"]:
        return
    argv = (python, "-m", "falplan", "serve", "--home", str(seen["home"]), "--lineage", there.lineage, "--end")
    done = there.shell.run(Command(argv, timeout=180))
    if done.code != 0:
        said = done.stderr.decode(errors="replace").strip()[-2000:]
        raise FalplanError("Runners could not be stopped", f"{there.at}: {said}")


def is_alone(gateway: Mapping[str, Json]) -> bool:
    """Whether a gateway of these inputs listens on its own machine alone."""
    return ipaddress.ip_address(str(gateway.get("listen") or LOOPBACK)).is_loopback


def place_in(way: Mapping[str, Json]) -> str:
    """`region/host` of a way, for people and for the spec."""
    return f"{way['region']}/{way['host']}"
