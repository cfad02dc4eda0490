"""A project in a folder of its own, the real command line run against it, and the checks that must hold after any fault."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from falplan.engine.local_gateway import reach
from falplan.stores.home import ControlHome

SERVER = """
import http.server, json, os, sys, time, pathlib
LOG = pathlib.Path(os.environ["CALLS"])
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
        time.sleep(float(body.get("sleep", 0)))
        answer = json.dumps({"n": body.get("n"), "version": VERSION}).encode()
        with LOG.open("a") as log:
            log.write(json.dumps({"n": body.get("n"), "id": self.headers.get("x-fal-request-id")}) + "\\n")
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""

SPEC = """
version: 1
project: faults
owner: acme
gateway: {hostname: %(hostname)s}
%(secrets)sapps:
  one: {command: [python3, one.py], files: [one.py], machine_type: XS, keep_alive: 300, max_multiplexing: 8, environment_variables: {CALLS: "%(calls)s"}, min_concurrency: %(least)d, max_concurrency: %(most)d, startup_timeout: 60}
  two: {command: [python3, two.py], files: [two.py], machine_type: XS, keep_alive: 300, environment_variables: {CALLS: "%(calls)s"}, python_version: "%(python)s", depends_on: [one], startup_timeout: 60}
"""


SECRETS = """environments:
  main: {secrets: {PLANTED: {env: PLANTED}, KEPT: {stored: true}}}
"""
"""What `Sandbox(secrets=True)` has beside its apps, which get both."""

PATIENCE = 120.0
"""Seconds that a command may take before it counts as hung."""


class Broken(AssertionError):
    """A guarantee does not hold. The message says which, with what was seen."""


class Missing(Exception):
    """A case can't run on this machine. `part` is what it needs; where it could be installed, the run fails under CI=true."""

    def __init__(self, part: str, *, installable: bool = True) -> None:
        super().__init__(f"needs {part}")
        self.installable = installable


@dataclass
class Ran:
    """How a command ended. `code` is minus the signal's number if it was killed."""

    code: int
    out: str
    err: str


@dataclass
class Sandbox:
    """A project with two apps. Everything is below `folder`, the control plane's data too."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="fpf-")))
    version: int = 1
    least: int = 0
    most: int = 2
    hostname: str = "localhost"
    falplan: Sequence[str] = (sys.executable, "-m", "falplan")
    secrets: bool = False
    planted: str = "planted-1"
    reduced: bool = False  #: without the second app and the planted secret
    spare: bool = False  #: with a stored secret that no app uses
    machine: Path | None = None  #: the ledger's folder, for sandboxes that share a machine; below `folder` by default

    def __post_init__(self) -> None:
        (self.folder / "project").mkdir()
        self.write()

    @property
    def project(self) -> Path:
        return self.folder / "project"

    @property
    def calls(self) -> Path:
        return self.folder / "calls.log"

    def write(self) -> None:
        """Write spec and apps as they are wanted now."""
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        values = {
            "calls": self.calls,
            "least": self.least,
            "most": self.most,
            "python": python,
            "hostname": self.hostname,
            "secrets": SECRETS if self.secrets else "",
        }
        spec = SPEC % values
        if self.reduced:
            spec = "".join(line for line in spec.splitlines(True) if not line.startswith("  two:"))
            spec = spec.replace("PLANTED: {env: PLANTED}, ", "")
        if self.spare:
            spec = spec.replace("environments:\n", "environments:\n  spare: {secrets: {SPARE: {stored: true}}}\n")
        (self.project / "falplan.yaml").write_text(spec)
        for name in ("one", "two"):
            (self.project / f"{name}.py").write_text(SERVER.replace("VERSION", str(self.version)))

    def environ(self, **more: str) -> dict[str, str]:
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("FAL_", "FALPLAN_", "XDG_")) and k != "CI"}
        return {
            **keep,
            "XDG_STATE_HOME": str(self.folder / "state"),
            "XDG_RUNTIME_DIR": str(self.folder / "run"),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"),
            "FALPLAN_MACHINE_DIR": str(self.machine or self.folder / "ledger"),
            "FALPLAN_BACKOFF": "0.2,0.4",
            "NO_COLOR": "1",
            "PLANTED": self.planted,
            **more,
        }

    def start(self, *args: str, **more: str) -> subprocess.Popen[str]:
        """A falplan command under way."""
        return subprocess.Popen(
            [*self.falplan, "-C", str(self.project), *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,  # not the checkout, which would come before what is installed
            env=self.environ(**more),
        )

    def run(self, *args: str, **more: str) -> Ran:
        """A falplan command run to its end."""
        process = self.start(*args, **more)
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            out, err = process.communicate()
            raise Broken(
                f"falplan {' '.join(args)} did not end within {PATIENCE} s\n{out}\n{err}\n{self.serve_log()}"
            ) from None
        return Ran(process.returncode, out, err)

    def set_secret(self, name: str, value: bytes, environment: str = "main", **more: str) -> Ran:
        """`falplan secrets set` with the value on standard input."""
        argv = [*self.falplan, "-C", str(self.project), "secrets", "set", name, "-e", environment]
        env = self.environ(**more)
        ran = subprocess.run(argv, input=value, capture_output=True, cwd=self.folder, env=env, timeout=PATIENCE)
        return Ran(ran.returncode, ran.stdout.decode(), ran.stderr.decode())

    def must(self, *args: str, **more: str) -> Ran:
        """A falplan command that has to succeed."""
        ran = self.run(*args, **more)
        if ran.code != 0:
            raise Broken(f"falplan {' '.join(args)} exited {ran.code}\n{ran.out}\n{ran.err}\n{self.serve_log()}")
        return ran

    def serve_log(self) -> str:
        logs = list((self.folder / "state").glob("falplan/*/serve.log"))
        return "\n".join(f"--- {p}\n{p.read_text(errors='replace')[-4000:]}" for p in logs)

    def kill_control_plane(self) -> None:
        """SIGKILL to every control plane of this sandbox."""
        serving = self.processes("serve")
        kill(serving)
        wait_until(lambda: not any(map(_runs, serving)), 10)

    def processes(self, role: str) -> list[psutil.Process]:
        """Live processes of this sandbox: `serve` (control planes), `supervisor`, or `any`."""
        mark = str(self.folder)
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
                    continue
                line, environ, place = " ".join(process.cmdline()), process.environ(), process.cwd()
            except (psutil.Error, OSError):
                continue
            mine = (
                mark in line
                or environ.get("XDG_STATE_HOME", "").startswith(mark)
                or mark in environ.get("CALLS", "")
                or place.startswith(mark)
            )
            wanted = {"serve": "falplan serve" in line, "supervisor": "supervisor.py" in line, "any": True}[role]
            if mine and wanted:
                found.append(process)
        # Between fork and exec, a child looks like the control plane that is starting it.
        pids = {p.pid for p in found}
        return [p for p in found if _parent(p) not in pids] if role == "serve" else found

    def runner_marks(self) -> dict[str, list[psutil.Process]]:
        """Runner id -> its live app processes, by the mark in their environment."""
        marks: dict[str, list[psutil.Process]] = {}
        for process in self.processes("any"):
            try:
                runner = process.environ().get("FALPLAN_RUNNER")
                if runner and "supervisor.py" not in " ".join(process.cmdline()):
                    marks.setdefault(runner, []).append(process)
            except (psutil.Error, OSError):
                continue
        return marks

    def check_converged(self, **more: str) -> None:
        """After one apply: it succeeds, the next plan is empty, nothing is twice, nothing is orphaned."""
        self.must("apply", "--auto-approve", **more)
        ran = self.run("plan", "--detailed-exitcode", **more)
        if ran.code != 0:
            raise Broken(f"the plan after apply is not empty (exit {ran.code})\n{ran.out}\n{ran.err}")
        self.check_processes()

    def check_processes(self) -> None:
        """One control plane; the processes that run are exactly those that it knows."""
        serving = self.processes("serve")
        if len(serving) != 1:
            raise Broken(f"{len(serving)} control planes: {[p.cmdline() for p in serving]}")
        wait_until(self._runners_agree, 20, self._disagreement)

    def _known(self) -> set[str]:
        """Asked of the control plane itself where that is possible: a command costs half a second of a core."""
        homes = [ControlHome(p) for p in (self.folder / "state" / "falplan").glob("*") if p.is_dir()]
        client = reach(homes[0]) if len(homes) == 1 else None
        if client is None:
            return {r["runner_id"] for r in json.loads(self.must("runners", "list", "--json").out)}
        return {r["runner_id"] for r in client.get("/runners")["runners"]}

    def _runners_agree(self) -> bool:
        return set(self.runner_marks()) == self._known()

    def _disagreement(self) -> str:
        alive = {r: [(p.pid, p.cmdline()) for p in ps] for r, ps in self.runner_marks().items()}
        return f"runners that run: {alive}\nrunners that are known: {self._known()}"

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.must("show", "--json").out)
        return found

    def destroy(self) -> None:
        """`falplan destroy`, after which nothing may be left."""
        self.must("destroy", "--auto-approve")
        self.check_nothing_left()

    def check_nothing_left(self) -> None:
        wait_until(
            lambda: not self.processes("any"),
            10,
            lambda: f"left behind: {[p.cmdline() for p in self.processes('any')]}",
        )
        folders = list((self.folder / "state" / "falplan").glob("*")) if (self.folder / "state").exists() else []
        if folders:
            inside = [str(path) for folder in folders for path in folder.rglob("*")]
            raise Broken(f"folders left behind: {folders}, with {inside[:20]}")

    def _control_groups(self) -> list[Path]:
        """Those of runners: a supervisor that is killed can't remove its own."""
        found = []
        for path in self.folder.rglob("runners/*/status.json"):
            with contextlib.suppress(OSError, ValueError):
                found.append(Path(json.loads(path.read_text()).get("cgroup") or "/nothing"))
        return found

    def kill_everything(self) -> None:
        """SIGKILL to all of this sandbox, as when its machine is switched off."""
        groups = self._control_groups()
        kill(self.processes("any"))
        for group in groups:
            wait_until(lambda path=group: _removed(path), 10, lambda path=group: f"{path} is in use")

    def clean(self, patience: float = 20.0) -> None:
        """End everything of this sandbox and remove it. For the end of a test, also a failed one.

        Done again until nothing is found twice in a row: what is killed may have started another process while the list
        was taken, and may write until it has really ended.

        Raises: Broken with what is left after `patience` seconds.
        """
        give_up, groups, quiet = time.monotonic() + patience, set[Path](), 0
        while quiet < 2:
            groups.update(self._control_groups())
            found = self.processes("any")
            kill(found)
            _remove(self.folder)
            groups = {group for group in groups if not _removed(group)}
            quiet = 0 if found or groups or self.folder.exists() else quiet + 1
            if not quiet:
                if time.monotonic() > give_up:
                    raise Broken(f"not removed within {patience} s: {self._left(groups)}")
                time.sleep(0.02)

    def _left(self, groups: Iterable[Path]) -> str:
        """What `clean` could not remove, as text."""
        paths = [str(p) for p in itertools.islice(self.folder.rglob("*"), 20)]
        return f"files {paths}, control groups {[*map(str, groups)]}, processes {self.processes('any')}"


def _remove(folder: Path) -> None:
    """As far as it goes now: a process may still write there. Folders that are read-only are no obstacle."""
    for path, folders, _ in os.walk(folder):
        for name in folders:
            child = Path(path, name)
            with contextlib.suppress(FileNotFoundError):
                if not child.is_symlink():
                    child.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def _removed(group: Path) -> bool:
    """Remove a control group once the last process in it is gone."""
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def kill(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL; one that is gone by itself meanwhile is as good."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def _runs(process: psutil.Process) -> bool:
    """Whether it does; one that only waits for init to take note of its end, which may last seconds, does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.Error:
        return 0


def wait_until(true: Any, seconds: float, explain: Any = lambda: "") -> None:
    """Poll until something is true; Broken with the explanation once the time is over."""
    give_up = time.monotonic() + seconds
    while not true():
        if time.monotonic() > give_up:
            raise Broken(f"not within {seconds} s: {explain()}")
        time.sleep(0.05)


def in_flight(sandbox: Sandbox) -> int:
    """Requests that runners work on now. Asked of the control plane itself: a command takes as long as some of them last."""
    from falplan.engine.local_gateway import reach
    from falplan.stores.home import ControlHome

    [folder] = (sandbox.folder / "state" / "falplan").iterdir()
    client = reach(ControlHome(folder))
    assert client is not None
    return sum(r["in_flight"] for r in client.get("/runners")["runners"])


def client_environ(sandbox: Sandbox) -> Mapping[str, str]:
    """What fal_client needs to reach the sandbox's gateway."""
    values: dict[str, str] = json.loads(sandbox.must("env", "--json").out)
    return values
