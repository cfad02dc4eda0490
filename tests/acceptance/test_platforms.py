"""Apps whose hosts are of another platform than the control plane's machine: what is locked and fetched for them, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from falplan.core.errors import ExitCode
from falplan.sdk.here import own_platform
from tests.faults.sandbox import Ran, Sandbox
from tests.lab.index import Index
from tests.lab.loopback import LoopbackHost
from tests.lab.other_machine import pretend

pytestmark = [
    pytest.mark.needs("openssh-server"),
    pytest.mark.needs("gcc"),
    pytest.mark.timeout(300),
    pytest.mark.skipif(own_platform() != "linux-x86_64", reason="arm64 is to be another platform than this one"),
]
Make = Callable[..., LoopbackHost]

SERVER = """
import http.server, os
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


@dataclass
class Mixed:
    """A project whose one host says that it is an arm64 machine."""

    box: Sandbox
    host: LoopbackHost
    index: Index
    regions: Sequence[str] = ("lab",)
    requirements: Sequence[str] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def apply(self) -> Ran:
        body = {"address": self.host.address, "port": self.host.port, "host_key": list(self.host.keys.values())}
        region = {"provider": "ssh", "user": "root", "identity_file": str(self.host.client_key), "hosts": {"arm": body}}
        app = {
            "command": ["python", "server.py"],
            "files": ["server.py"],
            "requirements": list(self.requirements),
            "machine_type": "XS",
            "regions": list(self.regions),
            "health_check": {"path": "/"},
        }
        spec = {"version": 1, "project": "mixed", "owner": "acme", "gateway": {"ephemeral": True}, "apps": {"web": app}}
        spec |= {"regions": {"here": {"provider": "local"}, "lab": {**region, **self.options}}}
        (self.box.project / "falplan.yaml").write_text(json.dumps(spec))
        (self.box.project / "server.py").write_text(SERVER)
        return self.box.run("apply", "--auto-approve", **self.index.environment)

    def locks(self) -> list[dict[str, Any]]:
        """What the control plane keeps."""
        return [json.loads(p.read_text()) for p in self.box.folder.glob("state/falplan/*/locks/*.json")]


@pytest.fixture
def mixed(make_host: Make, tmp_path: Path) -> Iterator[Mixed]:
    box = Sandbox()
    (box.folder / "run").mkdir(mode=0o700)
    host = make_host("arm", start=False)
    (host.folder / "bin").mkdir()
    pretend(host.folder / "bin", "aarch64")
    host.path = f"{host.folder / 'bin'}:/usr/bin:/bin"
    try:
        yield Mixed(box, host.start(), Index(tmp_path / "index"))
    finally:
        box.run("destroy", "--auto-approve")
        box.clean()


def test_what_can_not_be_had_for_a_host_fails_its_build_before_any_app_is_touched(mixed: Mixed) -> None:
    mixed.index.wheel("fp_here", tag="py3-none-manylinux_2_17_x86_64")
    mixed.requirements = ["fp-here"]
    ran = mixed.apply()
    assert ran.code == ExitCode.FAILED
    assert "build.main.web" in ran.err and "The requirements can't be locked" in ran.err
    assert "For linux-aarch64, which lab/arm is: " in ran.err

    mixed.index.source("fp_native", "py3-none-linux_x86_64")
    mixed.requirements, mixed.options = ["fp-native"], {"install": "push"}
    ran = mixed.apply()
    assert ran.code == ExitCode.FAILED
    assert "There is no wheel for linux-aarch64" in ran.err
    assert "fp-native==1.0: there is none, and its source makes a wheel for this machine alone" in ran.err
    assert "app.main.web" not in mixed.box.must("state", "list").out
    assert mixed.locks() == []


def test_an_app_of_two_platforms_is_locked_for_both_and_runs_where_it_can(mixed: Mixed) -> None:
    mixed.index.wheel("fp_each", "1.0", "py3-none-manylinux_2_17_aarch64")
    mixed.index.wheel("fp_each", "1.0", "py3-none-manylinux_2_17_x86_64")
    mixed.requirements, mixed.regions = ["fp-each"], ("here", "lab")
    mixed.apply()
    (body,) = mixed.locks()

    assert body["platform"] == "linux-x86_64" and [*body["others"]] == ["linux-aarch64"]
