"""Runners that the release before this one started go on under this one, and are looked after and ended by it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.faults.sandbox import Sandbox, kill, wait_until

OLDER = Path(__file__).parents[1] / "runner" / "supervisors" / "protocol_1.py"
RELEASED = "f418aef5c3eaf1cb5e61c46ec3de54e1cb449b374dd0216f63e60f43f9b99163"


def tools(box: Sandbox) -> Path:
    """The supervisor that the control plane starts runners with."""
    (found,) = (box.folder / "state").glob("falplan/*/machine/tools/*/supervisor.py")
    return found


def runners(box: Sandbox) -> dict[str, tuple[int, int]]:
    """(protocol, pid of the app) of each live runner, by id, as its supervisor wrote it."""
    found = (box.folder / "state").glob("falplan/*/machine/runners/*/status.json")
    status = [json.loads(path.read_text()) for path in found]
    return {s["runner_id"]: (s["protocol"], s["child"]["pid"]) for s in status if s["state"] == "READY"}


def protocols(box: Sandbox) -> set[int]:
    return {protocol for protocol, _ in runners(box).values()}


def test_the_older_supervisor_is_as_it_was_released() -> None:
    assert hashlib.sha256(OLDER.read_bytes()).hexdigest() == RELEASED


@pytest.mark.faults
def test_runners_of_an_older_supervisor_are_adopted_answer_and_are_replaced(box: Sandbox) -> None:
    """Seen red with a control plane that takes protocol 2 alone: each of its looks at the runners failed."""
    box.least = 1
    box.write()
    box.must("apply", "--auto-approve")
    script = tools(box)
    ours = script.read_bytes()
    script.write_bytes(OLDER.read_bytes())
    kill(p for found in box.runner_marks().values() for p in found)
    wait_until(lambda: set(box.runner_marks()) == set(runners(box)) and protocols(box) == {1}, 30)
    box.kill_control_plane()
    script.write_bytes(ours)
    before = runners(box)

    box.check_converged()
    assert runners(box) == before
    assert json.loads(box.must("call", "one", '{"n": 9}').out)["n"] == 9
    old = next(iter(before))
    assert "ready after" in box.must("runners", "logs", old).out

    box.version += 1
    box.write()
    box.check_converged()
    wait_until(lambda: protocols(box) == {2}, 30)
    assert json.loads(box.must("call", "one", '{"n": 9}').out)["version"] == 2
    box.destroy()
