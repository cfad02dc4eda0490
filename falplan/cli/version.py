"""`falplan version`."""

from __future__ import annotations

import json
import platform

import click

from falplan import __version__


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Print versions."""
    if as_json:
        click.echo(
            json.dumps({"falplan": __version__, "python": platform.python_version(), "system": platform.platform()})
        )
    else:
        click.echo(f"falplan {__version__}\nPython {platform.python_version()} on {platform.platform()}")
