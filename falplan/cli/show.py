"""`falplan show`."""

from __future__ import annotations

import json

import click

from falplan.cli.context import Options
from falplan.cli.project import open_here
from falplan.cli.state import resource_text


@click.command()
@click.argument("address", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(options: Options, address: str | None, as_json: bool) -> None:
    """Show what was applied: everything, or one resource."""
    from falplan.core.state import recorded_to_json
    from falplan.core.state_edits import find

    state = open_here(options).read_state()
    resources = [find(state, address)] if address else [state.resources[a] for a in sorted(state.resources)]
    if as_json:
        body = {"project": state.project, "lineage": state.lineage, "serial": state.serial}
        click.echo(json.dumps({**body, "resources": [recorded_to_json(r) for r in resources]}))
    elif not resources:
        click.echo("State holds no resources. `falplan apply` makes them.")
    else:
        click.echo("\n\n".join(resource_text(r) for r in resources))
