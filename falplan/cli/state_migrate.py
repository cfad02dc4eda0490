"""`falplan state migrate`."""

from __future__ import annotations

import click

from falplan.cli.context import Options
from falplan.cli.project import approve, load
from falplan.core.errors import ExitCode


@click.command("migrate")
@click.option("--auto-approve", is_flag=True, help="Do not ask.")
@click.option("--lock-timeout", type=click.FloatRange(min=0), default=0, metavar="SECONDS", help="Wait for both locks.")
@click.pass_obj
def migrate(options: Options, auto_approve: bool, lock_timeout: float) -> int:
    """Bring the state to the place that `state:` in the spec names now.

    The copy is looked at before the old place says where it went; the old state stays there among the backups. Killed at any instant, it
    is run again.
    """
    from falplan.engine.migrating import find_migration, migrate

    spec = load(options)
    found = find_migration(spec, options.environ)
    if found.nothing:
        click.echo(f"{found.nothing}.")
        return ExitCode.DONE
    click.echo(f"The state is in  {found.source.where}\nand will be in   {found.target.where}")
    if not approve("Do you want to move it?", auto_approve=auto_approve):
        click.echo("Nothing was moved.")
        return ExitCode.FAILED
    done = migrate(found, spec.project, timeout=lock_timeout)
    if done.copied:
        click.echo(
            f"Moved: serial {done.serial}, {done.resources} resources. The old state is among the backups of its place."
        )
    elif done.serial:
        click.echo(f"It was there already: serial {done.serial}, {done.resources} resources. This folder uses it now.")
    else:
        click.echo("There was no state to move. This folder uses the new place now.")
    return ExitCode.DONE
