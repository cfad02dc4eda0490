"""A machine folder of a test: starts runners through the real agent and supervisor, and leaves no process behind."""

from __future__ import annotations

import http.client
import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

from falplan.control.launch import (
    ObservedRunner,
    RunnerLaunch,
    find_strays,
    kill_runner,
    observe_runners,
    start_runner,
)
from falplan_providers.local import LocalShell

T = TypeVar("T")
APPS = Path(__file__).parent.parent / "apps"

SERVER = """
import http.server, os, sys, json
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"pid": os.getpid(), "env": dict(os.environ), "cwd": os.getcwd()}).encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *a): pass
%s
http.server.HTTPServer((os.environ["HOST"], int(os.environ["PORT"])), H).serve_forever()
"""


def python(code: str) -> tuple[str, ...]:
    """An argv that runs code."""
    return (sys.executable, "-c", code)


def server(before: str = "") -> tuple[str, ...]:
    """An argv that answers each GET with its pid and environment, after `before`."""
    return python(SERVER % before)


def until(true: Callable[[], T | bool | None], seconds: float = 20.0) -> T:
    """What `true` returns once it is something; fails after a deadline."""
    deadline = time.monotonic() + seconds
    while True:
        found = true()
        if found:
            return found  # type: ignore[return-value]  # True and None were sorted out
        assert time.monotonic() < deadline, "it did not get true in time"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process lives; a zombie does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@dataclass(slots=True)
class TestMachine:
    """One root folder on this machine."""

    __test__ = False
    root: str
    shell: LocalShell = field(default_factory=LocalShell)

    def start(self, runner_id: str, argv: tuple[str, ...], **values: Any) -> ObservedRunner:
        return start_runner(self.shell, self.root, RunnerLaunch(runner_id, argv, **values))

    def see(self, runner_id: str) -> ObservedRunner:
        return next(o for o in observe_runners(self.shell, self.root) if o.runner_id == runner_id)

    def ready(self, runner_id: str) -> ObservedRunner:
        """The runner once it is ready; fails if it ends before."""
        seen = until(lambda: (o := self.see(runner_id)).state in ("READY", "EXITED") and o)
        assert seen.ready, seen
        return seen

    def ended(self, runner_id: str, seconds: float = 20.0) -> ObservedRunner:
        return until(lambda: not (o := self.see(runner_id)).alive and o, seconds)

    def status(self, runner_id: str) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.shell.read_file(f"{self.root}/runners/{runner_id}/status.json"))
        return body

    def lines(self, runner_id: str) -> list[dict[str, Any]]:
        raw = self.shell.read_file(f"{self.root}/runners/{runner_id}/log.jsonl")
        return [json.loads(line) for line in raw.splitlines()[1:]]


@contextmanager
def a_machine(root: Path) -> Iterator[TestMachine]:
    """A machine in a folder; every runner there is killed at the end."""
    machine = TestMachine(str(root))
    try:
        yield machine
    finally:
        for runner_id in find_strays(machine.shell, machine.root, []):
            left = kill_runner(machine.shell, machine.root, runner_id)
            assert not left.alive
            assert not left.survivors


class Connection(http.client.HTTPConnection):
    """HTTP over a runner's address."""

    def __init__(self, address: str) -> None:
        super().__init__("runner", timeout=30)
        self._address = address

    def connect(self) -> None:
        kind, _, where = self._address.partition(":")
        if kind == "unix":
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(30)
            self.sock.connect(where)
        else:
            host, _, port = where.rpartition(":")
            self.sock = socket.create_connection((host, int(port)), 30)


def call(address: str, method: str, path: str, body: Any = None, request_id: str = "") -> tuple[int, bytes]:
    """(status, body) of one request."""
    connection = Connection(address)
    headers = {"content-type": "application/json", **({"x-fal-request-id": request_id} if request_id else {})}
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
