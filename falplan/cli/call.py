"""`falplan call`."""

from __future__ import annotations

import json
import sys
from difflib import get_close_matches
from typing import TYPE_CHECKING

import click

from falplan.cli.access import access
from falplan.cli.context import Options
from falplan.cli.project import open_here
from falplan.core.errors import FalplanError

if TYPE_CHECKING:
    from falplan.core.spec.resolved import ResolvedSpec


@click.command()
@click.argument("app")
@click.argument("argument", default="{}", metavar="JSON")
@click.option("--path", default="", help="An endpoint of the app other than /.")
@click.option("-e", "--environment", default="main", show_default=True, metavar="NAME")
@click.option("--logs/--no-logs", default=True, help="Print what the app prints while it works.")
@click.pass_obj
def command(options: Options, app: str, argument: str, path: str, environment: str, logs: bool) -> int:
    """Call an app through the queue and print its answer. APP is a name of the spec, or an endpoint such as acme/hello."""
    from falplan.engine.call import call

    try:
        body = json.loads(sys.stdin.read() if argument == "-" else argument)
    except ValueError as exc:
        raise click.UsageError(f"{argument[:60]!r} is not JSON: {exc}") from exc
    project = open_here(options)
    endpoint = app if "/" in app else _endpoint(project.spec, app, environment)
    values = access(options).variables

    def show(line: str) -> None:
        if logs:
            click.echo(line, err=True)

    status, answer = call(values, values["SSL_CERT_FILE"], endpoint, path, body, show)
    click.echo(answer)
    return 0 if status < 400 else 1


def _endpoint(spec: ResolvedSpec, name: str, environment: str) -> str:
    from falplan.core.resources import endpoint_of

    names = [a.name for a in spec.apps if a.environment == environment]
    if name not in names:
        close = get_close_matches(name, names, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise FalplanError("No such app", f"The spec has no app {name} in {environment}.{hint}")
    return endpoint_of(spec.owner, name, environment)
