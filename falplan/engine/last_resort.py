"""What happens to state that can't be saved, and to state that an earlier run could not save."""

from __future__ import annotations

import base64
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from falplan.core.errors import Refused
from falplan.core.state import State
from falplan.core.state_edits import continues
from falplan.engine.apply import Result
from falplan.engine.project import Project
from falplan.stores.state import errored
from falplan.stores.state.errored import Errored, Places
from falplan.stores.state.seal import Seal


def seal_of(project: Project) -> Seal:
    """What errored state of this project is sealed with: as its state, with the key that was had before anything was done."""
    return project.seal


def places(project: Project) -> Places:
    """Where state that can't be saved goes."""
    return Places(project.folder, project.environ)


@dataclass(frozen=True, slots=True)
class Kept:
    """State that was brought to safety: `path`, or `printed` if no place took it (base64 if `encoded`)."""

    path: Path | None = None
    printed: str = ""
    encoded: bool = False


def keep(project: Project, result: Result) -> Kept | None:
    """Bring what the store did not take to a safe place; None if everything that was done stands in the journal."""
    if not result.unsaved:
        return None
    content = errored.content_of(result.state, seal_of(project))
    path = errored.write(places(project), result.state.lineage, content)
    if path is not None:
        return Kept(path)
    try:
        return Kept(printed=content.decode("utf-8"))
    except UnicodeDecodeError:
        return Kept(printed=base64.b64encode(content).decode("ascii"), encoded=True)


def left_over(project: Project, state: State) -> Errored | None:
    """State that an earlier run could not save, and that nobody pushed or gave up since.

    Raises:
        StateUnreadable: there is such a file, but it can't be read.
    """
    found = errored.find(places(project), state, seal_of(project))
    return next((e for e in found if not errored.is_saved(e, state)), None)


def push(project: Project, left: Errored, state: State) -> State:
    """Save it in place of `state`, which is what stands there now, and forget its file. The caller holds the lock.

    Raises:
        Refused: state has gone on since. StateNotSaved: the store does not take it now either; the file stays.
    """
    if not is_next(left, state):
        raise refuse(left, state)
    saved = project.store.save(replace(left.state, serial=max(left.state.serial - 1, state.serial)))
    errored.forget(left)
    return saved


def tidy(project: Project, state: State) -> None:
    """Remove files whose state was pushed by other means."""
    for left in errored.find(places(project), state, seal_of(project)):
        if errored.is_saved(left, state):
            errored.forget(left)


def is_next(left: Errored, state: State) -> bool:
    """Whether nothing was done since: the kept state then holds all that the store has, and more."""
    return state.serial in (0, left.state.serial - 1) or continues(left.state, state)


def refuse(left: Errored, state: State) -> Refused:
    """The error of a command that would go on from state that lacks something."""
    return Refused("State of an earlier apply was not saved", f"{explain(left, state)} Nothing was changed.")


def explain(left: Errored, state: State) -> str:
    """What was kept, and the exact next command."""
    path = shlex.quote(str(left.path))
    if is_next(left, state):
        return f"It is in {left.path}. Push it: `falplan state push {path}`. Or give it up: `rm {path}`."
    return (
        f"{left.path} follows serial {left.state.serial - 1}, and state is at {state.serial} by now: another apply went on without it. "
        f"What it did is asked from the control plane by then. Compare them, then give it up: `rm {path}`."
    )
