"""State that an earlier apply could not save: shown by every command that plans, pushed or given up before anything is changed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from falplan.engine.project import Project


def settle_left_over(project: Project, *, ask: bool) -> None:
    """Offer to push it, where there is somebody to `ask`. The caller holds the state's lock.

    Raises:
        Refused: there is such state, and it was not pushed.
    """
    from falplan.cli.project import approve
    from falplan.engine.last_resort import explain, is_next, left_over, push, refuse, tidy

    state = project.read_state()
    tidy(project, state)
    left = left_over(project, state)
    if left is None:
        return
    if ask and sys.stdin.isatty() and is_next(left, state):
        click.echo(f"State of an earlier apply was not saved. {explain(left, state)}", err=True)
        if approve("Do you want to push it now?", auto_approve=False):
            saved = push(project, left, state)
            click.echo(f"State is saved, at serial {saved.serial}.", err=True)
            return
    raise refuse(left, state)


def warn_of_left_over(project: Project) -> None:
    """Say on stderr that what is shown lacks something."""
    from falplan.engine.last_resort import explain, left_over

    state = project.read_state()
    left = left_over(project, state)
    if left is not None:
        click.echo(f"Warning: state of an earlier apply was not saved. {explain(left, state)}", err=True)
