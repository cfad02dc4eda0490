"""A control plane on a host as a service of its systemd: it comes back by itself, and is upgraded in place."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from falplan.stores.user_keys import cache_folder
from tests.acceptance.releases import NEXT, break_, installed
from tests.acceptance.test_units import Project
from tests.faults.sandbox import Missing, Sandbox, wait_until
from tests.lab.loopback import make_key
from tests.lab.namespaces import Lab
from tests.lab.systemd import SystemdHost, add_systemd

pytestmark = [
    pytest.mark.needs("openssh-server"),
    pytest.mark.needs("iproute2"),
    pytest.mark.needs("iptables"),
    pytest.mark.needs("systemd-container"),
    pytest.mark.timeout(300),
    pytest.mark.faults,
]


BUS = "XDG_RUNTIME_DIR=/run/user/$(id -u)"
"""A login of the lab has no session of its own that would say it."""


class Planted(Project):
    """The control plane is where the app is."""

    gateway: ClassVar[dict[str, Any]] = {"host": "lab/one"}

    def unit(self, manager: str = "") -> str:
        line = f"{BUS} systemctl {manager} list-units 'falplan-plane-*' --no-legend --all"
        return self.host.run(line, self.user).split()[0]

    def shown(self, *names: str, manager: str = "") -> dict[str, str]:
        """Properties of its unit."""
        line = f"{BUS} systemctl {manager} show -p {','.join(names)} {self.unit(manager)}"
        return dict(found.split("=", 1) for found in self.host.run(line, self.user).splitlines())

    def answers(self) -> bool:
        return self.box.run("plan", "--detailed-exitcode").code == 0

    def outputs(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.box.must("state", "show", "gateway", "--json").out)["outputs"]
        return found

    def restarts(self, pid: str) -> bool:
        """Whether another process is the main one by now, and serves."""
        shown = self.shown("MainPID", "ActiveState")
        return shown["MainPID"] not in (pid, "0") and shown["ActiveState"] == "active"


@pytest.fixture(scope="module")
def host(newer: Path) -> Iterator[SystemdHost]:
    fetch_wheels(sys.executable)
    fetch_wheels(newer)
    try:
        with Lab() as lab:
            host = add_systemd(lab, "one")
            host.add_lingering_user("worker")
            yield host
    except Missing as exc:
        pytest.skip(str(exc))


FETCH = """
import sys
from pathlib import Path
from falplan.control.locks import lock_requirements
from falplan.control.installing import requirements_here
from falplan.control.wheels import ensure_wheels
from falplan.core.spec.resolved import AppKind
from falplan.stores.home import ControlHome
cache, python = Path(sys.argv[1]), f"{sys.version_info.major}.{sys.version_info.minor}"
lock = lock_requirements(requirements_here(), python=python, cache=cache, cwd=Path("/"), kind=AppKind.COMMAND)
ensure_wheels(ControlHome(cache).cache, lock, progress=print)
"""


def fetch_wheels(python: str | Path) -> None:
    """What that falplan needs, into the cache that its commands use: nobody in the lab reaches a package index."""
    box = Sandbox()
    subprocess.run([str(python), "-c", FETCH, str(cache_folder(box.environ(), "install"))], check=True, cwd="/")
    box.clean()


@pytest.fixture(scope="module")
def broken(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release whose control plane can't start."""
    python = installed(sources, tmp_path_factory.mktemp("broken"))
    break_(python, "falplan/gateway/server.py", "\nraise RuntimeError('not today')\n")
    fetch_wheels(python)
    return python


@pytest.fixture
def planted(host: SystemdHost) -> Iterator[Planted]:
    with host.lab.inside():
        made = Planted(host, install="push")
        try:
            yield made
        finally:
            made.drop()


def test_it_is_a_service_that_comes_back_by_itself_with_its_runners(planted: Planted) -> None:
    planted.apply()
    assert planted.answers()
    runner, shown = planted.runner(), planted.shown("Type", "UnitFileState", "ActiveState", "MainPID", "KillMode")
    assert shown | {"MainPID": ""} == {
        "Type": "notify",
        "UnitFileState": "enabled",
        "ActiveState": "active",
        "MainPID": "",
        "KillMode": "process",
    }

    planted.host.run(f"kill -9 {shown['MainPID']}")
    wait_until(lambda: planted.restarts(shown["MainPID"]), 30)
    wait_until(planted.answers, 30)
    assert planted.runner() == runner

    before = planted.outputs()
    planted.host.power_off()
    planted.host.boot()
    wait_until(planted.answers, 60)
    assert planted.outputs() == before
    wait_until(lambda: planted.box.run("call", "web", "{}").code == 0, 60)

    planted.host.run(f"systemctl stop {planted.unit()}")
    assert "it is stopped on lab/one: it is started again" in planted.box.must("plan").out
    planted.apply()
    assert planted.answers()
    planted.destroy()
    assert planted.traces() == planted.before


def test_a_user_without_root_has_it_kept_by_his_own_systemd(host: SystemdHost) -> None:
    with host.lab.inside():
        planted = Planted(host, user="worker", install="push")
        try:
            planted.apply()
            shown = planted.shown("MainPID", "UnitFileState", manager="--user")
            assert shown["UnitFileState"] == "enabled"
            planted.host.run(f"kill -9 {shown['MainPID']}", "worker")
            wait_until(planted.answers, 60)
            planted.destroy()
            assert planted.traces() == planted.before
        finally:
            planted.drop()


def test_systemd_follows_an_upgrade_and_keeps_what_serves(newer: Path, broken: Path, planted: Planted) -> None:
    planted.apply()
    runner, main, command = planted.runner(), planted.shown("MainPID")["MainPID"], planted.shown("ExecStart")
    planted.box.falplan = (str(broken), "-m", "falplan")
    failed = planted.box.run("apply", "--auto-approve")
    assert failed.code == 1 and "The old one serves on" in failed.err and "RuntimeError at server.py" in failed.err
    assert planted.shown("MainPID")["MainPID"] == main
    assert planted.shown("ExecStart")["ExecStart"].split(" ;")[0] == command["ExecStart"].split(" ;")[0]

    planted.box.falplan = (str(newer), "-m", "falplan")
    assert "side by side" in planted.box.must("apply", "--auto-approve").err
    wait_until(lambda: planted.restarts(main), 30)
    assert planted.runner() == runner
    after = planted.shown("MainPID", "NRestarts", "ExecStart")
    assert after["NRestarts"] == "0"
    assert after["ExecStart"].split(" ;")[0] != command["ExecStart"].split(" ;")[0]
    planted.host.run(f"kill -9 {after['MainPID']}")
    wait_until(lambda: planted.restarts(after["MainPID"]), 30)
    wait_until(planted.answers, 30)
    assert NEXT in planted.box.must("state", "show", "gateway").out
    planted.box.falplan = (sys.executable, "-m", "falplan")
    planted.destroy()


def test_others_call_it_by_https_where_it_listens_for_them(planted: Planted) -> None:
    """With a key and no way to log in, as a colleague has it."""
    spec = planted.box.project / "falplan.yaml"
    body = json.loads(spec.read_text())
    body["gateway"] |= {"listen": "0.0.0.0", "hostname": planted.host.address}
    spec.write_text(json.dumps(body))
    planted.apply()
    assert planted.outputs()["url"].startswith(f"https://{planted.host.address}:")
    assert planted.sh("echo hello") == "hello"
    key = json.loads(planted.box.must("keys", "create", "--scope", "ADMIN", "--json").out)["key"]
    own = spec.read_text()
    make_key(planted.box.folder / "other")
    spec.write_text(own.replace(str(planted.host.lab.key), str(planted.box.folder / "other")))
    more = {"FALPLAN_KEY": key}
    assert "refuses the login" in planted.box.run("runners", "list").err
    assert planted.box.run("runners", "list", **more).code == 0
    assert planted.box.run("call", "web", "{}", **more).code == 0
    assert "FAL_RUN_HOST" in planted.box.must("env", **more).out
    spec.write_text(own)
