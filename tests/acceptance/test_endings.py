"""How a control plane ends: told, hung, killed, without its folder. Nothing is left behind."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.faults.sandbox import Sandbox, wait_until


@pytest.mark.faults
@pytest.mark.parametrize("how", ["told", "killed", "hung", "deleted"])
def test_destroy_leaves_nothing_whatever_became_of_the_control_plane(box: Sandbox, how: str) -> None:
    """Seen red with a destroy that only asks (hung: it waited, then failed) and with a control plane that did not look after its
    folder (deleted: it went on)."""
    box.least = 1
    box.write()
    box.must("apply", "--auto-approve")
    (home,) = (box.folder / "state" / "falplan").iterdir()
    if how == "killed":
        box.kill_control_plane()
    elif how == "hung":
        (serving,) = box.processes("serve")
        serving.suspend()
    elif how == "deleted":
        delete(home)
    ran = box.must("destroy", "--auto-approve")

    assert "Destroy complete!" in ran.out
    box.check_nothing_left()
    assert box.must("state", "list").out == ""


def delete(home: Path) -> None:
    """As `rm -rf`, again: what lives there may write a file while its folder is emptied."""
    while home.exists():
        shutil.rmtree(home, ignore_errors=True)


def test_a_control_plane_whose_folder_is_deleted_ends_its_runners_and_itself(box: Sandbox) -> None:
    """Seen red with a control plane that did not look after its folder: both went on."""
    box.least = 1
    box.write()
    box.must("apply", "--auto-approve")
    (home,) = (box.folder / "state" / "falplan").iterdir()
    delete(home)
    wait_until(lambda: not box.processes("any"), 30)

    assert "its data is gone" in box.must("plan").out
    box.check_converged()
    box.destroy()


@pytest.mark.parametrize("alive", [True, False])
def test_destroy_names_the_requests_that_have_not_ended(box: Sandbox, alive: bool) -> None:
    box.must("apply", "--auto-approve")
    calls = [box.start("call", "two", json.dumps({"n": n, "sleep": 30})) for n in range(2)]
    try:
        home = next((box.folder / "state" / "falplan").iterdir())
        wait_until(lambda: len(unfinished(box)) == 2, 20)
        named = unfinished(box)
        if not alive:
            box.kill_control_plane()
        ran = box.run("destroy")
    finally:
        for call in calls:
            call.kill()
            call.communicate()

    assert ran.code == 6  # nobody approved
    assert "app.main.two has 2 unfinished requests" in ran.err
    assert all(request_id in ran.err for request_id in named)
    assert home.exists()


def unfinished(box: Sandbox) -> list[str]:
    from falplan.stores.runtime.asleep import unfinished_in

    (home,) = (box.folder / "state" / "falplan").iterdir()
    found: Any = unfinished_in(home / "control.db").get("acme/two", {"oldest": []})
    return [r["request_id"] for r in found["oldest"]]


def _runners(box: Sandbox, endpoint: str) -> set[str]:
    listed = json.loads(box.must("runners", "list", "--json").out)
    return {r["runner_id"] for r in listed if r["endpoint"] == endpoint}


def test_a_signal_ends_it_and_leaves_the_runners(box: Sandbox) -> None:
    box.least = 1
    box.write()
    box.must("apply", "--auto-approve")
    before = set(box.runner_marks())
    (serving,) = box.processes("serve")
    serving.send_signal(signal.SIGTERM)
    serving.wait(30)

    assert set(box.runner_marks()) == before
    assert "it is stopped: it is started again" in box.must("plan").out
    box.check_converged()
    assert set(box.runner_marks()) >= {r for r in before if r in _runners(box, "acme/one")}
