"""Hosts that lack the Python of an app: plan refuses what can run nowhere, and leaves out those where it can't. On real sshds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from falplan.core.errors import ExitCode
from tests.faults.sandbox import Sandbox
from tests.lab.loopback import LoopbackHost
from tests.lab.pythons import another_python

pytestmark = [
    pytest.mark.needs("openssh-server"),
    pytest.mark.timeout(300),
    pytest.mark.skipif(another_python() is None, reason="needs two Pythons of different versions on this machine"),
]
Make = Callable[..., LoopbackHost]

SERVER = """
import http.server, json, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        answer = json.dumps({"home": os.environ["HOME"], "python": "%d.%d" % sys.version_info[:2]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    do_POST = do_GET
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""


@dataclass
class Fleet:
    """A project whose app asks for another Python than this machine's own; its hosts have what `give` gives them."""

    box: Sandbox
    make: Make
    hosts: dict[str, LoopbackHost]
    options: dict[str, Any]

    def add(self, name: str, *pythons: Path) -> LoopbackHost:
        """A host on whose path are the system's Pythons, and these."""
        host = self.make(name, start=False)
        tools = host.folder / "bin"
        tools.mkdir()
        for program in pythons:
            self.give(host, program)
        host.path = f"{tools}:/usr/bin:/bin"
        self.hosts[name] = host.start()
        return host

    @staticmethod
    def give(host: LoopbackHost, program: Path) -> None:
        (host.folder / "bin" / program.name).symlink_to(program)

    def write(self, least: int = 1) -> None:
        bodies = {
            n: {"address": h.address, "port": h.port, "host_key": list(h.keys.values())} for n, h in self.hosts.items()
        }
        first = next(iter(self.hosts.values()))
        region = {"provider": "ssh", "user": "root", "identity_file": str(first.client_key), "hosts": bodies}
        app = {
            "command": ["python", "server.py"],
            "files": ["server.py"],
            "python_version": version_and_program()[0],
            "machine_type": "XS",
            "regions": ["lab"],
            "min_concurrency": least,
            "max_concurrency": 4,
            "health_check": {"path": "/"},
        }
        spec = {"version": 1, "project": "fleet", "owner": "acme", "gateway": {"ephemeral": True}}
        spec |= {"regions": {"lab": {**region, **self.options}}, "apps": {"web": app, "second": app}}
        (self.box.project / "falplan.yaml").write_text(json.dumps(spec))
        (self.box.project / "server.py").write_text(SERVER)

    def machines(self) -> set[str]:
        rows = json.loads(self.box.must("runners", "list", "--json").out)
        return {row["machine"] for row in rows}


def version_and_program() -> tuple[str, Path]:
    found = another_python()
    assert found is not None
    return found


@pytest.fixture
def fleet(make_host: Make) -> Iterator[Fleet]:
    box = Sandbox()
    (box.folder / "run").mkdir(mode=0o700)
    try:
        yield Fleet(box, make_host, {}, {})
    finally:
        box.run("destroy", "--auto-approve")
        box.clean()


@pytest.mark.faults
def test_a_plan_is_refused_before_anything_is_touched_until_a_host_has_the_python(fleet: Fleet) -> None:
    """Seen red with a plan that knew nothing of interpreters: the build, or the first runner, failed."""
    version, program = version_and_program()
    a = fleet.add("a")
    fleet.write()
    for command in (("plan",), ("apply", "--auto-approve")):
        ran = fleet.box.run(*command)
        assert ran.code == ExitCode.REFUSED
        assert "Refused by Pythons that are missing for 2 apps" in ran.err
        for name in ("web", "second"):
            assert (
                f"app.main.{name} needs Python {version}, which the only machine that it may be put on lacks" in ran.err
            )
        assert "lab/a has python3." in ran.err and f"or `uv python install {version}`" in ran.err
    assert not list((a.folder / "home").iterdir()) and not (fleet.box.folder / "state").exists()
    refused = json.loads(fleet.box.run("plan", "--json").out)
    assert refused["applyable"] is False

    fleet.give(a, program)
    fleet.add("b")  # which lacks it
    fleet.write(least=2)
    planned = fleet.box.must("plan")
    assert "which 1 of the 2 machines that it may be put on lack: it is put on the others" in planned.out
    fleet.box.must("apply", "--auto-approve", PATH="/usr/bin:/bin")  # which has no such Python
    answer = json.loads(fleet.box.must("call", "web", "{}").out)

    assert answer == {"home": str(a.folder / "home"), "python": version}
    assert fleet.machines() == {"lab/a"}
    here = [p.name for p in (fleet.box.folder / "state").glob("falplan/*/machine/environments/*")]
    assert here == [], "nothing is built where no runner may be"
    (a.folder / "bin" / program.name).unlink()
    assert fleet.box.must("plan", "--detailed-exitcode").code == 0  # what runs has its environment


@pytest.mark.faults
def test_a_host_that_does_not_answer_is_no_reason_to_refuse(fleet: Fleet) -> None:
    fleet.add("a")
    fleet.add("b").stop()
    fleet.write()
    ran = fleet.box.run("plan")

    assert ran.code == ExitCode.DONE, ran.err
    assert "lacks, as far as they could be asked" in ran.out
