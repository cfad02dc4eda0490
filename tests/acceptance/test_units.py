"""Runners as units of a real systemd: what they may do, how they come back after a restart, and that nothing of them stays."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from falplan.core.errors import ExitCode
from tests.faults.sandbox import Missing, Sandbox, wait_until
from tests.lab.namespaces import Lab
from tests.lab.systemd import SystemdHost, add_systemd

pytestmark = [
    pytest.mark.needs("openssh-server"),
    pytest.mark.needs("iproute2"),
    pytest.mark.needs("iptables"),
    pytest.mark.needs("systemd-container"),
    pytest.mark.timeout(300),
]

SERVER = """
import http.server, json, os, subprocess
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
        done = subprocess.run(["sh", "-c", body.get("sh", "true")], capture_output=True, text=True)
        answer = json.dumps({"said": done.stdout.strip(), "runner": os.environ["FAL_JOB_ID"]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    do_POST = do_GET
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""


class Project:
    """One app with a secret on one host. Used inside the lab."""

    gateway: ClassVar[dict[str, Any]] = {"ephemeral": True}

    def __init__(self, host: SystemdHost, user: str = "root", folder: str = "", **options: Any) -> None:
        self.host, self.user, self.folder, self.options, self.box = host, user, folder, options, Sandbox()
        (self.box.folder / "run").mkdir(mode=0o700)
        self.before = self.traces()
        self.write()

    def write(self, *apps: str) -> None:
        host = {"address": self.host.address, "host_key": self.host.trusted, **self.options}
        region = {"provider": "ssh", "user": self.user, "identity_file": str(self.host.lab.key), "hosts": {"one": host}}
        region |= {"folder": self.folder} if self.folder else {}
        app = {
            "command": ["/usr/bin/python3", "server.py"],
            "files": ["server.py"],
            "machine_type": "XS",
            "regions": ["lab"],
            "min_concurrency": 1,
            "max_concurrency": 1,
            "secrets": ["PLANTED"],
            "health_check": {"path": "/"},
        }
        spec = {
            "version": 1,
            "project": "units",
            "owner": "acme",
            "gateway": self.gateway,
            "environments": {"main": {"secrets": {"PLANTED": {"env": "PLANTED"}}}},
            "regions": {"lab": region},
            "apps": dict.fromkeys(("web", *apps), app),
        }
        (self.box.project / "falplan.yaml").write_text(json.dumps(spec))
        (self.box.project / "server.py").write_text(SERVER)

    def apply(self) -> str:
        return self.box.must("apply", "--auto-approve").out

    def sh(self, line: str, app: str = "web") -> str:
        """What the app's own shell prints."""
        said: str = json.loads(self.box.must("call", app, json.dumps({"sh": line})).out)["said"]
        return said

    def runner(self) -> str:
        found: str = json.loads(self.box.must("call", "web", "{}").out)["runner"]
        return found

    def units(self) -> list[str]:
        return [
            line.split()[0] for line in self.host.run("systemctl list-units 'falplan-*' --no-legend --all").splitlines()
        ]

    def traces(self) -> str:
        """What falplan could leave: files where it and systemd keep theirs, units, users, processes."""
        files = (
            "find /etc/systemd /etc/passwd /etc/group /var/lib /run/systemd/dynamic-uid /home/lab /home/worker -xdev"
        )
        seen = f"{files} -printf '%p %m %U\\n' 2>/dev/null | grep -v '/var/lib/dpkg/\\|/var/lib/private \\|/dynamic-uid \\|/timesync\\|/.ssh/known' | sort"
        ours = "systemctl list-units 'falplan-*' --no-legend --all; ps -eo args | grep '[s]upervisor.py' || true"
        return self.host.run(f"{seen}; {ours}")

    def destroy(self) -> None:
        self.box.must("destroy", "--auto-approve")

    def drop(self) -> None:
        try:
            self.box.destroy()
        finally:
            self.box.clean()


@pytest.fixture(scope="module")
def host() -> Iterator[SystemdHost]:
    try:
        with Lab() as lab:
            host = add_systemd(lab, "one")
            host.add_lingering_user("worker")
            yield host
    except Missing as exc:
        pytest.skip(str(exc))


@pytest.fixture
def project(host: SystemdHost) -> Iterator[Callable[..., Project]]:
    made: list[Project] = []

    def make(**options: Any) -> Project:
        made.append(Project(host, **options))
        return made[-1]

    with host.lab.inside():
        yield make
        for one in made:
            one.drop()


def test_a_runner_is_a_unit_with_a_user_of_its_own_that_sees_and_may_do_little(project: Callable[..., Project]) -> None:
    one = project()
    one.apply()
    (unit,) = one.units()
    shown = one.host.run(
        f"systemctl show -p User,DynamicUser,NoNewPrivileges,MemoryMax,CPUQuotaPerSecUSec,UnitFileState {unit}"
    )
    folder = one.host.run("ls -d /home/lab/.local/share/falplan/*").strip()

    assert "DynamicUser=yes" in shown
    assert "NoNewPrivileges=yes" in shown
    assert "UnitFileState=enabled" in shown
    assert "MemoryMax=infinity" not in shown
    assert "CPUQuotaPerSecUSec=infinity" not in shown
    assert int(one.sh("id -u")) > 60_000
    assert one.sh("echo $PLANTED") == "planted-1"
    assert "host.json" not in one.sh(f"ls {folder}")
    assert one.sh("touch /etc/mine /usr/mine 2>/dev/null || echo no") == "no"
    assert one.sh("touch ~/kept && ls ~") == "kept"
    assert one.sh("grep CapEff /proc/self/status").split() == ["CapEff:", "0" * 16]
    assert one.sh("ls .. || touch ../mine || mv ../status.json ../s || cat ../runner.json || echo no") == "no"
    assert one.host.run(f"stat -c %u {folder}/runners/*/status.json {folder}/runners/*/log.jsonl").split() == ["0", "0"]
    assert one.sh("ls -A /tmp /root | grep -c lab_") == "0"
    assert one.sh("ps -e -o user= | sort -u | wc -l") == "1", "nobody else's processes are seen"
    assert "planted-1" not in one.host.run(
        f"cat /etc/systemd/system/{unit}; systemctl show {unit}; grep -r planted-1 {folder} || true"
    )

    one.destroy()
    assert one.traces() == one.before


@pytest.mark.faults
def test_what_somebody_changed_of_a_unit_or_of_an_apps_files_is_drift_and_is_set_back(
    project: Callable[..., Project],
) -> None:
    one = project()
    one.apply()
    runner, (unit,) = one.runner(), one.units()
    file = f"/etc/systemd/system/{unit}"
    one.host.run(f"sed -i s/UMask=0077/UMask=0000/ {file} && systemctl daemon-reload")
    drift = one.box.run("drift")
    apply = one.apply()
    back = one.host.run(f"grep UMask {file}")
    one.host.run(
        f"mkdir {file}.d && printf '[Service]\\nMemoryMax=infinity\\n' > {file}.d/override.conf && systemctl daemon-reload"
    )
    overridden = one.box.run("drift").out
    one.apply()
    undisturbed = one.runner()
    one.host.run("cd /home/lab/.local/share/falplan/*/bundles/*/ && chmod u+w . server.py && echo '#' >> server.py")
    plan = one.box.must("plan").out
    one.apply()

    assert drift.code == ExitCode.DIFFERENCE
    assert f"~ host.lab.one has been altered: somebody changed the unit of {runner}" in drift.out
    assert f"somebody changed the unit of {runner}: it is set back" in apply
    assert back == "UMask=0077\n"
    assert f"somebody changed the unit of {runner}" in overridden
    assert "somebody changed the files of bundle" in plan
    assert one.box.run("plan", "--detailed-exitcode").code == 0
    assert undisturbed == runner, "setting a unit back disturbs nobody"
    # What it would read when it is started again is somebody else's: another one takes its place.
    wait_until(lambda: one.runner() != runner and len(one.units()) == 1, 60, one.units)


@pytest.mark.faults
def test_the_home_of_an_app_goes_with_it_and_that_of_another_stays(project: Callable[..., Project]) -> None:
    """Seen red with homes that nobody pruned, and with a check that asked no unit whose home it is."""
    one = project()
    one.write("old")
    one.apply()
    for app in ("web", "old"):
        one.sh("echo model > ~/cached", app)
    homes = "cd /home/lab/.local/share/falplan/*/homes && du -a --apparent-size | grep -c cached"
    both = one.host.run(homes)
    early = json.loads(one.box.must("prune", "--dry-run", "--json").out)["pruned"]
    one.write()
    one.apply()
    late = json.loads(one.box.must("prune", "--json").out)["pruned"]

    assert both.strip() == "2"
    assert [p["count"] for p in early if p["what"] == "homes"] == [0]
    assert [(p["count"], p["size"]) for p in late if p["what"] == "homes"] == [(1, len("model\n"))]
    assert one.host.run(homes).strip() == "1"
    assert one.sh("cat ~/cached") == "model"
    folder = one.host.run("ls -d /home/lab/.local/share/falplan/*").strip()
    ask = {"verb": "forget_homes", "root": folder, "homes": one.host.run(f"ls {folder}/homes").split()}
    one.host.run(f"echo '{json.dumps(ask)}' | python3 -I -S {folder}/tools/*/agent.py")
    assert one.sh("cat ~/cached") == "model", "a runner has it"

    one.destroy()
    assert one.traces() == one.before


@pytest.mark.faults
def test_a_runner_comes_back_with_its_machine_and_gets_its_secrets_again(project: Callable[..., Project]) -> None:
    one = project()
    one.apply()
    runner = one.runner()

    one.host.power_off()
    one.host.boot()

    assert one.sh("echo $PLANTED") == "planted-1"
    assert one.runner() == runner, "it is the same one"
    assert one.box.run("plan", "--detailed-exitcode").code == 0
    assert len(one.units()) == 1

    one.host.restart()
    assert one.sh("echo $PLANTED") == "planted-1"
    wait_until(lambda: len(one.units()) == 1, 30)
    assert one.box.run("plan", "--detailed-exitcode").code == 0


@pytest.mark.faults
def test_a_runner_that_was_ended_while_its_machine_was_down_does_not_come_back(project: Callable[..., Project]) -> None:
    one = project()
    one.apply()
    (unit,) = one.units()
    one.host.run("for r in /home/lab/.local/share/falplan/*/runners/*/; do touch $r/ending; done")
    one.host.power_off()
    one.host.boot()

    wait_until(lambda: one.units() not in ([], [unit]), 60)
    assert one.sh("echo $PLANTED") == "planted-1"


@pytest.mark.faults
def test_a_runner_that_takes_too_much_memory_is_ended_and_says_so(project: Callable[..., Project]) -> None:
    one = project()
    one.apply()
    hungry = "python3 -c 'import time; x = bytes([1]) * 700_000_000; time.sleep(600)' & sleep 600"
    call = one.box.start("call", "web", json.dumps({"sh": hungry}))
    logs = "cat /home/lab/.local/share/falplan/*/runners/*/log.jsonl"
    try:
        wait_until(lambda: "memory limit 512 MB exceeded" in one.host.run(logs), 60)
    finally:
        call.kill()
        call.communicate()


@pytest.mark.faults
def test_a_user_without_root_gets_units_of_his_own_manager(project: Callable[..., Project]) -> None:
    one = project(user="worker")
    one.apply()
    runner = one.runner()
    units = one.host.run(
        "XDG_RUNTIME_DIR=/run/user/$(id -u) systemctl --user list-units 'falplan-*' --no-legend", "worker"
    )

    assert runner in units
    assert one.sh("id -un") == "worker"
    assert one.sh("grep NoNewPrivs /proc/self/status").split() == ["NoNewPrivs:", "1"]
    one.host.power_off()
    one.host.boot()
    assert one.runner() == runner
    assert one.sh("echo $PLANTED") == "planted-1"
    one.destroy()
    assert one.traces() == one.before


RIGHTS = "/etc/sudoers.d/lab"


@pytest.mark.needs("sudo")
@pytest.mark.faults
def test_sudo_makes_units_of_the_systems_and_says_why_it_can_not(project: Callable[..., Project]) -> None:
    one = project(user="worker", sudo=True)
    may = "worker ALL=(ALL) {}ALL"

    def refused(*rights: str) -> str:
        text = "".join(f"{line}\\n" for line in rights)
        one.host.run(f"printf '{text}' > {RIGHTS} && chmod 440 {RIGHTS}")
        ran = one.box.run("apply", "--auto-approve")
        assert ran.code == 1, ran
        assert one.traces() == one.before
        return ran.err

    try:
        asks = refused(may.format(""))
        needs_terminal = refused(may.format("NOPASSWD: "), "Defaults requiretty")
        allows_others = refused("worker ALL=(ALL) NOPASSWD: /bin/true")
        one.host.run(f"printf '{may.format('NOPASSWD: ')}\\nDefaults env_reset\\n' > {RIGHTS}")
        one.apply()
        runner = one.runner()

        assert "sudo asks for a password. Allow it without one (NOPASSWD in sudoers)" in asks
        assert "sudoers says `requiretty`. Take it out for this user." in needs_terminal
        assert "sudo does not work there" in allows_others
        assert one.units() == one.host.run(f"ls /etc/systemd/system | grep '^falplan-.*{runner}'").split()
        assert int(one.sh("id -u")) > 60_000, "a user of its own"
        assert one.sh("echo $PLANTED") == "planted-1"
        written = one.host.run("journalctl --no-pager -o cat; cat /var/log/auth.log 2>/dev/null || true")
        assert "sudo" in written
        assert "planted-1" not in written
        one.destroy()
        assert one.traces() == one.before
    finally:
        one.host.run(f"rm -f {RIGHTS}")


@pytest.mark.faults
def test_options_say_who_runners_run_as_and_whether_they_are_units(project: Callable[..., Project]) -> None:
    one = project(run_as="worker", writable=["/srv"], folder="/var/lib/fp")
    one.host.run("chown worker /srv")
    one.apply()
    runner = one.runner()

    assert one.sh("id -un") == "worker"
    assert one.sh("touch /srv/mine && ls /srv; touch /usr/mine 2>/dev/null || echo no") == "mine\nno"
    one.host.run("rm /srv/mine; chown root /srv")

    one.options = {"systemd": False}
    one.write()
    assert "systemd" in one.apply()
    assert one.runner() == runner, "who runs already goes on as he is"
    one.host.run("systemctl stop 'falplan-*'")
    wait_until(lambda: one.units() == [], 30)
    assert one.sh("id -un") == "root"
    assert one.units() == []
    one.destroy()
    assert one.traces() == one.before


@pytest.mark.faults
def test_a_runner_that_is_reached_directly_keeps_its_key_from_its_app(project: Callable[..., Project]) -> None:
    """Its TLS front is root's, as its supervisor is, and gets key and token again with the secrets when its machine was restarted."""
    one = project(reach="direct", direct_ports="20500-20599")
    one.apply()
    runner = one.runner()
    fronts = one.host.run("pgrep -f '[/]front.py'").split()

    assert len(fronts) == 1
    assert one.host.run(f"ps -o user= -p {fronts[0]}").strip() == "root"
    assert one.host.run(f"grep 'Cap[EP]' /proc/{fronts[0]}/status").split()[1::2] == ["0" * 16] * 2
    assert int(one.sh("id -u")) > 60_000
    assert (
        one.sh(
            f"cat /proc/{fronts[0]}/mem /proc/{fronts[0]}/environ 2>/dev/null | head -c 1; ls /proc/{fronts[0]} | wc -l"
        )
        == "0"
    )
    assert one.host.run("ss -Hltn 'sport >= :20500 and sport <= :20599'").split()[3].startswith(f"{one.host.address}:")
    assert not list((one.box.folder / "run").glob("falplan-ssh-*"))

    one.host.power_off()
    one.host.boot()
    assert one.sh("echo $PLANTED") == "planted-1"
    assert one.runner() == runner, "it is the same one"
    assert not list((one.box.folder / "run").glob("falplan-ssh-*"))
    one.destroy()
    assert one.traces() == one.before
    assert one.host.run("pgrep -f '[/]front.py' || true") == ""


@pytest.mark.faults
def test_a_firewall_in_the_way_of_a_runner_is_named(project: Callable[..., Project]) -> None:
    """By a check of the host, and by a deploy, which ends."""
    one = project(reach="direct", direct_ports="20500-20599")
    one.apply()
    runner = one.runner()
    rule = ("INPUT", "-p", "tcp", "--dport", "20500:20599", "-j", "DROP")
    one.host.filter("-I", *rule)
    try:
        checked = one.box.run("host", "check")
        assert checked.code == ExitCode.FAILED
        assert (
            f"error[direct-port]: lab/one\n  seen:     `reach: direct`, and no way to a runner's port: {one.host.address}:205"
            in checked.out
        )
        (one.box.project / "server.py").write_text(SERVER + "# changed\n")
        applied = one.box.run("apply", "--auto-approve")
        assert applied.code == ExitCode.ROLLOUT_FAILED
        way = rf"no way to it within 30 s: {one.host.address}:205\d\d \(`reach: direct`\): nothing answered within 4 s"
        assert re.search(way, applied.err), applied.err
    finally:
        one.host.filter("-D", *rule)
    assert one.box.run("host", "check").code == ExitCode.DONE
    assert one.runner(), "calls are answered again"
    one.destroy()
    assert one.traces() == one.before, runner
