"""`falplan force-unlock`."""

from __future__ import annotations

import click

from falplan.cli.context import Options
from falplan.cli.project import approve, open_here
from falplan.core.errors import ExitCode


@click.command()
@click.argument("lock_id", metavar="ID")
@click.option("--auto-approve", is_flag=True, help="Do not ask.")
@click.pass_obj
def command(options: Options, lock_id: str, auto_approve: bool) -> int:
    """Take the state's lock from a holder that is gone for good. The message of a conflict names its ID.

    A lock whose holder died frees itself within a minute, and a local one at once. Should the holder live after all, its next write is
    refused, and it begins nothing more.
    """
    from falplan.stores.state.holding import describe

    store = open_here(options).store
    holder = store.holder()
    if holder is not None and holder.lock_id == lock_id:
        click.echo(f"{store.where}\n{describe(holder)}")
        if not approve("Do you want to take the lock from it?", auto_approve=auto_approve):
            click.echo("Nothing was unlocked.")
            return ExitCode.FAILED
    store.force_unlock(lock_id)
    click.echo(
        "The state is unlocked. What its former holder had begun stands in the state, and the next apply finishes it."
    )
    return ExitCode.DONE
