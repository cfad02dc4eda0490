"""Apps on SSH hosts, through the real command line and real sshds: from the first plan to nothing left."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from falplan.core.errors import ExitCode
from tests.faults.sandbox import Ran, Sandbox, in_flight, wait_until
from tests.lab.loopback import LoopbackHost, fingerprint_of

pytestmark = [pytest.mark.needs("openssh-server"), pytest.mark.timeout(300)]
Make = Callable[..., LoopbackHost]

SERVER = """
import http.server, json, os, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        time.sleep(float(json.loads(body or b"{}").get("sleep", 0)))
        answer = json.dumps({"home": os.environ["HOME"], "version": VERSION}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    do_POST = do_GET
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


class Fleet:
    """A project whose one app runs on hosts."""

    def __init__(self, box: Sandbox, hosts: list[LoopbackHost]) -> None:
        self.box, self.hosts, self.version, self.least, self.pinned = box, hosts, 1, 1, True
        self.reserve: dict[str, int] = {}
        self.login: dict[str, Any] = {"user": "root"}  # and whatever else decides where falplan's things lie
        self.before = {h.folder.name: listing(h) for h in hosts}
        self.write()

    def write(self) -> None:
        bodies: dict[str, Any] = {}
        for host in self.hosts:
            body: dict[str, Any] = {"address": host.address, "port": host.port}
            bodies[host.folder.name] = body | ({"host_key": list(host.keys.values())} if self.pinned else {})
        region = {"provider": "ssh", "identity_file": str(self.hosts[0].client_key), "hosts": bodies, **self.login}
        region |= {"reserve": self.reserve} if self.reserve else {}
        app = {
            "command": ["python3", "server.py"],
            "files": ["server.py"],
            "machine_type": "XS",
            "regions": ["lab"],
            "keep_alive": 300,
            "min_concurrency": self.least,
            "max_concurrency": 4,
            "health_check": {"path": "/"},
        }
        spec = {"version": 1, "project": "fleet", "owner": "acme", "gateway": {"ephemeral": True}}
        spec |= {"regions": {"lab": region}, "apps": {"web": app}}
        (self.box.project / "falplan.yaml").write_text(json.dumps(spec))
        (self.box.project / "server.py").write_text(SERVER.replace("VERSION", str(self.version)))

    def must(self, *args: str, **more: str) -> str:
        return self.box.must(*args, **more).out

    def apply(self) -> str:
        self.write()
        return self.must("apply", "--auto-approve")

    def call(self, **body: float) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.must("call", "web", json.dumps(body)))
        return answer

    def where(self) -> list[str]:
        """The hosts of the runners that are up, sorted."""
        rows = json.loads(self.must("runners", "list", "--json"))
        return sorted(row["machine"].partition("/")[2] for row in rows if row["state"] in ("IDLE", "RUNNING"))

    def check_clean(self, host: LoopbackHost) -> None:
        """Nothing of ours is left on a host: no file, and no process."""
        assert listing(host) == self.before[host.folder.name]
        assert not (host.folder / "ledger").exists()
        wait_until(lambda: not [p for p in host.sessions() if runs_app(p)], 10)


def listing(host: LoopbackHost) -> list[str]:
    return sorted(str(p.relative_to(host.folder)) for p in (host.folder / "home").rglob("*"))


def runs_app(pid: int) -> bool:
    try:
        return b"server.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.fixture
def fleet(make_host: Make) -> Iterator[Fleet]:
    box = Sandbox()
    (box.folder / "run").mkdir(mode=0o700)  # where forwarded sockets lie, so that they go with the sandbox
    try:
        yield Fleet(box, [make_host("a"), make_host("b")])
    finally:
        box.run("destroy", "--auto-approve")  # supervisors end what they made, but for those that are killed
        box.clean()


def test_an_app_lives_on_hosts_from_the_first_plan_to_the_last(fleet: Fleet) -> None:
    a, b = fleet.hosts
    out = fleet.must("plan")
    assert "host.lab.a will be created" in out and "launch 1 runner on lab/" in out
    fleet.apply()
    first = fleet.call()
    assert first["home"] in (str(a.folder / "home"), str(b.folder / "home"))
    assert fleet.box.run("plan", "--detailed-exitcode").code == 0
    assert fleet.box.run("drift").code == 0

    fleet.version, fleet.least = 2, 2
    fleet.apply()
    assert fleet.call()["version"] == 2
    wait_until(lambda: len(fleet.where()) == 2, 20)

    fleet.hosts = [b]
    out = fleet.apply()
    assert "0 added, 0 changed, 1 destroyed" in out
    wait_until(lambda: fleet.where() == ["b", "b"], 20)
    assert fleet.call()["home"] == str(b.folder / "home")
    fleet.check_clean(a)

    fleet.must("destroy", "--auto-approve")
    fleet.check_clean(b)


def test_keys_that_nobody_confirmed_are_shown_and_trusted_by_a_reviewed_plan_alone(fleet: Fleet) -> None:
    fleet.pinned = False
    fleet.write()
    out = fleet.must("plan", "--out", str(fleet.box.folder / "plan"))
    keys = [h.keys["ed25519"] for h in fleet.hosts]
    assert all(f"+ trust {key}" in out for key in keys)
    refused = fleet.box.run("apply", "--auto-approve")
    assert refused.code == ExitCode.REFUSED and all(key in refused.err for key in keys)
    assert all("Accepted" not in h.log for h in fleet.hosts)

    fleet.must("apply", str(fleet.box.folder / "plan"))
    assert fleet.box.run("plan", "--detailed-exitcode").code == 0

    changed = fleet.hosts[0]
    changed.end()
    changed.renew("ed25519")
    changed.start()
    refused = fleet.box.run("plan")
    assert refused.code == ExitCode.REFUSED
    assert keys[0] in refused.err and changed.keys["ed25519"] in refused.err
    changed.end()
    changed.restore("ed25519")
    changed.start()
    fleet.must("destroy", "--auto-approve")


def test_the_control_planes_key_that_was_taken_away_is_drift_and_brought_back(fleet: Fleet) -> None:
    fleet.apply()
    keys = fleet.hosts[0].folder / "home" / ".ssh" / "authorized_keys"
    before = keys.read_text()
    keys.write_text("")
    drift = fleet.box.run("drift")
    assert drift.code == 2 and "host.lab.a" in drift.out and "authorized_keys" in drift.out

    fleet.apply()
    assert keys.read_text() == before
    assert fleet.box.run("drift").code == 0


@pytest.mark.faults
def test_a_host_that_is_gone_is_unknown_and_others_do_its_work(fleet: Fleet) -> None:
    fleet.apply()
    [name] = fleet.where()
    gone = next(h for h in fleet.hosts if h.folder.name == name)
    other = next(h for h in fleet.hosts if h is not gone)
    fleet.must("destroy", "--target", "app.main.web", "--auto-approve")
    fleet.box.kill_control_plane()
    fleet.must("apply", "--auto-approve", FALPLAN_HOST_LEASE="2")
    [name] = fleet.where()
    gone = next(h for h in fleet.hosts if h.folder.name == name)
    other = next(h for h in fleet.hosts if h is not gone)
    gone.stop()
    gone.cut_all()
    wait_until(lambda: fleet.where() == sorted([other.folder.name]) or other.folder.name in fleet.where(), 60)
    assert fleet.call()["home"] == str(other.folder / "home")
    plan = fleet.box.run("plan")
    assert f"could not be looked at: The host can't be reached: {name} (root@" in plan.out

    gone.start()
    wait_until(
        lambda: fleet.where() == ["a", "b"] and fleet.box.run("drift").code == 0, 60
    )  # what ran there counts again
    assert fleet.box.run("drift").code == 0
    fleet.must("destroy", "--auto-approve")
    for host in fleet.hosts:
        fleet.check_clean(host)


def test_requests_under_way_survive_the_loss_of_a_connection(fleet: Fleet) -> None:
    fleet.apply()
    [name] = fleet.where()
    host = next(h for h in fleet.hosts if h.folder.name == name)
    done: list[Ran] = []
    worker = threading.Thread(target=lambda: done.append(fleet.box.run("call", "web", '{"sleep": 2}')))
    worker.start()
    wait_until(lambda: in_flight(fleet.box) == 1, 20)
    host.cut_all()
    worker.join(120)

    assert done[0].code == 0 and json.loads(done[0].out)["version"] == 1
    assert fleet.where() == [name]
    fleet.must("destroy", "--auto-approve")


def test_a_control_plane_that_lost_its_data_gets_its_hosts_again(fleet: Fleet) -> None:
    fleet.apply()
    fleet.box.kill_control_plane()
    for folder in (fleet.box.folder / "state" / "falplan").iterdir():
        shutil.rmtree(folder)
    out = fleet.must("plan")
    assert "the control plane does not know it: it is told of it again" in out
    fleet.apply()
    assert fleet.call()["version"] == 1
    assert fleet.box.run("plan", "--detailed-exitcode").code == 0
    assert len([p for h in fleet.hosts for p in h.sessions() if runs_app(p)]) == 1
    assert "taken over" in fleet.must("runners", "list")
    fleet.must("destroy", "--auto-approve")
    for host in fleet.hosts:
        fleet.check_clean(host)


def test_runners_stay_when_the_control_plane_or_the_settings_of_their_host_change(fleet: Fleet) -> None:
    """Seen red with ways to runners that were noted once: the first call after a restart ended a healthy runner."""
    fleet.apply()
    rows = json.loads(fleet.must("runners", "list", "--json"))
    fleet.box.kill_control_plane()
    fleet.apply()
    fleet.call()
    fleet.reserve = {"ram": 10**9}
    fleet.apply()
    fleet.call()
    now = json.loads(fleet.must("runners", "list", "--json"))
    assert [r["runner_id"] for r in now] == [r["runner_id"] for r in rows]
    assert all(r["state"] in ("IDLE", "RUNNING") for r in now)


@pytest.mark.faults
def test_whatever_somebody_changes_of_what_falplan_put_there_is_drift_and_never_runs_again(fleet: Fleet) -> None:
    """Seen red with the file of a bundle that lived on in a runner's own folder, and with settings and scripts that nobody compared."""
    fleet.hosts = fleet.hosts[:1]
    (host,) = fleet.hosts
    fleet.apply()
    [root] = (host.folder / "home/.local/share/falplan").iterdir()

    def serving() -> list[str]:
        rows = json.loads(fleet.must("runners", "list", "--json"))
        return [row["runner_id"] for row in rows if row["state"] in ("IDLE", "RUNNING")]

    def runner() -> str:
        wait_until(lambda: len(serving()) == 1, 60, serving)
        return serving()[0]

    def app() -> None:
        [file] = root.glob("bundles/*/server.py")
        file.chmod(0o644)
        file.write_text(file.read_text().replace("home", "changed"))

    def settings() -> None:
        file = root / "runners" / runner() / "runner.json"
        file.write_text(file.read_text().replace("python3", "python3.99"))

    def script() -> None:
        [file] = root.glob("tools/*/front.py")
        file.write_text("raise SystemExit(1)")

    def another_script() -> None:
        [tools] = root.glob("tools/*")
        (tools / "json.py").write_text("raise SystemExit(1)")

    for change, told, replaced in (
        (app, f", from which {runner()} run", True),
        (settings, "the settings of runner-", True),
        (script, "falplan's scripts of version", False),
        (another_script, "falplan's scripts of version", False),
    ):
        before = runner()
        change()
        drift = fleet.box.run("drift")
        assert drift.code == 2 and "somebody changed" in drift.out and told in drift.out, drift
        fleet.apply()
        if replaced:
            wait_until(lambda before=before: runner() != before, 60, lambda: fleet.must("runners", "list"))
        assert replaced or runner() == before
        assert fleet.box.run("plan", "--detailed-exitcode").code == 0
        assert fleet.call()["version"] == 1
    fleet.must("destroy", "--auto-approve")
    fleet.check_clean(host)


@pytest.mark.faults
def test_another_folder_or_user_is_another_place_also_if_a_default_takes_their_place(fleet: Fleet) -> None:
    """Seen red with changes in place, which looked for the old place at the new one and failed ever after."""
    fleet.hosts = fleet.hosts[:1]
    (host,) = fleet.hosts
    home = host.folder / "home"
    fleet.apply()
    for login, place in (
        ({"user": "root", "folder": "~/elsewhere"}, home / "elsewhere"),
        ({"user": "root"}, home / ".local/share/falplan"),
        ({}, home / ".local/share/falplan"),  # ~/.ssh/config may say any other user by then
    ):
        fleet.login = login
        fleet.write()
        assert "host.lab.a must be replaced" in fleet.must("plan")
        assert "1 added, 0 changed, 1 destroyed" in re.sub(r"\d changed", "0 changed", fleet.apply())
        assert len(list(place.iterdir())) == 1
        assert fleet.box.run("plan", "--detailed-exitcode").code == 0
    assert not (home / "elsewhere").exists()
    assert fleet.call()["version"] == 1
    fleet.must("destroy", "--auto-approve")
    fleet.check_clean(host)


@pytest.mark.faults
def test_hosts_that_are_all_replaced_serve_meanwhile(fleet: Fleet) -> None:
    """One after the other, so that the runner of each has somewhere to go. Seen red with all of them at once: no host was left."""
    fleet.apply()
    fleet.login = {"user": "root", "folder": "~/elsewhere"}
    fleet.write()
    plan = fleet.must("plan")
    assert "drain 1 runner" in plan and " is replaced" in plan and "runs already" not in plan
    applying = fleet.box.start("apply", "--auto-approve")
    calls = 0
    while applying.poll() is None:
        assert fleet.call()["version"] == 1
        calls += 1
    out, err = applying.communicate()
    assert applying.returncode == 0 and calls > 1, err
    assert "2 added" in out
    lines = [line for line in err.splitlines() if line.startswith("host.") and "Replac" in line]
    assert [re.sub(r".*(Replacing|Replacement complete).*", r"\1", line) for line in lines] == [
        "Replacing",
        "Replacement complete",
    ] * 2, lines
    assert fleet.box.run("plan", "--detailed-exitcode").code == 0
    fleet.must("destroy", "--auto-approve")
    for host in fleet.hosts:
        fleet.check_clean(host)


@pytest.mark.faults
def test_a_host_that_says_nothing_any_more_is_unknown_and_its_runner_is_left_alone(fleet: Fleet) -> None:
    """Seen red with a look that counted until it failed: the runner was ended, and another one put on the silent host."""
    fleet.must("apply", "--auto-approve", FALPLAN_HOST_LEASE="8")
    [row] = json.loads(fleet.must("runners", "list", "--json"))
    silent = next(h for h in fleet.hosts if h.folder.name == row["machine"].partition("/")[2])
    other = next(h for h in fleet.hosts if h is not silent)
    silent.freeze()
    try:
        wait_until(lambda: other.folder.name in fleet.where(), 60)
        assert fleet.call()["home"] == str(other.folder / "home")
    finally:
        silent.thaw()
    wait_until(lambda: fleet.where() == ["a", "b"], 60)
    assert row["runner_id"] in fleet.must("runners", "list")


def test_a_host_that_never_had_a_runner_is_given_up_though_the_control_plane_is_dead(fleet: Fleet) -> None:
    """Seen red with the end of a host that was left to scripts there, which are brought with the first runner: its claim stayed."""
    fleet.apply()
    (idle,) = [h for h in fleet.hosts if h.folder.name not in fleet.where()]
    fleet.box.kill_control_plane()
    for folder in (fleet.box.folder / "state" / "falplan").iterdir():
        shutil.rmtree(folder)
    assert (idle.folder / "ledger" / "ledger.json").exists()
    assert not list((idle.folder / "home").rglob("agent.py"))
    fleet.must("destroy", "--auto-approve")
    for host in fleet.hosts:
        fleet.check_clean(host)


@pytest.mark.faults
@pytest.mark.parametrize("code", [False, True], ids=["settings alone", "with a new revision"])
def test_an_app_whose_regions_change_moves_into_them(fleet: Fleet, code: bool) -> None:
    """Seen red with runners that stayed where the app may not run any more, and a new revision that was put there as well."""

    def write(*regions: str) -> None:
        fleet.write()
        path = fleet.box.project / "falplan.yaml"
        spec = json.loads(path.read_text())
        both = spec["regions"]["lab"]
        spec["regions"] = {r: {**both, "hosts": {h: both["hosts"][h]}} for r, h in (("lab", "a"), ("other", "b"))}
        spec["apps"]["web"]["regions"] = list(regions)
        path.write_text(json.dumps(spec))

    write("lab")
    fleet.must("apply", "--auto-approve")
    assert fleet.where() == ["a"]
    fleet.version += code
    write("other")
    plan = fleet.must("plan")
    assert "launch 1 runner on other/b" in plan and "drain 1 runner" in plan and "runs already" not in plan
    fleet.must("apply", "--auto-approve")
    wait_until(lambda: fleet.where() == ["b"], 30, fleet.where)
    assert fleet.call()["version"] == fleet.version
    assert fleet.box.run("plan", "--detailed-exitcode").code == 0
    fleet.must("destroy", "--auto-approve")


@pytest.mark.faults
def test_a_host_that_is_away_stops_no_deploy_on_the_others(fleet: Fleet) -> None:
    """Seen red with an apply that changed nothing as long as one host could not be looked at, whatever the change was about."""
    fleet.apply()
    busy = fleet.where()
    away = next(h for h in fleet.hosts if h.folder.name not in busy)
    away.end()
    fleet.version = 2
    fleet.write()
    plan = fleet.box.run("plan", "--detailed-exitcode")
    assert plan.code == 2 and "could not be looked at" in plan.out
    fleet.apply()
    assert fleet.call()["version"] == 2 and fleet.where() == busy
    assert fleet.box.run("plan", "--detailed-exitcode").code == 1  # nobody can say that nothing changed there

    fleet.reserve = {"gpus": 1}  # something is to be done to every host
    fleet.write()
    refused = fleet.box.run("apply", "--auto-approve")
    assert refused.code == 1 and f"`--exclude host.lab.{away.folder.name}` leaves what is there" in refused.err
    fleet.must("apply", "--auto-approve", "--exclude", f"host.lab.{away.folder.name}")
    away.start()
    fleet.apply()
    assert fleet.box.run("plan", "--detailed-exitcode").code == 0
    fleet.must("destroy", "--auto-approve")


@pytest.mark.faults
def test_a_host_that_is_gone_for_good_is_forgotten_with_its_runners(fleet: Fleet) -> None:
    """Seen red with a destroy that waited for its runner without end, and a control plane that never gave it up."""
    fleet.must("apply", "--auto-approve", FALPLAN_HOST_LEASE="8")
    (busy,) = fleet.where()
    gone = next(h for h in fleet.hosts if h.folder.name == busy)
    gone.end()
    address = f"host.lab.{gone.folder.name}"
    (runner,) = [row["runner_id"] for row in json.loads(fleet.must("runners", "list", "--json"))]
    stopped = fleet.box.run("runners", "stop", runner)
    assert stopped.code == 1 and f"{runner} can't be stopped yet" in stopped.err, stopped
    refused = fleet.box.run("destroy", "--auto-approve", "--target", "app.main.web")
    assert refused.code == 1 and f"may still run on lab/{gone.folder.name}" in refused.err, refused
    assert f"falplan state rm {address}" in refused.err

    wanted = fleet.box.run("apply", "--auto-approve")  # again: what it was has to go first
    assert wanted.code == 1 and "can't be removed yet" in wanted.err, wanted
    told = fleet.box.must("state", "rm", address, "--auto-approve").err
    assert "the next apply has the control plane give it up" in told
    fleet.hosts = [h for h in fleet.hosts if h is not gone]
    fleet.write()
    plan = fleet.must("plan")
    assert f"{address} " in plan and "what may run there is taken for gone" in plan and "1 to forget" in plan
    assert "1 forgotten" in fleet.apply()
    wait_until(lambda: fleet.where() == [fleet.hosts[0].folder.name], 60, fleet.where)
    assert fleet.call()["version"] == 1
    assert fleet.box.run("plan", "--detailed-exitcode").code == 0

    gone.start()  # it was only asleep: what it has is found again, and taken away
    fleet.hosts = [gone, *fleet.hosts]
    fleet.apply()
    wait_until(lambda: len([p for p in gone.sessions() if runs_app(p)]) == fleet.where().count(busy), 60)
    fleet.must("destroy", "--auto-approve")
    for host in fleet.hosts:
        fleet.check_clean(host)


def test_a_mark_that_somebody_took_away_is_drift_and_its_runners_stay(fleet: Fleet) -> None:
    """Seen red with a second mark beside the first one's folder, whose runners nobody knew any more."""
    fleet.hosts = fleet.hosts[:1]
    (host,) = fleet.hosts
    fleet.apply()
    runners = fleet.must("runners", "list", "--json")
    [mark] = host.folder.glob("home/.local/share/falplan/*/host.json")
    mark.unlink()
    plan = fleet.box.run("plan", "--detailed-exitcode")
    assert plan.code == 2 and "host.lab.a" in plan.out and "host.json, is gone" in plan.out
    assert "0 added, 1 changed, 0 destroyed" in fleet.apply()
    assert mark.exists() and fleet.box.run("plan", "--detailed-exitcode").code == 0
    assert [r["runner_id"] for r in json.loads(fleet.must("runners", "list", "--json"))] == [
        r["runner_id"] for r in json.loads(runners)
    ]
    fleet.must("destroy", "--auto-approve")
    wait_until(lambda: not [p for p in host.sessions() if runs_app(p)], 10)
    assert not list(host.folder.glob("home/.local/share/falplan"))


def test_whoever_applies_logs_in_to_each_host_once(fleet: Fleet) -> None:
    """To plan, and to carry it out. Seen red with an apply that gave up the connections of its plan."""
    fleet.apply()
    mine = fingerprint_of(Path(f"{fleet.hosts[0].client_key}.pub").read_text())

    assert {h.folder.name: h.log.count(f"ssh2: ED25519 {mine}") for h in fleet.hosts} == {
        h.folder.name: 1 for h in fleet.hosts
    }
    fleet.must("destroy", "--auto-approve")


def test_a_ledger_that_was_removed_is_begun_anew(fleet: Fleet) -> None:
    """Seen red with a control plane that took it for a sign that another one acts there: it ended."""
    fleet.apply()
    for host in fleet.hosts:
        shutil.rmtree(host.folder / "ledger")
    wait_until(lambda: all((h.folder / "ledger" / "ledger.json").exists() for h in fleet.hosts), 20)
    assert fleet.call()["version"] == 1
    fleet.must("destroy", "--auto-approve")


POINTS = [
    "ssh.marker.before_first",
    "ssh.marker.after_first",
    "ssh.marker.before_write",
    "ssh.marker.after_write",
    "ssh.access.after_write",
    "host.join.before",
    "host.leave.before",
    "ssh.end.after_clear",
    "ssh.remove.after_agents",
    "ssh.remove.before_marker",
    "call.add_host.before_send",
    "call.add_host.after_answer",
    "call.remove_host.before_send",
    "call.remove_host.after_answer",
]


@pytest.mark.faults
@pytest.mark.parametrize("point", POINTS)
def test_a_command_that_is_killed_is_carried_on_by_the_next(fleet: Fleet, point: str) -> None:
    """At each point where something is on its way to a host: nothing is made twice, and nothing is left."""
    apply = ("apply", "--auto-approve")
    if point.startswith("ssh.marker") and point.endswith("_write"):  # a marker that is there already
        assert fleet.box.run(*apply, FALPLAN_FAILPOINTS="ssh.marker.after_first=kill").code == -9
    killed = fleet.box.run(*apply, FALPLAN_FAILPOINTS=f"{point}=kill").code
    fleet.must(*apply)
    assert fleet.box.run("plan", "--detailed-exitcode").code == 0
    fleet.call()
    destroy = ("destroy", "--auto-approve")
    ended = fleet.box.run(*destroy, FALPLAN_FAILPOINTS=f"{point}=kill").code
    assert -9 in (killed, ended)
    if ended:
        fleet.must(*destroy)
    for host in fleet.hosts:
        fleet.check_clean(host)


FORGETTING = [
    "host.forget.before",
    "call.forget_host.before_send",
    "call.forget_host.after_answer",
    "host.forget.after_close",
    *(f"operation.forget_host.{moment}" for moment in ("before_begin", "after_begin", "before_end", "after_end")),
]


@pytest.mark.faults
@pytest.mark.parametrize("point", FORGETTING)
def test_whoever_is_killed_over_a_host_that_is_forgotten_gives_it_up_later(fleet: Fleet, point: str) -> None:
    """The runners of a host that still answers are drained; a second word of it has no effect."""
    fleet.apply()
    (busy,) = fleet.where()
    gone = next(h for h in fleet.hosts if h.folder.name == busy)
    fleet.must("state", "rm", f"host.lab.{busy}", "--auto-approve")
    fleet.hosts.remove(gone)
    fleet.write()
    armed = {"FALPLAN_FAILPOINTS": f"{point}=kill"}
    if point.startswith(("operation", "host.forget.after")):
        fleet.box.kill_control_plane()
        fleet.must("apply", "--auto-approve", **armed)  # starts one that will be killed; what it uses is not known yet
    assert "its runners are drained" in fleet.must("plan")
    assert fleet.box.run("apply", "--auto-approve", **armed).code
    fleet.apply()
    fleet.apply()  # the one before may have had to start a control plane first
    assert fleet.box.run("plan", "--detailed-exitcode").code == 0
    wait_until(lambda: fleet.where() == [fleet.hosts[0].folder.name], 60, fleet.where)
    assert not [p for p in gone.sessions() if runs_app(p)]
    fleet.hosts.append(gone)
    fleet.apply()
    fleet.must("destroy", "--auto-approve")
    for host in fleet.hosts:
        fleet.check_clean(host)


SERVING = [
    "host.add.after_write",
    "host.remove.after_close",
    "host.remove.before_write",
    *(f"hosts.save.{moment}" for moment in ("before_write", "before_fsync", "before_rename", "after_rename")),
    *(
        f"operation.{kind}_host.{moment}"
        for kind in ("add", "remove")
        for moment in ("before_begin", "after_begin", "before_end", "after_end")
    ),
]


@pytest.mark.faults
@pytest.mark.parametrize("point", SERVING)
def test_a_control_plane_that_is_killed_over_a_host_goes_on_with_it(fleet: Fleet, point: str) -> None:
    first = fleet.box.run("apply", "--auto-approve", FALPLAN_FAILPOINTS=f"{point}=kill").code
    fleet.apply()
    fleet.box.kill_control_plane()
    gone = fleet.hosts.pop()
    fleet.write()
    second = fleet.box.run("apply", "--auto-approve", FALPLAN_FAILPOINTS=f"{point}=kill").code
    assert first or second
    fleet.apply()
    assert fleet.box.run("plan", "--detailed-exitcode").code == 0
    fleet.call()
    fleet.check_clean(gone)
    fleet.must("destroy", "--auto-approve")
    fleet.check_clean(fleet.hosts[0])


def test_no_forwarded_socket_is_left(fleet: Fleet) -> None:
    fleet.apply()
    assert list((fleet.box.folder / "run").glob("falplan-ssh-*"))
    fleet.must("destroy", "--auto-approve")
    assert not list((fleet.box.folder / "run").glob("falplan-ssh-*"))
