"""`falplan import ADDRESS ID`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from falplan.cli.context import Options
from falplan.cli.project import open_here, variable_options
from falplan.core.errors import ExitCode, Refused


@click.command()
@click.argument("address")
@click.argument("identity", metavar="ID")
@click.option("--lock-timeout", type=click.FloatRange(min=0), default=0, metavar="SECONDS", help="Wait for the lock.")
@variable_options
@click.pass_obj
def command(
    options: Options,
    address: str,
    identity: str,
    lock_timeout: float,
    variables: Sequence[str],
    variable_files: Sequence[Path],
) -> int:
    """Take something that exists already into state.

    ID is an app's endpoint, the version of a stored secret, or what a region's provider calls a host.
    The spec has to name it at ADDRESS; nothing but state changes.
    """
    from difflib import get_close_matches

    from falplan.core.moves import with_imports
    from falplan.core.resources import addresses_of
    from falplan.core.spec.declared import Import
    from falplan.engine.importing import find_imports
    from falplan.engine.observe import observe
    from falplan.engine.provided import provided_by

    project = open_here(options, variables, variable_files)
    provided = provided_by(project.spec)
    known = addresses_of(project.spec) | {a for place in provided.places.values() for a in place.declared}
    if address not in known:
        close = get_close_matches(address, sorted(known), n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise Refused("It can't be imported", f"{address} is not in the spec: write it there first.{hint}")
    with project.store.locked("import", timeout=lock_timeout):
        state = project.applied()
        if address in state.resources:
            raise Refused("It is managed already", f"{address} is in state: `falplan state show {address}`.")
        wanted = [Import(address, identity)]
        found = find_imports(wanted, state, observe(project, state, {address: identity}))
        project.store.save(with_imports(state, wanted, found)[0])
    click.echo(f"Imported {identity} as {address}. `falplan plan` shows how it differs from the spec.")
    return ExitCode.DONE
