"""Hosts that say nothing or let nobody in, met for the first time: what plan and apply say, and how long they wait."""

from __future__ import annotations

import json
import signal

import pytest

from falplan.core.errors import ExitCode
from tests.acceptance.test_hosts import Fleet, fleet  # noqa: F401 - a fixture

pytestmark = [pytest.mark.needs("openssh-server"), pytest.mark.timeout(300)]


def test_a_new_host_that_lets_nobody_in_is_refused_before_anything_is_made(fleet: Fleet) -> None:  # noqa: F811
    """Seen red with a plan that exited 0, and an apply that stopped half-way."""
    fleet.login = {"user": "nobody-of-this-name"}
    fleet.write()
    for command in (("plan",), ("plan", "--detailed-exitcode"), ("apply", "--auto-approve")):
        refused = fleet.box.run(*command)
        assert refused.code == ExitCode.REFUSED, refused
        assert "2 hosts can't be logged in to" in refused.err and "falplan.yaml:1:" in refused.err
        assert "nobody-of-this-name@" in refused.err and "authorized_keys" in refused.err
    assert "host.lab.a: tried" not in refused.err
    assert not fleet.box.processes("serve")
    fleet.login = {"user": "root"}
    fleet.apply()
    fleet.must("destroy", "--auto-approve")


@pytest.mark.faults
def test_a_new_host_that_says_nothing_is_waited_for_once_and_in_words(fleet: Fleet) -> None:  # noqa: F811
    """Seen red with a minute and a half without a word, in three waits."""
    silent, answers = fleet.hosts
    silent.freeze()
    try:
        plan = fleet.box.run("plan")
        waits = [line for line in plan.err.splitlines() if line.startswith("Waiting for ")]
        assert plan.code == 0 and len(waits) == 1 and "given up after 30 s" in waits[0], plan
        assert f"{silent.folder.name} (" in waits[0] and "says nothing" in plan.out

        planning = fleet.box.start("plan")
        assert planning.stderr is not None
        assert planning.stderr.readline().startswith("Waiting for ")
        planning.send_signal(signal.SIGINT)
        _, err = planning.communicate(timeout=20)  # it ends at once: the host is given up after 30
        assert planning.returncode == ExitCode.INTERRUPTED and "Interrupted." in err
    finally:
        silent.thaw()
    fleet.apply()
    fleet.must("destroy", "--auto-approve")
    for host in (silent, answers):
        fleet.check_clean(host)


def test_one_machine_under_two_names_is_told_by_plan_and_check(fleet: Fleet) -> None:  # noqa: F811
    """Seen red with a room that was counted twice, without a word. The hosts here share a kernel, and are told apart."""
    one, _ = fleet.hosts
    assert "one machine" not in fleet.must("plan")
    spec = json.loads((fleet.box.project / "falplan.yaml").read_text())
    hosts = spec["regions"]["lab"]["hosts"]
    hosts["again"] = dict(hosts[one.folder.name])
    (fleet.box.project / "falplan.yaml").write_text(json.dumps(spec))
    assert "host.lab.a, host.lab.again are one machine" in fleet.must("plan")
    checked = json.loads(fleet.box.run("host", "check", "--json").out)
    told = {h["name"]: [p["code"] for p in h["findings"]] for h in checked["hosts"]}
    assert [name for name, codes in sorted(told.items()) if "same-machine" in codes] == ["a", "again"]
