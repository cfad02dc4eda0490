"""A project whose one app runs on the hosts of a lab: its command line, its control plane and its callers are in the lab, too.

Everything here is called by a thread that is inside the lab.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.history import read, violations
from tests.faults.sandbox import Broken, Ran, Sandbox, wait_until
from tests.lab.namespaces import HOME, Lab, LabHost

GPUS = 2
"""Those of each host: a runner takes one."""

SMI = """#!/bin/sh
case "$*" in *compute-apps*) exit 0;; esac
%s
"""

SERVER = """
import hashlib, http.server, json, os, pathlib, select, time
LOG = pathlib.Path(os.environ["CALLS"])
LOG.parent.mkdir(parents=True, exist_ok=True)
CANCELLED = set()
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
        if self.path.endswith("/cancel"):
            CANCELLED.add(self.headers.get("x-fal-request-id"))
        if self.path == "/stream":
            return self.stream(body)
        if not self.work(float(body.get("wait") or body.get("sleep") or 0)):
            self.close_connection = True
            return
        if "n" in body:
            with LOG.open("a") as log:
                log.write(json.dumps({"op": "ran", "n": body["n"], "id": self.headers.get("x-fal-request-id")}) + "\\n")
        values = {"n": body.get("n"), "version": VERSION, "host": os.uname().nodename, "runner": os.environ["FAL_JOB_ID"]}
        values["secrets"] = [hashlib.sha256(os.environ.get(n, "").encode()).hexdigest() for n in ("PLANTED", "KEPT")]
        answer = json.dumps({**values, "name": body.get("name")}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    do_POST = do_GET
    def work(self, seconds):
        # A caller that is gone, or that cancels, ends it.
        give_up = time.monotonic() + seconds
        while (left := give_up - time.monotonic()) > 0:
            if self.headers.get("x-fal-request-id") in CANCELLED:
                return False
            if select.select([self.connection], [], [], min(left, 0.1))[0] and not self.connection.recv(1, 2):
                return False
        return True
    def stream(self, body):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for letter in body["name"]:
            self.wfile.write(b"data: " + json.dumps({"letter": letter}).encode() + b"\\n\\n")
            self.wfile.flush()
        self.close_connection = True
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""


@dataclass
class Fleet:
    """One project over some of a lab's hosts. `write` puts down what is wanted now."""

    lab: Lab
    hosts: list[LabHost]
    box: Sandbox = field(default_factory=Sandbox)
    project: str = "fleet"
    version: int = 1
    least: int = 1
    most: int = 4
    slots: int = 8
    secrets: bool = False
    weight: int = 0  #: bytes of a file that comes with the app
    user: str = "root"
    keys: dict[str, list[str]] = field(default_factory=dict)  #: host -> fingerprints to trust, in place of those it has
    more: dict[str, dict[str, Any]] = field(default_factory=dict)  #: host -> further options

    def __post_init__(self) -> None:
        (self.box.folder / "run").mkdir(mode=0o700, exist_ok=True)  # where forwarded sockets lie, so that they go along
        self.write()

    @property
    def calls(self) -> str:
        """Where the app writes on a host what it has done. The path bears the sandbox's, which knows its processes by it."""
        return f"/srv{self.box.folder}/calls.log"

    def write(self) -> None:
        bodies = {
            h.name: {
                "address": h.address,
                "host_key": self.keys.get(h.name, [h.trusted]),
                **self.more.get(h.name, {}),
            }
            for h in self.hosts
        }
        region: dict[str, Any] = {
            "provider": "ssh",
            "user": self.user,
            "identity_file": str(self.lab.key),
            "hosts": bodies,
        }
        app: dict[str, Any] = {
            "command": ["python3", "server.py"],
            "files": ["server.py", "weights"],
            "machine_type": "GPU-H100",
            "regions": ["lab"],
            "keep_alive": 300,
            "min_concurrency": self.least,
            "max_concurrency": self.most,
            "max_multiplexing": self.slots,
            "startup_timeout": 60,
            "health_check": {"path": "/"},
            "environment_variables": {"CALLS": self.calls},
        }
        spec: dict[str, Any] = {"version": 1, "project": self.project, "owner": "acme", "gateway": {"ephemeral": True}}
        spec |= {"regions": {"lab": region}, "apps": {"app": app}}
        if self.secrets:
            spec["environments"] = {"main": {"secrets": {"PLANTED": {"env": "PLANTED"}, "KEPT": {"stored": True}}}}
        (self.box.project / "falplan.yaml").write_text(json.dumps(spec))
        (self.box.project / "weights").write_bytes(os.urandom(self.weight))
        (self.box.project / "server.py").write_text(SERVER.replace("VERSION", str(self.version)))

    # -- commands --

    def must(self, *args: str, **more: str) -> str:
        return self.box.must(*args, **more).out

    def run(self, *args: str, **more: str) -> Ran:
        return self.box.run(*args, **more)

    def apply(self, **more: str) -> str:
        self.write()
        return self.must("apply", "--auto-approve", **more)

    def call(self, **body: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.must("call", "app", json.dumps(body)))
        return answer

    # -- what there is --

    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self.must("runners", "list", "--json"))
        return rows

    def where(self) -> list[str]:
        """The hosts of the runners that are up, sorted."""
        return sorted(r["machine"].partition("/")[2] for r in self.rows() if r["state"] in ("IDLE", "RUNNING"))

    def running(self) -> dict[str, list[str]]:
        """Runner -> the hosts on which processes of its app live, a host for each of them."""
        found: dict[str, list[str]] = {}
        for host in self.lab.hosts:
            for pid in host.processes() if host.process else ():
                with contextlib.suppress(OSError, ValueError):
                    values = dict(
                        v.partition(b"=")[::2] for v in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                    )
                    if values.get(b"CALLS", b"").decode() == self.calls and b"FALPLAN_RUNNER" in values:
                        found.setdefault(values[b"FALPLAN_RUNNER"].decode(), []).append(host.name)
        return found

    def check_converged(self, patience: float = 180.0) -> None:
        """One apply later: nothing to do, and exactly those runners run that are known, each of them once."""
        self.apply()
        ran = self.run("plan", "--detailed-exitcode")
        if ran.code:
            raise Broken(f"the plan after apply is not empty (exit {ran.code})\n{ran.out}\n{ran.err}")
        wait_until(self._agree, patience, self._disagreement)

    def _agree(self) -> bool:
        running = self.running()
        known = {r["runner_id"]: r["machine"].partition("/")[2] for r in self.rows()}
        return {r: [h] for r, h in known.items()} == running

    def _disagreement(self) -> str:
        return f"runs: {self.running()}\nknown: {self.rows()}\n{self.box.serve_log()}"

    def history(self, told: Path) -> list[str]:
        """Guarantees that what callers saw, and what apps did on all hosts, breaks."""
        lines = read(told)
        for host in self.lab.hosts:
            path = Path(f"{host.disk}{self.calls}")
            lines += read(path) if path.exists() else []
        return violations(lines)

    def destroy(self) -> None:
        self.must("destroy", "--auto-approve")


def give_gpus(host: LabHost, count: int = GPUS) -> None:
    """Let a host's nvidia-smi tell of so many H100s."""
    lines = "\n".join(f'echo "{n}, GPU-{host.name}-{n}, NVIDIA H100 80GB HBM3, 81559 MiB"' for n in range(count))
    program = host.disk / "usr/local/bin/nvidia-smi"
    program.write_text(SMI % lines)
    program.chmod(0o755)


@contextlib.contextmanager
def a_fleet(
    names: Sequence[str] = ("a", "b"), *, delays: Mapping[str, float] | None = None, **more: Any
) -> Iterator[Fleet]:
    """A project over new hosts with GPUs. This thread is in the lab until the end, and nothing is left after it.

    `delays` are those of cables, each way in seconds.
    """
    with Lab() as lab, lab.inside():
        for name in names:
            give_gpus(lab.add(name, delay=(delays or {}).get(name, 0.0)))
        fleet = Fleet(lab, list(lab.hosts), **more)
        try:
            yield fleet
        finally:
            fleet.box.clean()


# -- what is on a host ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trace:
    """A host as it is: what was written on its disk, and what runs there."""

    files: dict[str, str]
    processes: list[str]


def trace_of(host: LabHost, besides: str = "") -> Trace:
    """Everything on a host's disk with its mode, owner and content, and its processes; not what lies at `besides`."""
    hidden = f"{host.disk}{besides}" if besides else ""
    files = {}
    for base, folders, names in os.walk(host.disk):
        for name in (*folders, *names):
            path = Path(base, name)
            if hidden and (str(path).startswith(hidden) or hidden.startswith(f"{path}/")):
                continue
            files[str(path.relative_to(host.disk))] = _print_of(path)
    return Trace(files, sorted(filter(None, map(_line_of, host.processes()))))


def _print_of(path: Path) -> str:
    found = path.lstat()
    what = f"{stat.filemode(found.st_mode)} {found.st_uid}:{found.st_gid}"
    if stat.S_ISREG(found.st_mode):
        return f"{what} {hashlib.sha256(path.read_bytes()).hexdigest()}"
    return f"{what} {path.readlink()}" if stat.S_ISLNK(found.st_mode) else what


def _line_of(pid: int) -> str:
    """A process; not the lab's own, nor one that serves a connection, which may be just ending."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
    passing = line.startswith(("sshd:", "sshd-session:", "unshare ")) or line.endswith("lab_config -R")
    return "" if passing else line


def wait_as_before(host: LabHost, before: Trace, besides: str = "") -> None:
    """Until a host is file by file and process by process what it was."""
    seconds = 60.0  # a connection of which only the host is left is noticed by it within half a minute
    wait_until(
        lambda: trace_of(host, besides) == before, seconds, lambda: _differences(before, trace_of(host, besides))
    )


def _differences(before: Trace, now: Trace) -> str:
    files = [f"{p}: {before.files.get(p)} -> {now.files.get(p)}" for p in {*before.files, *now.files}]
    changed = sorted(line for line in files if line.partition(": ")[2].split(" -> ")[0] != line.rpartition(" -> ")[2])
    return f"files {changed[:20]}, processes {before.processes} -> {now.processes}"


def home_of(host: LabHost) -> Path:
    """root's home there, seen from here."""
    return Path(f"{host.disk}{HOME}")
