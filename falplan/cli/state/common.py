"""What the verbs on state share: options, and an edit from reading to saving."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from falplan.cli.context import Options
from falplan.cli.project import approve, open_here, variable_options
from falplan.core.errors import ExitCode

if TYPE_CHECKING:
    from falplan.core.state import State
    from falplan.core.state_edits import Edit
    from falplan.engine.project import Project

F = TypeVar("F", bound=Callable[..., Any])


def writing_options(function: F) -> F:
    """`--lock-timeout` and the spec's variables, for verbs that write."""
    seconds = click.FloatRange(min=0)
    function = variable_options(function)
    return click.option("--lock-timeout", type=seconds, default=0, metavar="SECONDS", help="Wait for the lock.")(
        function
    )


def approval_option(function: F) -> F:
    """`--auto-approve`, for verbs that lose something."""
    return click.option("--auto-approve", is_flag=True, help="Do not ask.")(function)


def edit(
    options: Options,
    operation: str,
    make: Callable[[State], Edit],
    *,
    lock_timeout: float,
    variables: Sequence[str] = (),
    variable_files: Sequence[Path] = (),
    question: str = "",
    auto_approve: bool = False,
) -> int:
    """Read under the lock, show what changes, ask if there is a question, save. The state before it is kept as a backup.

    Raises:
        FalplanError: it can't be done; nothing was changed.
    """
    project = open_here(options, variables, variable_files)
    with project.store.locked(operation, timeout=lock_timeout):
        made = make(project.applied())
        for line in made.changes:
            click.echo(line)
        for note in made.notes:
            click.echo(note, err=True)
        if question and not approve(question, auto_approve=auto_approve):
            click.echo("Cancelled. Nothing was changed.")
            return ExitCode.FAILED
        saved = project.store.save(made.state)
        tell_saved(project, saved)
    return ExitCode.DONE


def tell_saved(project: Project, saved: State) -> None:
    """Which serial the state has now, and where the one before it is."""
    kept = project.store.backups()
    before = f" The one before is kept as {kept[0].name}." if kept else ""
    click.echo(f"State saved with serial {saved.serial}.{before}")
