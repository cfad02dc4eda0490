"""Apps on four hosts with networks, disks and GPUs of their own, used with fal_client: from the first plan to nothing left."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.load import Load
from tests.faults.sandbox import Missing, wait_until
from tests.lab.fleet import Fleet, a_fleet, trace_of, wait_as_before

pytestmark = [pytest.mark.needs("openssh-server"), pytest.mark.timeout(300)]
CLIENT = Path(__file__).with_name("deployed_client.py")


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with ExitStack() as stack:
        try:
            made = stack.enter_context(a_fleet(("a", "b", "c", "d")))
        except Missing as exc:
            if exc.installable and os.environ.get("CI") == "true":
                raise
            pytest.skip(str(exc))
        yield made


def client(fleet: Fleet, scenario: str) -> Any:
    """What a use of fal_client came to."""
    return json.loads(fleet.must("exec", "--", sys.executable, str(CLIENT), scenario))


def test_apps_live_on_hosts_of_their_own_from_the_first_plan_to_the_last(fleet: Fleet) -> None:
    """Seen red with a removal that left its files."""
    before = {host.name: trace_of(host) for host in fleet.hosts}
    out = fleet.must("plan")
    assert all(f"host.lab.{name} will be created" in out for name in "abcd")
    assert "1 runner, 1 of 2 GPUs free" in out
    for host in fleet.hosts:  # a plan leaves nothing anywhere
        wait_as_before(host, before[host.name])
    fleet.apply()
    check_client(fleet)

    fleet.least = fleet.most = 4
    fleet.apply()
    wait_until(lambda: fleet.where() == ["a", "a", "b", "b"], 30, fleet.rows)

    load = Load(fleet.box, callers=3, endpoint="acme/app")
    load.start()
    fleet.version = 2
    fleet.apply()
    load.wait_for(2)
    wait_until(lambda: len(set(fleet.where())) > 1 and len(fleet.rows()) == 4, 60, fleet.rows)
    removed = next(host for host in fleet.hosts if host.name == fleet.where()[0])
    fleet.hosts.remove(removed)
    assert "0 added, 0 changed, 1 destroyed" in fleet.apply()
    wait_until(lambda: len(fleet.where()) == 4, 60, fleet.rows)
    assert removed.name not in fleet.where()
    wait_as_before(removed, before[removed.name], fleet.calls)
    load.stop()
    assert load.failures == [] and set(load.versions) == {1, 2}
    fleet.check_converged()
    assert fleet.run("drift").code == 0

    fleet.destroy()
    for host in fleet.hosts:
        wait_as_before(host, before[host.name], fleet.calls)


def check_client(fleet: Fleet) -> None:
    """Direct and queued calls, streams and cancellation, with the client package as it is."""
    assert client(fleet, "run")["host"] == "a"
    seen = client(fleet, "submit")
    assert seen["result"]["name"] == "you" and seen["result"] == seen["again"]
    assert seen["status"]["is"] == "Completed" and seen["status"]["timed"]
    assert client(fleet, "async_submit")["events"][-1]["is"] == "Completed"
    assert client(fleet, "stream") == [{"letter": letter} for letter in "abc"]
    cancelled = client(fleet, "cancel_running")
    assert cancelled["events"][-1]["is"] == "Completed" and cancelled["after"]["name"] == "you"
