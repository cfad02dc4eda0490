"""Brings a project's state to the place that the spec names now. Killed at any instant, it is run again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from falplan.core.errors import FalplanError, Refused
from falplan.core.spec.resolved import ResolvedSpec
from falplan.core.state import State, render_state
from falplan.core.values import Json, digest
from falplan.sdk.failpoints import fp
from falplan.stores.state.marker import Marker, is_same_place, read_marker, write_marker
from falplan.stores.state.places import open_store
from falplan.stores.state.seal import Seal
from falplan.stores.state.seen import StateOlder
from falplan.stores.state.store import Store


@dataclass(frozen=True, slots=True)
class Migration:
    """A move of state between two places. `nothing`: why there is none to do; empty if there is."""

    source: Store
    target: Store
    root: Path
    section: Mapping[str, Json]
    nothing: str = ""


@dataclass(frozen=True, slots=True)
class Migrated:
    """What was done. `serial` is 0 where there was no state; `copied` says whether this run wrote it."""

    serial: int
    resources: int
    copied: bool


def find_migration(spec: ResolvedSpec, environ: Mapping[str, str], *, seal: Seal | None = None) -> Migration:
    """Which move the spec asks for. Touches nothing.

    Raises:
        Refused: a place is not known here.
    """
    root = Path(spec.folder)
    target = open_store(spec.state, spec.project, root, environ, seal=seal)
    marker = read_marker(root)
    if marker is None:
        return Migration(
            target, target, root, spec.state, "Nothing was applied from here, so there is no state to move"
        )
    if is_same_place(marker, target.where, spec.state, root):
        return Migration(target, target, root, spec.state, f"The state is in {target.where}, where the spec says it is")
    source = open_store(marker.section, spec.project, root, environ, seal=seal)
    return Migration(source, target, root, spec.state)


def migrate(migration: Migration, project: str, *, timeout: float) -> Migrated:
    """Copy the state under both locks, look at what was written, leave a note in the old place, then remember the new one.

    Raises:
        Locked: somebody else works on one of them. Refused: the new place holds another state, or a newer one.
        FalplanError: a place can't be reached. The old place is as it was unless the copy is whole.
    """
    source, target = migration.source, migration.target
    with source.locked("state migrate", timeout=timeout), target.locked("state migrate", timeout=timeout):
        there = target.peek()
        state = _source_state(source, target, there, project)
        fp("migrate.copy.before_write")
        copied = state is not None and _copy(state, there, target)
        fp("migrate.copy.after_write")
        found = target.peek()
        if state is not None:
            _compare(state, found, target)
            fp("migrate.note.before_write")
            source.leave_note(state, target.where)
            fp("migrate.note.after_write")
    lineage = found.lineage if found else ""
    write_marker(migration.root, Marker(target.where, dict(migration.section), lineage))
    return Migrated(found.serial if found else 0, len(found.resources) if found else 0, copied)


def _source_state(source: Store, target: Store, there: State | None, project: str) -> State | None:
    """What is to be moved, its journal folded in; None if it went to the target before, or was never there."""
    moved = source.moved_to()
    if moved is not None:
        same = there is not None and there.lineage == moved.lineage and there.serial >= moved.serial
        if same or moved.to == target.where:
            return None
        raise Refused("The state is kept elsewhere now", f"{source.where}: {moved.text}")
    state = _read_source(source, there, project)
    if state is not None and source.has_journal():
        return source.save(state)
    return state


def _read_source(source: Store, there: State | None, project: str) -> State | None:
    """The state in the old place. Older than the one that was seen it may be if that one is the copy: a move that was killed wrote it."""
    try:
        return source.read(project)
    except StateOlder as exc:
        if there is not None and there.lineage == exc.state.lineage and there.serial >= exc.seen.serial:
            return exc.state
        raise


def _copy(state: State, there: State | None, target: Store) -> bool:
    if there is not None:
        if there.lineage != state.lineage:
            raise Refused(
                "Another state is there",
                f"{target.where} holds the state of another lineage ({there.lineage}, serial {there.serial}; this one is "
                f"{state.lineage}). Nothing was touched. Name another place under `state:`.",
            )
        if _is_same(there, state):
            return False
        if there.serial > state.serial:
            raise Refused(
                "A newer state is there",
                f"{target.where} holds serial {there.serial} of this state, and the one to be moved is serial {state.serial}. "
                "Nothing was touched. Find out who applied from which place before you go on.",
            )
    target.copy_in(state)
    return True


def _compare(state: State, found: State | None, target: Store) -> None:
    if found is None or not _is_same(found, state):
        detail = f"{target.where} does not hold what was written to it. The old place is as it was. Try again, or name another place."
        raise FalplanError("The copy of the state is not whole", detail)


def _is_same(found: State, state: State) -> bool:
    """Whether it is this state. Its serial may be greater: a lock that is taken over has the snapshot written anew, as it was."""
    same = digest(render_state(replace(found, serial=0))) == digest(render_state(replace(state, serial=0)))
    return same and found.serial >= state.serial
