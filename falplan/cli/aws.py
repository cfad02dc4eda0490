"""`falplan aws policy` and `falplan aws prices`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from falplan import clock
from falplan.cli.context import Options
from falplan.cli.project import open_here, variable_options
from falplan.core.errors import ExitCode, FalplanError
from falplan.core.values import JsonObject
from falplan.sdk.accounts import CloudAccount

PROVIDER = "aws"
WHOM = ("control-plane", "apply")


@click.group()
def command() -> None:
    """Print the permissions that AWS has to give; fetch its prices."""


@command.command()
@click.argument("whom", type=click.Choice(WHOM))
def policy(whom: str) -> int:
    """Print the policy of IAM for a control plane that buys machines, or for whoever runs plan and apply.

    Nothing that carries no mark of falplan's can be changed or ended with it.
    """
    click.echo(json.dumps(_account("-", {"region": "us-east-1"}).policies()[whom], indent=2))
    return ExitCode.DONE


@command.command()
@click.argument("regions", nargs=-1, metavar="[REGION]...")
@variable_options
@click.pass_obj
def prices(options: Options, regions: Sequence[str], variables: Sequence[str], variable_files: Sequence[Path]) -> int:
    """Fetch what machines cost now from AWS's price list, and keep it on this computer.

    REGION is AWS's name, such as eu-north-1; by default the regions of the spec. A control plane on another computer has a list of its
    own: run this there, too.
    """
    today = clock.timestamp(clock.now())[:10]
    found: dict[str, JsonObject] = {name: {"region": name} for name in regions}
    if not found:
        spec = open_here(options, variables, variable_files).spec
        found = {name: dict(r.options) for name, r in spec.regions.items() if r.provider == PROVIDER}
    if not found:
        raise FalplanError(
            "There is no region of AWS", "The spec has none: name one, as in `falplan aws prices eu-north-1`."
        )
    for name, body in found.items():
        click.echo(_account(name, body).fetch_prices(today))
    return ExitCode.DONE


def _account(name: str, body: JsonObject) -> CloudAccount:
    from falplan import registry

    made = registry.provider_of(PROVIDER, name, body)
    assert isinstance(made, CloudAccount)  # noqa: S101 - it is
    return made
