"""An older database, and a control plane in another's place: told everything anew, with nothing started twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.faults.sandbox import Sandbox, wait_until


def home_of(box: Sandbox) -> Path:
    (home,) = (box.folder / "state" / "falplan").iterdir()
    return home


def yesterday(box: Sandbox) -> Path:
    """A copy of the database as it is now, put aside while nobody writes."""
    box.kill_control_plane()
    kept = box.folder / "yesterday"
    kept.mkdir()
    for path in home_of(box).glob("control.db*"):
        shutil.copy(path, kept / path.name)
    box.must("apply", "--auto-approve")
    return kept


def restore(box: Sandbox, kept: Path) -> None:
    box.kill_control_plane()
    for path in home_of(box).glob("control.db*"):
        path.unlink()
    for path in kept.iterdir():
        shutil.copy(path, home_of(box) / path.name)


@pytest.mark.faults
def test_yesterdays_database_is_told_everything_anew_and_takes_over_what_runs(box: Sandbox) -> None:
    """Seen red with a control plane that ended every runner which it had not recorded."""
    box.least = 1
    box.write()
    box.must("apply", "--auto-approve")
    kept = yesterday(box)
    box.version = 2
    box.write()
    box.must("apply", "--auto-approve")
    wait_until(lambda: len(box.runner_marks()) == 2, 20)
    before = set(box.runner_marks())
    restore(box, kept)
    ran = box.must("apply", "--auto-approve")
    answer = json.loads(box.must("call", "one", '{"n": 1}').out)

    assert "it is stopped" in ran.out
    assert "older than what was applied: it is told what it lacks" in ran.out
    assert "its database is older than what was applied" in ran.out
    assert "Runners that nobody knows:" in ran.out
    assert "taken over if its revision is applied again" in ran.out
    assert "~ one.py = " in ran.out
    assert answer["version"] == 2
    assert before <= set(box.runner_marks()), ran.out + ran.err
    box.check_converged()
    assert "Runners that nobody knows" not in box.must("plan").out
    box.destroy()


def take_older_state(box: Sandbox) -> None:
    """An older state is refused until somebody says that it is there on purpose."""
    refused = box.run("plan")
    assert (refused.code, "The state is older than it was" in refused.err) == (6, True), refused.out + refused.err
    box.must("state", "repair", "--apply", "--auto-approve")


@pytest.mark.faults
def test_yesterdays_state_is_caught_up_with_what_was_applied_since(box: Sandbox) -> None:
    """Seen red with operation ids that went on from the old state's count: the control plane took them for done before."""
    box.must("apply", "--auto-approve")
    kept = box.folder / "state-of-yesterday"
    shutil.copytree(box.project / ".falplan", kept)
    wanted = (box.project / "falplan.yaml").read_text()
    extra = (
        wanted
        + '  three: {command: [python3, one.py], files: [one.py], machine_type: XS, environment_variables: {CALLS: "/dev/null"}}\n'
    )
    (box.project / "falplan.yaml").write_text(extra)
    box.must("apply", "--auto-approve")
    for version in (2, 3):
        (box.project / "one.py").write_text(
            (box.project / "one.py").read_text().replace(f'"version": {version - 1}', f'"version": {version}')
        )
        box.must("apply", "--auto-approve")
    shutil.rmtree(box.project / ".falplan")
    shutil.copytree(kept, box.project / ".falplan")
    take_older_state(box)
    box.version = 2
    box.write()  # what was applied between then and now, and without the third app
    plan = box.must("plan").out
    box.check_converged()

    assert "app.main.three will be destroyed" in plan
    assert json.loads(box.must("call", "one", '{"n": 1}').out)["version"] == 2
    assert len(json.loads(box.must("apps", "list", "--json").out)) == 2
    box.destroy()


@pytest.mark.faults
def test_a_destroy_with_yesterdays_state_leaves_nothing(box: Sandbox) -> None:
    box.must("apply", "--auto-approve")
    kept = box.folder / "state-of-yesterday"
    shutil.copytree(box.project / ".falplan", kept)
    box.version = 2
    box.write()
    box.must("apply", "--auto-approve")
    shutil.rmtree(box.project / ".falplan")
    shutil.copytree(kept, box.project / ".falplan")
    take_older_state(box)
    box.destroy()
