"""A control plane that lives on a host: installed, called, upgraded, killed and removed from here, through a real sshd."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from falplan.core.errors import ExitCode
from tests.acceptance.releases import NEXT, break_, installed
from tests.acceptance.test_hosts import SERVER, listing
from tests.faults.sandbox import Sandbox, wait_until
from tests.lab.loopback import LoopbackHost

pytestmark = [pytest.mark.needs("openssh-server"), pytest.mark.timeout(300)]
Make = Callable[..., LoopbackHost]


class Planted:
    """A project with two hosts, the first of which has the control plane."""

    def __init__(self, box: Sandbox, hosts: list[LoopbackHost]) -> None:
        self.box, self.hosts, self.version = box, hosts, 1
        self.gateway: dict[str, Any] = {"host": f"lab/{hosts[0].folder.name}"}
        self.pinned, self.user = True, "root"
        self.before = {h.folder.name: listing(h) for h in hosts}
        self.write()

    def write(self) -> None:
        bodies: dict[str, Any] = {}
        for host in self.hosts:
            body: dict[str, Any] = {"address": host.address, "port": host.port}
            bodies[host.folder.name] = body | ({"host_key": list(host.keys.values())} if self.pinned else {})
        region = {"provider": "ssh", "user": self.user, "identity_file": str(self.hosts[0].client_key), "hosts": bodies}
        app = {
            "command": ["python3", "server.py"],
            "files": ["server.py"],
            "machine_type": "XS",
            "regions": ["lab"],
            "keep_alive": 300,
            "min_concurrency": 1,
            "health_check": {"path": "/"},
        }
        spec = {"version": 1, "project": "planted", "owner": "acme", "gateway": self.gateway}
        spec |= {"regions": {"lab": region}, "apps": {"web": app}}
        (self.box.project / "falplan.yaml").write_text(json.dumps(spec))
        (self.box.project / "server.py").write_text(SERVER.replace("VERSION", str(self.version)))

    @property
    def home(self) -> Path:
        """The control plane's data, on its host."""
        [found] = (self.hosts[0].folder / "home/.local/state/falplan").iterdir()
        return found

    def pid(self) -> int:
        return int(json.loads((self.home / "endpoint.json").read_bytes())["pid"])

    def apply(self) -> str:
        self.write()
        return self.box.must("apply", "--auto-approve").out

    def outputs(self) -> dict[str, Any]:
        """What state knows of the gateway."""
        found: dict[str, Any] = json.loads(self.box.must("state", "show", "gateway", "--json").out)["outputs"]
        return found

    def call(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.box.must("call", "web", "{}").out)
        return answer

    def check_clean(self) -> None:
        for host in self.hosts:
            assert listing(host) == self.before[host.folder.name]
            assert not (host.folder / "ledger").exists()
            wait_until(lambda at=host: not [p for p in at.sessions() if is_falplans(p)], 10)


def is_falplans(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"server.py" in command or b"falplan" in command


@pytest.fixture
def planted(make_host: Make) -> Iterator[Planted]:
    box = Sandbox()
    (box.folder / "run").mkdir(mode=0o700)
    try:
        yield Planted(box, [make_host("a"), make_host("b")])
    finally:
        box.run("destroy", "--auto-approve")
        box.clean()


CLIENT = """
import sys, fal_client
handle = fal_client.submit("acme/web", arguments={"sleep": 0.1})
print(handle.get()["version"], handle.status().__class__.__name__)
"""


@pytest.mark.faults
def test_the_control_plane_lives_on_a_host_and_goes_without_a_trace(planted: Planted) -> None:
    box = planted.box
    assert 'host    = "lab/a"' in box.must("plan").out
    out = planted.apply()
    assert "They are found on lab/a alone." in out
    assert box.run("plan", "--detailed-exitcode").code == 0
    assert box.run("drift").code == 0
    assert planted.call()["version"] == 1
    assert not list((box.folder / "state").glob("*/*/control.db"))  # nothing of it lives here

    (box.project / "client.py").write_text(CLIENT)
    assert box.must("exec", "--", sys.executable, str(box.project / "client.py")).out.split() == ["1", "Completed"]
    assert box.run("exec", "--", "sh", "-c", "exit 7").code == 7
    refused = box.run("env")
    assert refused.code == ExitCode.FAILED and "It listens on lab/a alone." in refused.err
    assert box.must("backup", "kept.tar.gz").out.startswith("Wrote ")

    planted.version = 2
    planted.apply()
    assert planted.call()["version"] == 2
    box.must("destroy", "--auto-approve")
    planted.check_clean()


@pytest.mark.faults
def test_one_that_was_killed_is_started_again_with_all_that_it_had(planted: Planted) -> None:
    planted.apply()
    box, known = planted.box, planted.outputs()
    runners = box.must("runners", "list", "--json").out
    os.kill(planted.pid(), signal.SIGKILL)
    wait_until(lambda: box.run("plan", "--detailed-exitcode").code == ExitCode.DIFFERENCE, 20)
    assert "it is stopped on lab/a: it is started again" in box.must("plan").out
    stopped = box.run("call", "web", "{}")
    assert stopped.code == ExitCode.FAILED and "It is stopped on lab/a" in stopped.err
    planted.apply()
    again = planted.outputs()
    assert {n: v for n, v in again.items() if n != "epoch"} == {n: v for n, v in known.items() if n != "epoch"}
    assert planted.call()["version"] == 1
    ids = [{r["runner_id"] for r in json.loads(text)} for text in (runners, box.must("runners", "list", "--json").out)]
    assert ids[0] == ids[1]


@pytest.mark.faults
def test_a_host_that_does_not_answer_leaves_all_unknown_and_a_dead_one_can_be_given_up(planted: Planted) -> None:
    planted.apply()
    box, gateway = planted.box, planted.outputs()["id"]
    a = planted.hosts[0]
    still = box.run("plan", "--gateway-is-dead", gateway)
    assert still.code == ExitCode.REFUSED and "Its host answers" in still.err
    foreign = box.run("plan", "--gateway-is-dead", gateway, FALPLAN_KEY="key-000000000000:wrong")
    assert foreign.code == ExitCode.REFUSED and "Its host answers" in foreign.err
    kept = box.must("backup", "kept.tar.gz").out
    assert "control plane" in kept
    a.stop()
    a.cut_all()
    plan = box.run("plan")
    assert "the control plane lives on lab/a: The host can't be reached" in plan.out + plan.err
    drift = box.run("drift")
    assert drift.code == ExitCode.FAILED and "unknown" in drift.out
    assert box.run("destroy", "--auto-approve").code == ExitCode.FAILED
    a.start()
    planted.apply()
    assert box.run("plan", "--detailed-exitcode").code == 0


@pytest.mark.faults
def test_it_does_not_move_by_itself_and_lives_on_no_host_that_is_not_there(planted: Planted) -> None:
    planted.apply()
    box = planted.box
    for gateway, says in (
        ({"host": "lab/b"}, "It lives on lab/a, and the spec wants it on lab/b"),
        ({"ephemeral": True}, "It lives on lab/a, and the spec wants it on this machine"),
        ({"url": "https://other.example"}, "It lives on lab/a"),
    ):
        planted.gateway = gateway
        planted.write()
        refused = box.run("apply", "--auto-approve")
        assert refused.code == ExitCode.REFUSED and says in refused.err
    planted.gateway = {"host": "lab/a"}
    planted.user = "nobody"
    planted.write()
    refused = box.run("plan")
    assert refused.code == ExitCode.REFUSED and "Another user of lab/a is another place" in refused.err
    planted.user = "root"
    planted.gateway = {"host": "lab/c"}
    planted.write()
    wrong = box.run("plan")
    assert wrong.code == ExitCode.SPEC_INVALID and 'no region has the host "lab/c"' in wrong.err and "lab/" in wrong.err
    planted.gateway = {"host": "lab/a", "ephemeral": True}
    planted.write()
    assert "`ephemeral` does not go with `host`" in box.run("plan").err
    planted.gateway = {"host": "lab/a"}
    planted.write()


@pytest.mark.faults
def test_nothing_is_put_on_a_host_whose_key_nobody_confirmed(planted: Planted) -> None:
    planted.pinned = False
    planted.write()
    refused = planted.box.run("apply", "--auto-approve")
    assert refused.code == ExitCode.REFUSED and "+ trust SHA256:" in refused.out
    for host in planted.hosts:
        assert listing(host) == planted.before[host.folder.name]
    planted.box.must("plan", "--out", "reviewed.plan")
    planted.box.must("apply", "reviewed.plan")
    assert planted.call()["version"] == 1
    assert planted.box.run("plan", "--detailed-exitcode").code == 0


@pytest.mark.faults
def test_one_that_hangs_is_killed_by_destroy(planted: Planted) -> None:
    planted.apply()
    os.kill(planted.pid(), signal.SIGSTOP)
    planted.box.must("destroy", "--auto-approve")
    planted.check_clean()


@pytest.mark.faults
def test_another_port_or_address_is_found_wherever_the_change_was_broken_off(planted: Planted) -> None:
    """Seen red with a port that was read from the settings: the next command looked for it where nobody listened yet."""
    planted.apply()
    box, before = planted.box, planted.outputs()["url"]
    planted.gateway |= {"listen": "::1", "hostname": "here.example"}
    planted.write()
    assert box.run("apply", "--auto-approve", FALPLAN_FAILPOINTS="host_gateway.install.after=kill").code == -9
    assert "interrupted" in box.must("plan").out
    planted.apply()
    assert planted.outputs()["url"] not in (before, "")
    assert "They are found on lab/a alone." in planted.apply()
    assert planted.call()["version"] == 1
    box.must("destroy", "--auto-approve")
    planted.check_clean()


@pytest.mark.faults
def test_a_backup_is_brought_back_from_here(planted: Planted) -> None:
    planted.apply()
    box, known = planted.box, planted.outputs()
    box.must("backup", str(box.folder / "kept.tar.gz"))
    early = box.run("restore", str(box.folder / "kept.tar.gz"))
    assert early.code == ExitCode.LOCKED and "End it on lab/a" in early.err
    home = planted.home
    os.kill(planted.pid(), signal.SIGTERM)
    wait_until(lambda: "it is stopped on lab/a" in box.run("plan").out, 30)
    (home / "control.db").write_bytes(b"overwritten by accident")
    (box.folder / "bad.tar.gz").write_bytes((box.folder / "kept.tar.gz").read_bytes()[:-100])
    assert box.run("restore", str(box.folder / "bad.tar.gz")).code == ExitCode.REFUSED
    assert "Restored the backup of" in box.must("restore", str(box.folder / "kept.tar.gz")).out
    planted.apply()
    assert planted.call()["version"] == 1
    assert planted.outputs()["id"] == known["id"]
    assert box.run("plan", "--detailed-exitcode").code == 0


POINTS = [
    "host_gateway.claim.after",
    "host_gateway.install.after",
    "host_gateway.start.after",
    "host_gateway.keep.after",
    "host_gateway.remove.after_stop",
    "apply.gateway.before_act",
    "apply.gateway.after_act",
    "call.configure.before_send",
    "call.configure.after_answer",
]


@pytest.mark.faults
@pytest.mark.parametrize("point", POINTS)
def test_a_command_that_is_killed_is_carried_on_by_the_next(planted: Planted, point: str) -> None:
    """What was begun on the host is found there again, by the way that state knows before anything is done."""
    box = planted.box
    killed = box.run("apply", "--auto-approve", FALPLAN_FAILPOINTS=f"{point}=kill").code
    if point.startswith("host_gateway.claim"):
        box.must("destroy", "--auto-approve")  # half of it is taken away, too
        planted.check_clean()
    planted.apply()
    assert box.run("plan", "--detailed-exitcode").code == 0
    assert planted.call()["version"] == 1
    ended = box.run("destroy", "--auto-approve", FALPLAN_FAILPOINTS=f"{point}=kill").code
    assert -signal.SIGKILL in (killed, ended)
    if ended:
        box.must("destroy", "--auto-approve")
    planted.check_clean()


@pytest.mark.faults
def test_it_is_upgraded_in_place_and_taken_back_if_it_does_not_get_healthy(
    planted: Planted, newer: Path, sources: Path, tmp_path: Path
) -> None:
    box = planted.box
    planted.apply()
    was, runners = planted.outputs(), box.must("runners", "list", "--json").out
    broken = installed(sources, tmp_path)
    break_(broken, "falplan/gateway/server.py", "\nraise RuntimeError('not today')\n")
    box.falplan = (str(broken), "-m", "falplan")
    failed = box.run("apply", "--auto-approve")
    assert (
        failed.code == ExitCode.FAILED
        and "The old one serves on" in failed.err
        and "RuntimeError at server.py" in failed.err
    )
    box.falplan = (sys.executable, "-m", "falplan")
    assert planted.call()["version"] == 1

    box.falplan = (str(newer), "-m", "falplan")
    out = box.must("apply", "--auto-approve")
    assert "side by side" in out.err
    assert planted.call()["version"] == 1
    assert planted.outputs()["id"] == was["id"] and planted.outputs()["url"] == was["url"]
    ids = [{r["runner_id"] for r in json.loads(text)} for text in (runners, box.must("runners", "list", "--json").out)]
    assert ids[0] == ids[1]
    box.falplan = (sys.executable, "-m", "falplan")
    planted.gateway |= {"protect": True}
    planted.apply()  # by the older one, which leaves the newer where it is
    planted.gateway |= {"protect": False}
    planted.apply()
    box.falplan = (str(newer), "-m", "falplan")
    os.kill(planted.pid(), signal.SIGKILL)
    box.must("apply", "--auto-approve")
    assert NEXT in box.must("state", "show", "gateway").out
    box.must("destroy", "--auto-approve")
    planted.check_clean()
