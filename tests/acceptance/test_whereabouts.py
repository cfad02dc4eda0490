"""Whose a control plane is: a teammate uses it with a key, a machine without one leaves it alone."""

from __future__ import annotations

import json
import random
import shutil
import ssl
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from falplan.core.resources import GATEWAY
from falplan.stores.certificates import LEAF_LIFE, Certificates
from falplan.stores.state.local import LocalState
from tests.faults.sandbox import PATIENCE, Ran, Sandbox, wait_until


class Teammate(Sandbox):
    """Somebody else's home and checkout beside a sandbox; state is shared, as a team shares it."""

    def __init__(self, box: Sandbox) -> None:
        self.owner = box
        super().__init__(folder=box.folder / "teammate", least=box.least, version=box.version, hostname=box.hostname)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        shutil.copytree(self.owner.project, self.project, ignore=shutil.ignore_patterns(".falplan"))
        (self.project / ".falplan").symlink_to(self.owner.project / ".falplan")
        self.write()

    @property
    def calls(self) -> Path:
        return self.owner.calls

    def give_key(self, scope: str = "ADMIN") -> str:
        made = json.loads(self.owner.must("keys", "create", "--scope", scope, "--json").out)
        return str(made["key"])

    def login(self, key: str) -> Ran:
        process = subprocess.run(
            [*self.falplan, "-C", str(self.project), "login"],
            input=key + "\n",
            capture_output=True,
            text=True,
            env=self.environ(),
            cwd=self.folder,
            timeout=60,
            check=False,
        )
        return Ran(process.returncode, process.stdout, process.stderr)


def folders(box: Sandbox) -> list[Path]:
    return list((box.folder / "state").glob("falplan/*"))


def test_a_teammate_plans_applies_calls_and_reads_logs_with_a_key_of_their_own(box: Sandbox) -> None:
    box.must("apply", "--auto-approve")
    mate = Teammate(box)
    key = mate.give_key()
    assert mate.login(key).code == 0
    assert mate.run("plan", "--detailed-exitcode").code == 0
    assert json.loads(mate.must("call", "one", '{"n": 5}').out) == {"n": 5, "version": 1}
    mate.version = 2
    mate.write()
    mate.must("apply", "--auto-approve")
    assert json.loads(mate.must("call", "one", '{"n": 6}').out) == {"n": 6, "version": 2}
    runner = json.loads(mate.must("runners", "list", "--json").out)[0]["runner_id"]
    assert "ready" in mate.must("runners", "logs", runner).out
    assert mate.run("exec", "--", sys.executable, "-c", "import os; print(os.environ['FAL_KEY'])").out.strip() == key

    assert folders(mate) == []  # nothing was made there
    assert key not in (box.project / ".falplan" / "state.json").read_text()
    assert len(box.processes("serve")) == 1
    box.version = 2
    box.write()
    assert box.run("plan", "--detailed-exitcode").code == 0


def test_a_teammate_destroys_everything(box: Sandbox) -> None:
    box.must("apply", "--auto-approve")
    mate = Teammate(box)
    key = mate.give_key()
    mate.must("destroy", "--auto-approve", FALPLAN_KEY=key)

    wait_until(lambda: not box.processes("any"), 10)
    wait_until(lambda: not folders(box), 10)
    assert box.run("plan").out.count("will be created") == 4


def test_without_a_key_it_is_unknown_and_nothing_is_made(box: Sandbox) -> None:
    """Seen red with a control plane taken for gone because its folder is not here: everything was to be created again."""
    box.must("apply", "--auto-approve")
    mate = Teammate(box)
    plan = mate.run("plan", "--detailed-exitcode")
    ran = mate.run("apply", "--auto-approve")

    assert plan.code == 1
    assert "lives on" in plan.out
    assert "falplan login" in plan.out
    assert "will be created" not in plan.out
    assert ran.code == 1
    assert folders(mate) == []
    assert mate.login("key-none:nothing").code == 1


def test_a_key_for_calls_does_not_administer(box: Sandbox) -> None:
    box.must("apply", "--auto-approve")
    mate = Teammate(box)
    key = mate.give_key("API")

    assert json.loads(mate.must("call", "one", '{"n": 5}', FALPLAN_KEY=key).out)["n"] == 5
    ran = mate.run("plan", "--detailed-exitcode", FALPLAN_KEY=key)
    assert (ran.code, "refuses this key" in ran.out) == (1, True)


def test_a_machine_that_is_not_the_gateways_creates_nothing(box: Sandbox) -> None:
    """State as another machine wrote it: its control plane lives there, and does not answer here."""
    box.must("apply", "--auto-approve")
    box.kill_control_plane()
    store = LocalState(box.project / ".falplan")
    state = store.read("faults")
    assert state is not None
    gateway = state.resources[GATEWAY]
    elsewhere = {**gateway.outputs, "machine": "0123456789abcdef", "host": "gpu-01"}
    with store.locked("test"):
        store.save(replace(state, resources={**state.resources, GATEWAY: replace(gateway, outputs=elsewhere)}))
    ran = box.run("apply", "--auto-approve", FALPLAN_KEY="key-0:0")

    assert ran.code == 1
    assert "lives on gpu-01 and does not answer" in ran.out + ran.err
    assert box.processes("serve") == []


@pytest.fixture
def orphaned(box: Sandbox) -> tuple[Teammate, str]:
    """A teammate whose project's control plane lived on another machine, which is gone; and its id."""
    box.must("apply", "--auto-approve")
    mate = Teammate(box)
    gateway = json.loads(box.must("state", "show", "gateway", "--json").out)["outputs"]["id"]
    box.must("keys", "create", "--desc", "for a client")

    alive = mate.run("apply", "--auto-approve", "--gateway-is-dead", gateway)
    assert (alive.code, "takes connections" in alive.err) == (6, True)
    own = box.run("apply", "--auto-approve", "--gateway-is-dead", gateway)
    assert (own.code, "belongs to this machine" in own.err) == (6, True)

    box.must("backup", str(box.folder / "backup.tar.gz"))
    box.kill_everything()
    shutil.rmtree(box.folder / "state")
    shutil.rmtree(box.folder / "ledger")
    assert mate.run("plan", "--detailed-exitcode").code == 1
    other = mate.run("plan", "--gateway-is-dead", "cp-0")
    assert (other.code, f"State knows {gateway}, not cp-0" in other.err) == (6, True)
    return mate, gateway


@pytest.mark.faults
def test_a_gateway_that_is_gone_for_good_is_replaced_once_somebody_says_so(
    orphaned: tuple[Teammate, str],
) -> None:
    """Seen red with a gateway that stays recorded as another machine's: nothing was made, and the plan stayed unknown."""
    mate, gateway = orphaned
    plan = mate.must("plan", "--gateway-is-dead", gateway).out
    assert "was given up: another one is made on this machine" in plan
    ran = mate.must("apply", "--auto-approve", "--gateway-is-dead", gateway)
    assert f"{gateway} was given up unseen" in ran.err

    assert mate.run("plan", "--detailed-exitcode").code == 0
    known = json.loads(mate.must("runners", "list", "--json").out)
    assert {r["runner_id"] for r in known} == set(mate.owner.runner_marks())
    found = json.loads(mate.must("state", "show", "gateway", "--json").out)["outputs"]
    assert found["id"] != gateway
    assert found["home"] == str(folders(mate)[0])
    assert json.loads(mate.must("call", "one", '{"n": 1}').out)["n"] == 1
    mate.destroy()


@pytest.mark.faults
def test_a_backup_of_a_gateway_that_is_gone_for_good_lives_on_here(orphaned: tuple[Teammate, str]) -> None:
    mate, gateway = orphaned
    mate.must("restore", str(mate.owner.folder / "backup.tar.gz"), "--gateway-is-dead", gateway)
    mate.must("apply", "--auto-approve", "--gateway-is-dead", gateway)

    assert mate.run("plan", "--detailed-exitcode").code == 0
    assert json.loads(mate.must("state", "show", "gateway", "--json").out)["outputs"]["id"] == gateway
    assert "for a client" in mate.must("keys", "list").out
    assert json.loads(mate.must("call", "one", '{"n": 1}').out)["n"] == 1
    mate.destroy()


@pytest.mark.faults
def test_a_project_whose_gateway_is_gone_for_good_is_destroyed(orphaned: tuple[Teammate, str]) -> None:
    mate, gateway = orphaned
    assert mate.run("destroy", "--auto-approve").code == 1
    ran = mate.must("destroy", "--auto-approve", "--gateway-is-dead", gateway)

    assert f"{gateway} was given up unseen" in ran.err
    mate.check_nothing_left()
    assert mate.run("plan", "--detailed-exitcode").code == 2


def test_a_local_gateway_is_refused_in_ci_unless_it_is_ephemeral(box: Sandbox) -> None:
    ran = box.run("apply", "--auto-approve", CI="true")
    assert (ran.code, "CI=true" in ran.err) == (6, True)
    assert not folders(box)
    text = (box.project / "falplan.yaml").read_text().replace("gateway: {", "gateway: {ephemeral: true, ")
    (box.project / "falplan.yaml").write_text(text)
    box.must("apply", "--auto-approve", CI="true")


def test_a_gateway_that_runs_already_is_used_and_stays(box: Sandbox) -> None:
    """`gateway: {url: …}`: a control plane that somebody runs, for a project whose state does not know it yet."""
    home = box.folder / "state" / "falplan" / "by-hand"
    serve = box.start("serve", "--home", str(home), "--lineage", "by-hand", "--hostname", "localhost")
    try:
        wait_until(lambda: (home / "endpoint.json").exists(), 20)
        port = json.loads((home / "gateway.json").read_text())["port"]
        shutil.copy(home / "tls" / "ca.pem", box.project / "ca.pem")
        key = (home / "admin.key").read_text().strip()
        text = (box.project / "falplan.yaml").read_text()
        given = f"gateway: {{url: 'https://localhost:{port}', ca: ca.pem}}"
        (box.project / "falplan.yaml").write_text(text.replace("gateway: {hostname: localhost}", given))
        box.must("apply", "--auto-approve", FALPLAN_KEY=key)
        assert json.loads(box.must("call", "one", '{"n": 5}', FALPLAN_KEY=key).out)["n"] == 5
        assert box.run("plan", "--detailed-exitcode", FALPLAN_KEY=key).code == 0
        box.must("destroy", "--auto-approve", FALPLAN_KEY=key)
        assert serve.poll() is None
        assert box.processes("supervisor") == []
    finally:
        serve.kill()
        serve.communicate()


def test_a_certificate_of_ones_own_is_used_and_renewed_without_a_restart(box: Sandbox) -> None:
    """Seen red with a gateway that read the files at its start only."""
    make_certificate(box.project, "first")
    text = (box.project / "falplan.yaml").read_text()
    given = "gateway: {hostname: localhost, tls: {cert: cert.pem, key: key.pem}}"
    (box.project / "falplan.yaml").write_text(text.replace("gateway: {hostname: localhost}", given))
    box.must("apply", "--auto-approve", FALPLAN_LOOK_AT_FILES="0.2")
    assert json.loads(box.must("call", "one", '{"n": 5}').out)["n"] == 5
    before = served(box)
    make_certificate(box.project, "second")
    wait_until(lambda: served(box) != before, 20)

    assert len(box.processes("serve")) == 1
    assert box.run("plan", "--detailed-exitcode").code == 0


@pytest.mark.faults
def test_its_own_certificate_is_renewed_without_a_restart(box: Sandbox) -> None:
    """Seen red with a renewal that only wrote the file: new connections still got the old certificate."""
    box.must("apply", "--auto-approve", FALPLAN_LOOK_AT_FILES="0.2")
    before, serving = served(box), box.processes("serve")
    (home,) = folders(box)
    certificates = Certificates(home / "tls")
    certificates.gateway.unlink()
    nearly_over = time.time() - LEAF_LIFE.total_seconds() + 86_400
    certificates.ensure([], now=nearly_over)
    wait_until(lambda: served(box) != before, 20)

    assert x509.load_pem_x509_certificate(served(box).encode()).not_valid_after_utc.timestamp() > time.time() + 864_000
    assert box.processes("serve") == serving
    assert json.loads(box.must("call", "one", '{"n": 5}').out)["n"] == 5


def served(box: Sandbox) -> str:
    (home,) = folders(box)
    port = json.loads((home / "gateway.json").read_text())["port"]
    return ssl.get_server_certificate(("127.0.0.1", port))


def make_certificate(folder: Path, organisation: str) -> None:
    """A self-signed certificate for localhost, as openssl makes one."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
         "-subj", f"/CN=localhost/O={organisation}", "-addext", "subjectAltName=DNS:localhost",
         "-keyout", str(folder / "key.new"), "-out", str(folder / "cert.new")],
        check=True, capture_output=True,
    )  # fmt: skip
    (folder / "key.new").rename(folder / "key.pem")
    (folder / "cert.new").rename(folder / "cert.pem")


@pytest.mark.parametrize("listen", ["0.0.0.0", "::"])
def test_it_listens_where_it_is_told(box: Sandbox, listen: str) -> None:
    """The certificate carries the machine's addresses; moving back to loopback ends that."""
    text = (box.project / "falplan.yaml").read_text()
    (box.project / "falplan.yaml").write_text(text.replace("hostname: localhost", f"listen: '{listen}'"))
    box.must("apply", "--auto-approve")
    (home,) = folders(box)
    names = subprocess.run(
        ["openssl", "x509", "-in", str(home / "tls" / "gateway.pem"), "-noout", "-ext", "subjectAltName"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    from falplan.stores.machine import addresses, host_name

    assert host_name() in names
    assert all(a in names for a in addresses() if ":" not in a)
    (box.project / "falplan.yaml").write_text(text)
    plan = box.must("plan").out
    box.must("apply", "--auto-approve")
    assert "restarted; runners go on" in plan
    assert box.run("plan", "--detailed-exitcode").code == 0


@pytest.mark.faults
def test_forty_applies_at_once_from_two_homes_end_in_one_world(box: Sandbox) -> None:
    """Seen red with locks that several may hold at once."""
    box.must("apply", "--auto-approve")
    mate = Teammate(box)
    key = mate.give_key()
    for who in (box, mate):
        who.version = 2
        who.write()
    applies = [box.start("apply", "--auto-approve", "--lock-timeout", "100") for _ in range(20)]
    applies += [mate.start("apply", "--auto-approve", "--lock-timeout", "100", FALPLAN_KEY=key) for _ in range(20)]
    ended = [(process.communicate(), process.returncode) for process in applies]

    assert [code for _, code in ended if code != 0] == [], [out for out, code in ended if code != 0][:1]
    assert sum("Apply complete!" in out for (out, _), _ in ended) == 1
    assert folders(mate) == []
    box.check_converged()
    assert json.loads(box.must("call", "one", '{"n": 1}').out)["version"] == 2
    box.destroy()


@pytest.mark.faults
def test_forty_applies_at_once_killed_at_random_end_in_one_world(box: Sandbox) -> None:
    """Every second apply is killed at a random instant, and so is the control plane, twice."""
    seed = int(time.time())
    print(f"seed {seed}")
    rng = random.Random(seed)
    box.must("apply", "--auto-approve")
    mate = Teammate(box)
    key = mate.give_key()
    for who in (box, mate):
        who.version = 2
        who.write()
    flags = ("apply", "--auto-approve", "--lock-timeout", "100")
    applies = [who.start(*flags, **more) for who, more in ((box, {}), (mate, {"FALPLAN_KEY": key})) for _ in range(20)]
    for number, process in enumerate(rng.sample(applies, 20)):
        time.sleep(rng.uniform(0, 0.4))
        process.kill()
        if number in (5, 15):
            box.kill_control_plane()
    ended = [(process.communicate(timeout=PATIENCE), process.returncode) for process in applies]

    # 1, 4 and 6: it found no control plane, or one that was being started. -9: killed.
    assert {code for _, code in ended} <= {0, 1, 4, 6, -9}, ended
    assert not [err for (_, err), _ in ended if "Traceback" in err]
    assert folders(mate) == []
    box.check_converged()
    assert json.loads(box.must("call", "one", '{"n": 1}').out)["version"] == 2
    assert mate.run("plan", "--detailed-exitcode", FALPLAN_KEY=key).code == 0
    box.destroy()


@pytest.mark.faults
def test_two_control_planes_at_once_and_one_serves(box: Sandbox) -> None:
    """Seen red with a folder whose lock several may hold at once: neither ended."""
    box.must("apply", "--auto-approve")
    (home,) = folders(box)
    box.kill_control_plane()
    both = [box.start("serve", "--home", str(home)) for _ in range(2)]
    try:
        wait_until(lambda: any(p.poll() is not None for p in both), 30)
        lost = next(p for p in both if p.poll() is not None)
        _, err = lost.communicate()
        assert lost.returncode == 4, err
        assert "runs already" in err
        assert box.run("plan", "--detailed-exitcode").code == 0
        assert sum(p.poll() is None for p in both) == 1
    finally:
        for process in both:
            process.kill()
            process.communicate()
