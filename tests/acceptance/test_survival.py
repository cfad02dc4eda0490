"""Requests survive the death of the gateway and of runners. Checked by the history of what callers and apps saw."""

from __future__ import annotations

import json
import signal
import threading

import pytest

from falplan.stores.home import ControlHome
from tests.faults.caller import Caller
from tests.faults.sandbox import Sandbox, kill, wait_until


@pytest.mark.faults
def test_two_hundred_queued_requests_survive_the_death_of_the_control_plane(box: Sandbox) -> None:
    """Seen red with a store that answered before it committed: requests were accepted and never completed."""
    box.must("apply", "--auto-approve")
    caller = Caller(box)
    ids = [i for i in (caller.submit(n, sleep=0.02) for n in range(200)) if i]
    box.kill_control_plane()
    box.must("apply", "--auto-approve")
    caller.finish(ids)

    assert len(ids) == 200
    assert caller.verdict(box) == []
    box.check_converged()


# A TLS handshake cut short by the kill leaves its socket to the garbage collector, inside urllib3.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.faults
def test_requests_in_flight_when_the_control_plane_dies_again_and_again_all_complete(box: Sandbox) -> None:
    """Seen red with a dispatcher that did not take up unfinished requests at its start: accepted, but never completed."""
    box.must("apply", "--auto-approve")
    caller = Caller(box)
    ids: list[str] = []
    stop = threading.Event()

    def submit() -> None:
        n = 0
        while not stop.is_set():
            request_id = caller.submit(n, sleep=0.05)
            n += 1
            if request_id:
                ids.append(request_id)

    thread = threading.Thread(target=submit)
    thread.start()
    for _ in range(3):
        wanted = len(ids) + 30
        wait_until(lambda wanted=wanted: len(ids) > wanted, 30)
        box.kill_control_plane()
        box.must("apply", "--auto-approve")
    stop.set()
    thread.join()
    caller.finish(ids)

    assert len(ids) > 90
    assert caller.verdict(box) == []


def test_a_runner_killed_in_mid_request_is_replaced_and_the_request_is_tried_again(box: Sandbox) -> None:
    """Seen red with one attempt instead of ten: the request completed with an error and was never executed."""
    box.must("apply", "--auto-approve")
    caller = Caller(box)
    (before,) = {
        r["runner_id"] for r in json.loads(box.must("runners", "list", "--json").out) if r["endpoint"] == "acme/one"
    }
    processes = box.runner_marks()[before]
    request_id = caller.submit(1, sleep=3)
    assert request_id
    wait_until(lambda: caller.status(request_id) == "IN_PROGRESS", 10)
    kill(processes)
    caller.finish([request_id])
    after = {
        r["runner_id"] for r in json.loads(box.must("runners", "list", "--json").out) if r["endpoint"] == "acme/one"
    }

    assert caller.verdict(box) == []
    assert before not in after
    assert after


@pytest.mark.parametrize("direct", [True, False])
def test_requests_are_held_while_a_runner_starts_from_zero(box: Sandbox, direct: bool) -> None:
    text = (
        (box.project / "falplan.yaml")
        .read_text()
        .replace("keep_alive: 300, max_multiplexing", "keep_alive: 0, max_multiplexing")
    )
    (box.project / "falplan.yaml").write_text(text)
    box.must("apply", "--auto-approve")
    wait_until(
        lambda: not [r for r in json.loads(box.must("runners", "list", "--json").out) if r["endpoint"] == "acme/one"],
        30,
    )
    caller = Caller(box)
    if direct:
        answer = caller.pool.request(
            "POST", f"{caller.base.removesuffix('/queue')}/run/acme/one", json={"n": 4}, timeout=60
        )
        assert answer.json() == {"n": 4, "version": 1}
    else:
        request_id = caller.submit(4)
        assert request_id
        caller.finish([request_id])
        assert caller.verdict(box) == []


@pytest.mark.faults
def test_a_control_plane_that_is_only_starting_is_waited_for() -> None:
    """An apply that was killed may have left one that holds its folder and listens nowhere yet: that is not "unreachable".

    Seen red with `reach` that takes what an earlier control plane announced for the living one's: everything was unknown.
    """
    box = Sandbox()
    try:
        box.must("apply", "--auto-approve")
        box.kill_control_plane()
        home = next((box.folder / "state" / "falplan").iterdir())
        # A process that was killed holds its lock until its last thread has gone: it must not be taken for the next one's.
        wait_until(lambda: not ControlHome(home).is_alive(), 10)
        serve = box.start("serve", "--home", str(home))
        try:
            wait_until(ControlHome(home).is_alive, 20)
            serve.send_signal(signal.SIGSTOP)
            assert json.loads((home / "endpoint.json").read_text())["pid"] != serve.pid
            threading.Timer(1.5, serve.send_signal, [signal.SIGCONT]).start()
            ran = box.run("plan", "--detailed-exitcode")
            assert ran.code == 0, ran.out + ran.err
        finally:
            serve.kill()
            serve.communicate()
        box.check_converged()
        box.destroy()
    finally:
        box.clean()
