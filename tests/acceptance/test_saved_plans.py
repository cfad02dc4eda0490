"""Saved plans, events and last resorts with a real control plane."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from falplan.cli.context import Options
from falplan.cli.project import load
from falplan.core.operations import OperationKind
from falplan.core.state import operation_id
from falplan.core.values import JsonObject
from falplan.engine.last_resort import left_over, push
from falplan.engine.local_gateway import reach
from falplan.engine.project import open_project
from falplan.stores.home import ControlHome
from tests.faults.sandbox import Sandbox, wait_until

pytestmark = pytest.mark.faults

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "events.json").read_text())
VALID = Draft202012Validator(SCHEMA, format_checker=FormatChecker())


def events(text: str) -> list[Any]:
    """The stream's events, each as its schema says, numbered without gaps, in order for each address."""
    found = [json.loads(line) for line in text.splitlines()]
    for event in found:
        VALID.validate(event)
    assert [e["sequence"] for e in found] == list(range(1, len(found) + 1))
    assert [e["@timestamp"] for e in found] == sorted(e["@timestamp"] for e in found)
    return found


def remove_by_hand(box: Sandbox, address: str, endpoint: str) -> None:
    """Somebody removes an app on the control plane itself, and state knows nothing of it."""
    [home] = [ControlHome(p) for p in (box.folder / "state" / "falplan").glob("*")]
    client = reach(home)
    assert client is not None
    body: JsonObject = {"address": address, "endpoint": endpoint}
    client.perform(operation_id("by hand", address, 1), OperationKind.DELETE_APP, body, progress=lambda line: None)


def test_exactly_the_saved_plan_is_carried_out_once_and_only_in_the_world_it_was_made_for() -> None:
    """Seen red with an apply that did not look again."""
    box = Sandbox(secrets=True, planted="canary-planted-d4c8")
    try:
        box.set_secret("KEPT", b"canary-kept-91b7")
        box.must("plan", "--out", "first")
        content = (box.project / "first").read_bytes()
        done = events(box.must("apply", "first", "--json").out)
        again = box.run("apply", "first")
        box.most = 3
        box.write()
        box.must("plan", "--out", "second")
        remove_by_hand(box, "app.main.one", "acme/one")
        state = (box.project / ".falplan" / "state.json").read_bytes()
        aborted = box.run("apply", "second")
        unapproved = box.run("apply", "second", "--on-drift", "replan")
        untouched = (box.project / ".falplan" / "state.json").read_bytes() == state
        replanned = box.must("apply", "second", "--on-drift", "replan", "--auto-approve")

        assert b"canary-planted-d4c8" not in content
        assert b"canary-kept-91b7" not in content
        assert done[-1]["falplan"]["addresses"]["done"] == sorted(c["address"] for c in box.state()["resources"])
        assert done[-1]["falplan"]["complete"] is True
        assert again.code == 6
        assert "It is stale: state is at serial 2, the plan was made at 0: app.main.one is new" in again.err
        assert aborted.code == 6
        assert "The world moved since the plan was made" in aborted.err
        assert "app.main.one: " in aborted.err
        assert "presence was present, is absent" in aborted.err
        assert unapproved.code == 6
        assert "Approval is missing" in unapproved.err
        assert untouched
        assert (
            "app.main.one will be created: it was applied before, but the control plane does not know it"
            in replanned.out
        )
        box.check_converged()
        box.must("plan", "--destroy", "--out", "last")
        destroyed = events(box.must("apply", "last", "--json").out)
        assert destroyed[-1]["changes"] == {"add": 0, "change": 0, "import": 0, "remove": 6, "operation": "destroy"}
        box.check_nothing_left()
    finally:
        box.clean()


def test_a_failed_apply_ends_its_events_with_what_was_skipped_and_a_summary(box: Sandbox) -> None:
    (box.project / "one.py").write_text("raise SystemExit('broken')\n")
    ran = box.run("apply", "--auto-approve", "--json")
    found = events(ran.out)
    hooks = [(e["type"], e["hook"]["resource"]["addr"]) for e in found if "hook" in e]

    assert ran.code == 1
    assert ("apply_errored", "app.main.one") in hooks
    assert ("apply_skipped", "app.main.two") in hooks
    assert ("apply_start", "app.main.two") not in hooks
    assert found[-1]["type"] == "change_summary"
    assert found[-1]["falplan"]["counts"] == {"done": 2, "failed": 1, "skipped": 1, "under_way": 0, "not_begun": 0}
    assert found[-1]["falplan"]["state_saved"] is True


def test_a_second_interrupt_leaves_at_once_with_a_summary_and_loses_nothing(box: Sandbox) -> None:
    """Seen red with a second interrupt that only left."""
    good = (box.project / "one.py").read_text()
    (box.project / "one.py").write_text("import time; time.sleep(3600)\n")
    apply = box.start("apply", "--auto-approve", "--json")
    wait_until(lambda: bool(box.runner_marks()), 60)
    apply.send_signal(signal.SIGINT)
    assert apply.stderr is not None
    first = apply.stderr.readline() + apply.stderr.readline()
    apply.send_signal(signal.SIGINT)
    out, err = apply.communicate(timeout=30)
    found = events(out)

    assert "Interrupt: nothing new is begun" in first
    assert "Second interrupt: not waiting." in err
    assert apply.returncode == 130
    assert found[-1]["type"] == "change_summary"
    assert "app.main.one" in found[-1]["falplan"]["addresses"]["under_way"]
    assert found[-1]["falplan"]["addresses"]["not_begun"] == ["app.main.two"]
    (box.project / "one.py").write_text(good)
    box.check_converged()


def test_state_that_can_not_be_saved_is_kept_and_nothing_goes_on_without_it(box: Sandbox) -> None:
    """The journal and the snapshot behind it fail once the gateway is there, as on a disk that is full.

    Seen red with an apply that kept no file: what was done was known to nobody any more.
    """
    full = "journal.done.before_write=raise@2;state.save.before_write=raise@2"
    ran = box.run("apply", "--auto-approve", FALPLAN_FAILPOINTS=full)
    errored = box.project / ".falplan" / "errored.json"
    refused = box.run("apply", "--auto-approve")
    planned = box.run("plan")

    assert ran.code == 5
    assert f"`falplan state push {errored}`, then `falplan apply` again." in ran.err
    assert "Apply did not finish: 3 done, 0 failed, 0 skipped, 1 not begun." in ran.err  # two ran at a time
    assert "not begun       app.main.two" in ran.err
    assert refused.code == 6
    assert f"Push it: `falplan state push {errored}`." in refused.err
    assert "Warning: state of an earlier apply was not saved." in planned.err
    environ = box.environ()
    project = open_project(load(Options(box.project, environ=environ)), environ)
    left = left_over(project, project.read_state())
    assert left is not None
    saved = push(project, left, project.read_state())
    assert saved == left.state
    assert all(r.intent is None for r in saved.resources.values())
    box.check_converged()
