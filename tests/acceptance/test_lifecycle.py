"""From apply to destroy, as a user sees it."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess

import pytest
import urllib3

from falplan.runner.processes import boot_id, start_of
from tests.faults.sandbox import Sandbox, wait_until


def test_apply_twice_then_destroy(box: Sandbox) -> None:
    first = box.must("apply", "--auto-approve")
    second = box.must("apply", "--auto-approve")

    assert "Apply complete! 4 added, 0 changed, 0 destroyed." in first.out
    assert "app.main.one = https://localhost:" in first.out
    assert "No changes." in second.out
    box.check_converged()
    box.destroy()
    assert box.must("state", "list").out == ""


def test_plan_shows_what_follows_and_changes_nothing(box: Sandbox) -> None:
    plan = box.must("plan")
    coded = box.run("plan", "--detailed-exitcode")

    assert "Plan: 4 to add, 0 to change, 0 to destroy." in plan.out
    assert "app.main.one: launch 1 runner" in plan.out
    assert coded.code == 2
    assert not (box.project / ".falplan" / "state.json").exists()
    assert box.processes("any") == []


def test_a_scaling_value_is_changed_in_place_without_a_new_revision(box: Sandbox) -> None:
    box.must("apply", "--auto-approve")
    before = json.loads(box.must("state", "show", "app.main.one", "--json").out)["outputs"]["revision"]
    box.most = 3
    box.write()
    plan = box.must("plan").out
    box.must("apply", "--auto-approve")
    after = json.loads(box.must("state", "show", "app.main.one", "--json").out)["outputs"]["revision"]

    assert "~ max_concurrency = 2 -> 3  # updated in place" in plan
    assert "Plan: 0 to add, 1 to change, 0 to destroy." in plan
    assert before == after
    box.check_converged()


def test_an_edited_file_makes_a_new_revision_that_answers(box: Sandbox) -> None:
    box.must("apply", "--auto-approve")
    box.version = 2
    box.write()
    plan = box.must("plan").out
    box.must("apply", "--auto-approve")
    answer = json.loads(box.must("call", "one", '{"n": 5}').out)

    assert "~ one.py = " in plan
    assert "makes a new revision" in plan
    assert "app.main.one: drain 1 runner: once the new revision serves" in plan
    assert answer == {"n": 5, "version": 2}
    box.check_converged()


def test_without_a_terminal_apply_wants_approval_beforehand(box: Sandbox) -> None:
    ran = box.run("apply")

    assert ran.code == 6
    assert "--auto-approve" in ran.err
    assert box.processes("any") == []


def test_an_app_that_leaves_the_spec_is_removed(box: Sandbox) -> None:
    box.must("apply", "--auto-approve")
    text = (box.project / "falplan.yaml").read_text()
    (box.project / "falplan.yaml").write_text(
        "\n".join(line for line in text.splitlines() if not line.startswith("  two:"))
    )
    ran = box.must("apply", "--auto-approve")

    assert "Apply complete! 0 added, 0 changed, 2 destroyed." in ran.out
    assert [a["endpoint"] for a in json.loads(box.must("apps", "list", "--json").out)] == ["acme/one"]
    box.check_processes()


def test_a_stopped_control_plane_is_started_again_with_its_queue_and_keys(box: Sandbox) -> None:
    """Seen red with a start that did not read the recorded runners: it killed them as unknown."""
    box.must("apply", "--auto-approve")
    key = json.loads(box.must("keys", "create", "--json").out)["key_id"]
    runners = box.runner_marks()
    box.kill_control_plane()
    stopped = box.run("runners", "list")
    plan = box.must("plan").out
    box.must("apply", "--auto-approve")

    assert stopped.code == 1
    assert "`falplan apply` starts it again" in stopped.err
    assert "gateway will be updated in-place: it is stopped" in plan
    assert key in box.must("keys", "list").out
    assert {r: [p.pid for p in ps] for r, ps in box.runner_marks().items()} == {
        r: [p.pid for p in ps] for r, ps in runners.items()
    }
    box.check_converged()


@pytest.mark.faults
def test_after_a_reboot_apply_brings_everything_back_with_its_queue_and_keys(box: Sandbox) -> None:
    """All processes are gone, sockets too, and a number that was a runner's is somebody else's now.

    Seen red with an agent that knows processes by pid and start time alone: it killed the other one.
    """
    box.least = 1
    box.write()
    box.must("apply", "--auto-approve")
    key = json.loads(box.must("keys", "create", "--json").out)["key_id"]
    values = json.loads(box.must("env", "--json").out)
    pool = urllib3.PoolManager(ca_certs=values["SSL_CERT_FILE"], headers={"authorization": f"Key {values['FAL_KEY']}"})
    queue = f"https://{values['FAL_QUEUE_RUN_HOST']}/acme/one"
    request = pool.request("POST", queue, json={"n": 7, "sleep": 3}).json()
    before = set(box.runner_marks())
    box.kill_everything()
    shutil.rmtree(box.folder / "run", ignore_errors=True)
    with subprocess.Popen(["sleep", "1000"]) as other:
        seem_rebooted(box, other.pid)
        plan = box.must("plan").out
        box.check_converged()
        wait_until(lambda: pool.request("GET", request["status_url"]).json()["status"] == "COMPLETED", 30)
        survived = other.poll() is None
        other.kill()

    assert "it is stopped: it is started again" in plan
    assert survived
    assert pool.request("GET", request["response_url"]).json()["n"] == 7
    assert key in box.must("keys", "list").out
    assert box.runner_marks()
    assert not before & set(box.runner_marks())
    box.destroy()


def seem_rebooted(box: Sandbox, pid: int) -> None:
    """Whatever was written before belongs to another boot, in which `pid` was each runner's."""
    start = start_of(pid)
    for path in [*box.folder.rglob("runners/*/status.json"), *box.folder.rglob("ledger.json")]:
        text = path.read_text().replace(boot_id(), "00000000-0000-4000-8000-000000000000")
        body = json.loads(text)
        for name in ("supervisor", "child"):
            if name in body:
                body[name].update(pid=pid, start=start)
        path.write_text(json.dumps(body))


def test_deleted_data_of_the_control_plane_is_seen_and_made_again(box: Sandbox) -> None:
    """Seen red with an observation that took a control plane's data for granted."""
    box.must("apply", "--auto-approve")
    (home,) = (box.folder / "state" / "falplan").iterdir()
    box.kill_control_plane()
    box.kill_everything()
    home.rename(box.folder / "aside")
    plan = box.must("plan").out

    assert "Plan: 4 to add" in plan
    box.check_converged()


def test_a_second_apply_is_told_who_holds_the_lock(box: Sandbox) -> None:
    """Seen red with a state lock that two could hold."""
    first = box.start("apply", "--auto-approve", FALPLAN_FAILPOINTS="apply.app.before_act=sleep:3")
    wait_until(lambda: (box.project / ".falplan" / "state.journal").exists(), 20)
    second = box.run("apply", "--auto-approve")
    first.communicate(timeout=60)

    assert second.code == 4
    assert f"pid {first.pid}" in second.err
    assert first.returncode == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_interrupt_finishes_what_runs_and_saves_state(box: Sandbox, number: int, code: int) -> None:
    """Seen red with an apply that did not look at the interrupt: it did everything and exited 0."""
    process = box.start("apply", "--auto-approve", FALPLAN_FAILPOINTS="apply.gateway.after_act=sleep:2")
    wait_until(lambda: (box.project / ".falplan" / "state.journal").exists(), 20)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)

    assert process.returncode == code
    assert "State is saved" in err
    assert box.must("state", "list").out == "gateway\n"
    box.check_converged()


def test_runners_are_listed_read_and_stopped(box: Sandbox) -> None:
    box.must("apply", "--auto-approve")
    (one,) = [r for r in json.loads(box.must("runners", "list", "--json").out) if r["endpoint"] == "acme/one"]
    box.must("runners", "stop", one["runner_id"])

    assert one["state"] == "IDLE"
    assert one["because"] == "verifies the new revision before traffic moves"
    assert one["runner_id"] not in box.runner_marks()
    assert json.loads(box.must("call", "one", '{"n": 3}').out)["n"] == 3
    box.must("runners", "logs", one["runner_id"])


def test_keys_made_and_revoked_take_effect_at_once(box: Sandbox) -> None:
    box.must("apply", "--auto-approve")
    made = json.loads(box.must("keys", "create", "--desc", "for tests", "--json").out)
    good = box.run("call", "one", '{"n": 1}', FALPLAN_KEY=made["key"])
    box.must("keys", "revoke", made["key_id"])
    bad = box.run("call", "one", '{"n": 1}', FALPLAN_KEY=made["key"])

    assert good.code == 0
    assert bad.code == 1
    assert "401" in bad.err
    assert made["key"].partition(":")[2] not in box.must("keys", "list").out


def test_state_holds_no_key(box: Sandbox) -> None:
    box.must("apply", "--auto-approve")
    (home,) = (box.folder / "state" / "falplan").iterdir()
    secrets = [(home / f"{name}.key").read_text().strip() for name in ("admin", "api")]
    everything = (box.project / ".falplan" / "state.json").read_text() + box.serve_log()

    assert not [s for s in secrets if s.partition(":")[2] in everything]
    assert home.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("hung", [False, True])
def test_destroy_works_with_a_control_plane_that_was_killed(box: Sandbox, hung: bool) -> None:
    """Its runners are still up then, and their supervisors may be `hung`: they are found by their mark and ended.

    Seen red with a destroy that did not reap: hung supervisors stayed, the others ended as their folder went.
    """
    box.must("apply", "--auto-approve")
    box.kill_control_plane()
    assert len(box.runner_marks()) == 2
    if hung:
        for supervisor in box.processes("supervisor"):
            supervisor.suspend()
    box.destroy()


def test_destroying_an_environment_leaves_the_others_as_they_are(box: Sandbox) -> None:
    spec = box.project / "falplan.yaml"
    spec.write_text(spec.read_text() + "environments:\n  staging: {apps: {one: {}}}\n")
    box.must("apply", "--auto-approve")
    before = box.state()["resources"]
    (box.project / "one.py").write_text((box.project / "one.py").read_text() + "\n# edited, not applied\n")
    ran = box.must("destroy", "-e", "staging", "--auto-approve")
    after = box.state()["resources"]

    assert "Destroy complete! 1 destroyed." in ran.out
    assert after == [r for r in before if ".staging." not in r["address"]]


def test_what_apply_does_is_done_although_nobody_reads_on(box: Sandbox) -> None:
    """Seen red with a command line that failed on a closed pipe."""
    process = box.start("apply", "--auto-approve")
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    process.stderr.close()

    assert process.wait(60) == 0
    assert "No changes." in box.must("plan").out


def test_another_port_moves_the_gateway_and_keeps_its_runners(box: Sandbox) -> None:
    """Seen red with a move that stopped the runners, too."""
    box.must("apply", "--auto-approve")
    runners = set(box.runner_marks())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spec = box.project / "falplan.yaml"
    spec.write_text(
        spec.read_text().replace("gateway: {hostname: localhost}", f"gateway: {{provider: local, port: {port}}}")
    )
    ran = box.must("apply", "--auto-approve")

    assert f"app.main.one = https://127.0.0.1:{port}/run/acme/one" in ran.out
    assert json.loads(box.must("call", "one", '{"n": 1}').out)["n"] == 1
    assert set(box.runner_marks()) == runners
    box.check_converged()


@pytest.mark.faults
def test_an_app_that_is_put_back_while_it_is_removed_is_there_again(box: Sandbox) -> None:
    """Seen red with a deploy that fails as long as the removed app still finishes its requests."""
    box.secrets = True
    box.write()
    box.set_secret("KEPT", b"kept")
    box.must("apply", "--auto-approve")
    busy = box.start("call", "two", '{"n": 1, "sleep": 20}')  # longer than the two commands that follow
    wait_until(lambda: any(r["in_flight"] for r in json.loads(box.must("runners", "list", "--json").out)), 20)
    box.reduced = True
    box.write()
    assert box.run("apply", "--auto-approve", FALPLAN_FAILPOINTS="call.delete_app.after_answer=kill").code == -9
    box.reduced = False
    box.write()
    ran = box.must("apply", "--auto-approve")

    assert "waiting for the removal of acme/two to end" in ran.out + ran.err
    busy.communicate(timeout=60)
    assert json.loads(box.must("call", "two", '{"n": 2}').out)["n"] == 2
    box.check_converged()
    box.destroy()
