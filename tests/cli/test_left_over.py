"""State that an earlier apply could not save: no command goes on without it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

from falplan.cli import apply, destroy, left_over, plan
from falplan.cli.context import Options
from falplan.cli.project import load
from falplan.core.errors import Refused, StateNotSaved
from falplan.core.state import Entry, Intent, Recorded, State
from falplan.engine.last_resort import left_over as found
from falplan.engine.last_resort import push
from falplan.engine.project import Project, open_project
from falplan.stores.state import errored
from falplan.stores.state.errored import Places
from falplan.stores.state.local import LocalState
from falplan.stores.state.seal import NoSeal
from tests.cli.spec_commands import run
from tests.core.builders import LINEAGE

SPEC = "version: 1\nproject: demo\napps:\n  base: {command: [python3, base.py], files: [base.py]}\n"
BUILD = Recorded("build.main.x", "build", {"kind": "command"}, {"lock": "aa"}, (), 2)
SAVED = State("demo", LINEAGE, 4)
KEPT = replace(SAVED, serial=5, resources={BUILD.address: BUILD})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project whose last apply could not save its state."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "falplan.yaml").write_text(SPEC)
    (project / "base.py").write_text("")
    store = LocalState(project / ".falplan")
    store.folder.mkdir()
    store.save(replace(SAVED, serial=3))
    keep(project)
    return project


def keep(folder: Path, **changed: Any) -> Path:
    (folder / ".falplan" / "errored.json").unlink(missing_ok=True)
    state = replace(KEPT, serial=4, **changed)
    path = errored.write(Places(folder / ".falplan", {}), LINEAGE, errored.content_of(state, NoSeal()))
    assert path is not None
    return path


def environ(folder: Path) -> dict[str, str]:
    home = str(folder.parent)
    return {"HOME": home, "XDG_STATE_HOME": f"{home}/state", "TMPDIR": f"{home}/tmp"}


def a_project(folder: Path) -> Project:
    return open_project(load(Options(folder, environ=environ(folder))), environ(folder))


@pytest.mark.parametrize(
    ("command", "args"),
    [
        (apply.command, ["--auto-approve"]),
        (apply.command, []),
        (destroy.command, ["--auto-approve"]),
        (plan.command, ["--out", "p"]),
    ],
)
def test_no_command_goes_on_from_state_that_lacks_something(
    folder: Path, command: click.Command, args: list[str]
) -> None:
    """Seen red with each of them."""
    before = (folder / ".falplan" / "state.json").read_bytes()
    result = run(command, folder, *args, environ=environ(folder))
    path = folder / ".falplan" / "errored.json"

    assert isinstance(result.exception, Refused)
    assert result.exception.summary == "State of an earlier apply was not saved"
    assert f"`falplan state push {path}`" in result.exception.detail
    assert f"`rm {path}`" in result.exception.detail
    assert (folder / ".falplan" / "state.json").read_bytes() == before
    assert not (folder / "p").exists()


def test_a_plan_says_that_it_lacks_something(folder: Path) -> None:
    result = run(plan.command, folder, environ=environ(folder))

    assert result.exception is None
    assert "Warning: state of an earlier apply was not saved." in result.stderr
    assert "falplan state push" in result.stderr


def test_pushing_saves_exactly_what_would_have_been_saved(folder: Path) -> None:
    """Seen red with a push that counted its own serial."""
    project = a_project(folder)
    left = found(project, project.read_state())
    assert left is not None

    assert push(project, left, project.read_state()) == KEPT
    assert project.read_state() == KEPT
    assert found(project, project.read_state()) is None
    assert not left.path.exists()


def test_a_person_is_asked_and_yes_pushes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project, answers = a_project(folder), iter(["no", "yes"])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(click, "prompt", lambda *a, **k: next(answers))
    with pytest.raises(Refused):
        left_over.settle_left_over(project, ask=True)
    assert project.read_state() == SAVED
    left_over.settle_left_over(project, ask=True)

    assert project.read_state() == KEPT
    assert "State is saved, at serial 5." in capsys.readouterr().err


def test_state_that_went_on_is_never_overwritten(folder: Path) -> None:
    """Another apply has destroyed what the file knows of. Seen red with a push that compared lineages alone."""
    project = a_project(folder)
    project.store.save(replace(SAVED, retired={BUILD.address: 3}))
    state = project.read_state()
    left = found(project, state)
    assert left is not None
    with pytest.raises(Refused) as caught:
        push(project, left, state)

    assert "follows serial 4, and state is at 5 by now" in caught.value.detail
    assert project.read_state().resources == {}
    assert left.path.exists()


def test_a_state_that_was_only_written_anew_is_pushed_onto(folder: Path) -> None:
    """Who takes the lock of a holder that could not give it back writes what it read with the next serial, twice here; nothing was done.

    Seen red with a push that went by the serial: with credentials that had expired it was never possible.
    """
    begun = replace(BUILD, outputs={}, generation=1, intent=Intent("update", "x", 2, ""))
    project = a_project(folder)
    for serial in (4, 5):
        project.store.save(replace(SAVED, serial=serial, resources={BUILD.address: begun}))
    state = project.read_state()
    left = found(project, state)
    assert left is not None
    saved = push(project, left, state)

    assert (saved.serial, saved.resources) == (7, KEPT.resources)
    assert project.read_state() == saved
    assert not left.path.exists()


def test_a_file_whose_state_was_pushed_by_other_means_is_removed(folder: Path) -> None:
    project = a_project(folder)
    project.store.save(replace(KEPT, serial=4))
    left_over.settle_left_over(project, ask=False)

    assert not (folder / ".falplan" / "errored.json").exists()


def test_a_file_whose_state_stands_in_the_journal_after_all_is_removed(folder: Path) -> None:
    """A write that failed may be there nevertheless. Seen red with a look at the serial: it could neither be pushed nor passed over."""
    project = a_project(folder)
    project.store.append(project.read_state(), Entry("done", BUILD.address, BUILD.generation, BUILD))
    assert project.read_state().serial == KEPT.serial - 1
    left_over.settle_left_over(project, ask=False)

    assert not (folder / ".falplan" / "errored.json").exists()


def test_a_store_that_still_takes_nothing_leaves_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = a_project(folder)
    left = found(project, project.read_state())
    assert left is not None

    def save(self: LocalState, state: State) -> State:
        raise StateNotSaved("State could not be saved", "no room")

    monkeypatch.setattr(LocalState, "save", save)
    with pytest.raises(StateNotSaved):
        push(project, left, project.read_state())

    assert left.path.exists()


def test_a_damaged_file_is_named_and_nothing_is_done(folder: Path) -> None:
    path = keep(folder)
    path.write_text(path.read_text()[:-20])
    result = run(apply.command, folder, "--auto-approve", environ=environ(folder))

    assert isinstance(result.exception, Refused)
    assert str(path) in result.exception.detail


def test_the_state_of_others_is_not_ours_to_push(folder: Path) -> None:
    keep(folder, lineage="another")
    project = a_project(folder)

    assert found(project, project.read_state()) is None
