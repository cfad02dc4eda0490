"""`falplan show`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from falplan.cli.context import Options
from falplan.cli.project import open_here
from falplan.cli.state import resource_text

if TYPE_CHECKING:
    from falplan.engine.project import Project


@click.command()
@click.argument("what", required=False, metavar="[ADDRESS|FILE]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(options: Options, what: str | None, as_json: bool) -> None:
    """Show what was applied: everything, or one resource; or a saved plan, given its FILE."""
    from falplan.core.state import recorded_to_json
    from falplan.core.state_edits import find
    from falplan.stores.plan_file import is_plan

    if what and (is_plan(options.folder / what) or "/" in what):  # no address has a slash
        from falplan.cli.saved import print_saved

        path = options.path(what)
        print_saved(_project(options, path), path, options, as_json=as_json)
        return
    state = open_here(options).read_state()
    resources = [find(state, what)] if what else [state.resources[a] for a in sorted(state.resources)]
    if as_json:
        body = {"project": state.project, "lineage": state.lineage, "serial": state.serial}
        click.echo(json.dumps({**body, "resources": [recorded_to_json(r) for r in resources]}))
    elif not resources:
        click.echo("State holds no resources. `falplan apply` makes them.")
    else:
        click.echo("\n\n".join(resource_text(r) for r in resources))


def _project(options: Options, path: Path) -> Project:
    """The project, with the variables that the plan was made with."""
    from falplan.stores.plan_file import read_bytes, variables_in

    variables, files = variables_in(read_bytes(path))
    return open_here(options, variables, [Path(f) for f in files])
