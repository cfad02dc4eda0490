"""`falplan cost`."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import click

from falplan.cli.apps import get_new
from falplan.cli.audit import time_option
from falplan.cli.context import Options
from falplan.cli.project import open_here


@click.command()
@time_option("Of this time, as 24h, or from a time on (UTC); by default 30 days.", default="30d")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(options: Options, since: float, as_json: bool) -> None:
    """Show what bought machines cost, from when each was launched until its end was seen.

    By the price that was known when it was bought, which has in it what the plan said; traffic is on the provider's bill, too.
    """
    from falplan import clock
    from falplan.core.plural import count
    from falplan.views.tables import table

    told = get_new(open_here(options).running_client(), f"/cost?since={since}", "keeps no account of machines")
    if as_json:
        click.echo(json.dumps(told))
        return
    rows = [
        [h["region"], h["kind"], h["market"], h["machines"], h["alive"], f"{h['hours']:.2f}", h["usd"]]
        for h in told["hours"]
    ]
    click.echo(table(["REGION", "KIND", "MARKET", "MACHINES", "ALIVE", "HOURS", "USD"], rows))
    click.echo(f"{_total(told['hours'])} since {clock.timestamp(told['since'])}")
    unpriced = sum(h["unpriced"] for h in told["hours"])
    if unpriced:
        click.echo(f"The price of {count(unpriced, 'machine')} is not known, and not in it.")


def _total(hours: list[Any]) -> str:
    from falplan.core.spending import dollars

    return dollars(sum((Decimal(h["usd"]) for h in hours), Decimal(0)))
