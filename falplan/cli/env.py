"""`falplan env`."""

from __future__ import annotations

import json
import shlex

import click

from falplan.cli.access import access
from falplan.cli.context import Options


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(options: Options, as_json: bool) -> None:
    """Print what `exec` sets, as shell exports: eval "$(falplan env)"."""
    values = access(options, stays=False).variables
    if as_json:
        click.echo(json.dumps(values))
    else:
        click.echo("".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items()), nl=False)
