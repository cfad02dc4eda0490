"""Deploys under load lose nothing, and a bad revision never takes traffic."""

from __future__ import annotations

import json

import pytest

from tests.acceptance.load import Load
from tests.faults.sandbox import Sandbox, kill, wait_until


@pytest.mark.faults
def test_five_rolling_deploys_under_twenty_callers_lose_no_request(box: Sandbox) -> None:
    """Seen red with a controller that stopped old runners without waiting for their requests: 503 answers."""
    box.least = 1
    box.write()
    box.must("apply", "--auto-approve")
    load = Load(box, callers=20)
    load.start()
    for version in range(2, 7):
        box.version = version
        box.write()
        box.must("apply", "--auto-approve")
        load.wait_for(version)
    load.stop()

    assert load.failures == []
    assert set(load.versions) == {1, 2, 3, 4, 5, 6}
    assert sum(load.versions.values()) > 200
    box.check_converged()


BAD = {
    "exits": "raise SystemExit('the weights are missing')",
    "import error": "import no_such_module",
    "never listens": "import time; print('loading'); time.sleep(3600)",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_revision_leaves_the_old_one_serving(box: Sandbox, kind: str) -> None:
    """Seen red with a rollout that moved the alias before its runner was healthy: nothing answered any more."""
    if kind == "never listens":
        text = (box.project / "falplan.yaml").read_text().replace("startup_timeout: 60", "startup_timeout: 2")
        (box.project / "falplan.yaml").write_text(text)
    box.must("apply", "--auto-approve")
    good = json.loads(box.must("state", "show", "app.main.one", "--json").out)["outputs"]["revision"]
    (box.project / "one.py").write_text(BAD[kind] + "\n")
    ran = box.run("apply", "--auto-approve")
    answer = json.loads(box.must("call", "one", '{"n": 1}').out)

    assert ran.code == 7
    assert f"{good} keeps serving" in ran.err
    assert "falplan apply` again" in ran.err
    assert {"exits": "the weights are missing", "import error": "no_such_module", "never listens": "startup timeout"}[
        kind
    ] in ran.err
    assert answer["version"] == 1
    assert box.run("plan", "--detailed-exitcode").code == 2
    box.check_processes()


ROOM_FOR_TWO = "regions: {here: {provider: local, capacity: {vcpu: 1}, strict: true}}\napps:\n"


def test_a_deploy_waits_for_the_room_of_the_one_that_it_overtakes(box: Sandbox) -> None:
    """Two runners fit: one serves, one verifies an abandoned deploy. The next deploy needs the second one's room.

    Seen red with a plan that counted that runner as staying (exit 6), and with a controller that gave up at once when runners
    that were still stopping took the room (exit 7).
    """
    spec = box.project / "falplan.yaml"
    text = spec.read_text().replace("apps:\n", ROOM_FOR_TWO)
    text = "\n".join(line for line in text.splitlines() if not line.startswith("  two:")).replace(
        "keep_alive", "termination_grace_period_seconds: 3, keep_alive"
    )
    good = (box.project / "one.py").read_text()
    spec.write_text(text.replace("min_concurrency: 0", "min_concurrency: 1"))
    box.must("apply", "--auto-approve")
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)\n"
    (box.project / "one.py").write_text(deaf)
    abandoned = box.start("apply", "--auto-approve")
    wait_until(lambda: len(box.runner_marks()) == 2, 20)
    abandoned.kill()
    abandoned.communicate()
    (box.project / "one.py").write_text(good.replace('"version": 1', '"version": 2'))
    ran = box.must("apply", "--auto-approve")

    assert "waits for the room of" in ran.out + ran.err
    assert json.loads(box.must("call", "one", '{"n": 1}').out)["version"] == 2
    box.check_processes()


def test_a_first_deploy_that_fails_can_be_repaired(box: Sandbox) -> None:
    (box.project / "one.py").write_text("raise SystemExit('broken')\n")
    ran = box.run("apply", "--auto-approve")

    assert ran.code == 1
    assert "No revision serves it" in ran.err
    assert "app.main.two: skipped, because app.main.one failed" in ran.err
    box.write()
    box.check_converged()


@pytest.mark.faults
def test_a_crashing_app_backs_off_and_recovers(box: Sandbox) -> None:
    box.least = 1
    box.write()
    box.must("apply", "--auto-approve")
    for _ in range(3):
        for processes in box.runner_marks().values():
            kill(processes)
        answer = json.loads(box.must("call", "one", '{"n": 1}').out)
        assert answer["n"] == 1
    box.check_converged()


def test_recreate_moves_at_once(box: Sandbox) -> None:
    text = (box.project / "falplan.yaml").read_text().replace("one: {", "one: {strategy: recreate, ")
    (box.project / "falplan.yaml").write_text(text)
    box.must("apply", "--auto-approve")
    box.must("call", "one", '{"n": 1}')
    (box.project / "one.py").write_text((box.project / "one.py").read_text().replace('"version": 1', '"version": 9'))
    plan = box.must("plan").out
    box.must("apply", "--auto-approve")

    assert "traffic moves at once (recreate)" in plan
    assert json.loads(box.must("call", "one", '{"n": 1}').out)["version"] == 9


@pytest.mark.faults
def test_an_app_that_never_gets_healthy_is_started_ever_more_rarely(box: Sandbox) -> None:
    """A revision that was good: its check fails later on. It is not started again and again without a pause."""
    flag = box.folder / "ill"
    box.least = 1
    box.write()
    spec = box.project / "falplan.yaml"
    check = "health_check: {path: /well, method: POST}, startup_timeout: 1"
    spec.write_text(spec.read_text().replace("startup_timeout: 60", check, 1))
    server = (
        (box.project / "one.py")
        .read_text()
        .replace("self.send_response(200)", f"self.send_response(500 if pathlib.Path({str(flag)!r}).exists() else 200)")
    )
    (box.project / "one.py").write_text(server)
    box.must("apply", "--auto-approve")
    flag.touch()
    for processes in box.runner_marks().values():
        kill(processes)

    def failures() -> int:
        apps = json.loads(box.must("apps", "list", "--json").out)
        return int(next(a["failures"] for a in apps if a["endpoint"] == "acme/one"))

    wait_until(lambda: failures() >= 3, 60)
    flag.unlink()
    assert json.loads(box.must("call", "one", '{"n": 1}').out)["n"] == 1
