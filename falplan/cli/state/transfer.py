"""`falplan state pull|push`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from falplan.cli.context import Options
from falplan.cli.project import approve, open_here, variable_options
from falplan.cli.state.common import approval_option, tell_saved, writing_options
from falplan.core.errors import ExitCode, FalplanError, Refused

if TYPE_CHECKING:
    from falplan.core.state import State
    from falplan.engine.project import Project


@click.command()
@variable_options
@click.pass_obj
def pull(options: Options, variables: Sequence[str], variable_files: Sequence[Path]) -> None:
    """Print the state as one JSON document, decrypted, with its checksum."""
    from falplan.core.state import render_state

    project = open_here(options, variables, variable_files)
    state = project.store.read(project.spec.project)
    if state is None:
        raise FalplanError("Nothing was applied yet", f"There is no state in {project.store.where}.")
    click.echo(render_state(state), nl=False)


@click.command()
@click.argument("file", metavar="FILE")
@click.option("--force", is_flag=True, help="Also a state that is older, or of another lineage.")
@approval_option
@writing_options
@click.pass_obj
def push(
    options: Options,
    file: str,
    force: bool,
    auto_approve: bool,
    lock_timeout: float,
    variables: Sequence[str],
    variable_files: Sequence[Path],
) -> int:
    """Put the state in FILE in the place of the present one. `-` reads standard input."""
    project = open_here(options, variables, variable_files)
    pushed = _read(project, options, file)
    with project.store.locked("state push", timeout=lock_timeout):
        current = present(project)
        serial = _check(project, current, pushed, force)
        return put(project, current, pushed, serial, auto_approve=auto_approve)


def present(project: Project) -> State | None:
    """The state that is there, also one that is older than this machine has seen; None if it is missing."""
    from falplan.stores.state.missing import StateMissing
    from falplan.stores.state.seen import StateOlder

    try:
        return project.store.read(project.spec.project)
    except StateMissing:
        return None
    except StateOlder as exc:
        return exc.state


def put(project: Project, current: State | None, state: State, serial: int, *, auto_approve: bool) -> int:
    """Show what changes, ask, and save with the serial after `serial`. The caller holds the lock."""
    from falplan.core.state_edits import difference

    if current is not None:
        differs = difference(current, state)
        if (
            not differs
            and not differs.intents
            and current.lineage == state.lineage
            and current.outputs == state.outputs
        ):
            click.echo("It is the same state. Nothing was changed.")
            return ExitCode.DONE
        click.echo("The state changes; nothing else does:")
        click.echo("".join(f"{line}\n" for line in differs.lines()), nl=False)
        for address in differs.intents:
            click.echo(f"{address}: an operation on it was interrupted, and only the present state knows.", err=True)
        if not approve("Put it in the place of the present state?", auto_approve=auto_approve):
            click.echo("Cancelled. Nothing was changed.")
            return ExitCode.FAILED
    saved = project.store.save(replace(state, serial=serial))
    tell_saved(project, saved)
    return ExitCode.DONE


def highest_seen(project: Project, lineage: str) -> int:
    """The highest serial of a lineage that this machine has seen; 0 if none."""
    from falplan.stores.state.seen import SeenSerials

    seen = SeenSerials(project.environ).newest(lineage)
    return seen.serial if seen else 0


def _read(project: Project, options: Options, file: str) -> State:
    from falplan.core.envelope import is_envelope
    from falplan.core.state import StateUnreadable, parse_state
    from falplan.core.state_integrity import problems
    from falplan.stores.encryption import seal_for

    try:
        content = sys.stdin.buffer.read() if file == "-" else (options.folder / file).read_bytes()
    except OSError as exc:
        raise FalplanError("The file can't be read", f"{file}: {exc.strerror}.") from exc
    if is_envelope(content):
        content = seal_for(project.spec, project.environ).open(content, kind="state", serial=None)
    try:
        pushed = parse_state(content.decode("utf-8", "replace"), file)
    except StateUnreadable as exc:
        raise Refused("The file holds no sound state", f"{exc.summary}: {exc.detail} Nothing was changed.") from exc
    found = problems(pushed)
    if found:
        raise Refused("The file holds no sound state", f"{file}: {'; '.join(found[:5])}. Nothing was changed.")
    if pushed.project != project.spec.project:
        detail = f'{file} is the state of project "{pushed.project}"; the spec says "{project.spec.project}".'
        raise Refused("The state belongs to another project", detail)
    return pushed


def _check(project: Project, current: State | None, pushed: State, force: bool) -> int:
    """The serial that the pushed state continues from: above every one that anybody has seen.

    Raises:
        Refused: it is older or foreign, and that was not asked for.
    """
    from falplan.core.state_edits import objections

    seen = highest_seen(project, pushed.lineage)
    found = objections(current, pushed, seen=seen)
    if found and not force:
        detail = "\n".join([*found, "Nothing was changed. If that is what you want, add --force."])
        raise Refused("The file does not continue the present state", detail)
    for line in found:
        click.echo(f"Warning: {line}", err=True)
    return max(pushed.serial, seen, current.serial if current else 0)
