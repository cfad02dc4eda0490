"""`falplan machines list|end|reap`."""

from __future__ import annotations

import json
from typing import Any, cast

import click

from falplan import clock
from falplan.cli.apps import get_new
from falplan.cli.context import Options
from falplan.cli.project import open_here

LACKS = "tells nothing of machines that are bought"
DAY = 86_400.0


@click.group()
def command() -> None:
    """List bought machines, give them back."""


@command.command("list")
@click.option("--all", "ended_too", is_flag=True, help="Those that ended within the last day, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_(options: Options, ended_too: bool, as_json: bool) -> None:
    """List the machines that were bought, what they cost, and why nothing else is bought.

    Machines of this project that belong to another control plane are listed, too: nothing here ends them but `falplan machines reap`.
    """
    now = clock.now()
    told = get_new(
        open_here(options).running_client(), f"/machines?gone_since={now - DAY}" if ended_too else "/machines", LACKS
    )
    if as_json:
        click.echo(json.dumps(told))
        return
    _print(told, now)


def _print(told: Any, now: float) -> None:
    from falplan.core.holdings import holdings_section
    from falplan.views.plan import escape
    from falplan.views.tables import age, table

    rows = [
        [
            m["machine"],
            m["kind"],
            m["zone"],
            m["market"],
            m["identity"],
            m["life"],
            _price(m["price"]),
            m["runners"],
            age((m["ended_at"] or now) - m["made_at"]),
            escape(m["because"].splitlines()[0] if m["because"] else ""),
        ]
        for m in told["machines"]
    ]
    headers = ["MACHINE", "KIND", "ZONE", "MARKET", "INSTANCE", "STATE", "USD/H", "RUNNERS", "AGE", "BECAUSE"]
    click.echo(table(headers, rows))
    for row in holdings_section(told, now=now, listed=True).rows:
        click.echo(escape(row.text))
        for detail in row.detail:
            click.echo(f"  {escape(detail)}")


def _price(price: str) -> str:
    return price or "unknown"


@command.command()
@click.argument("machine")
@click.pass_obj
def end(options: Options, machine: str) -> None:
    """Drain a machine's runners, give it back, and wait until it is gone.

    MACHINE is its name in the list. Runners that are still needed are started elsewhere, for which another machine may be bought.
    """
    from falplan.core.operations import OperationKind

    client = open_here(options).running_client()
    told = client.perform(
        clock.new_uuid(),
        OperationKind.END_MACHINE,
        {"machine": machine},
        progress=lambda text: click.echo(text, err=True),
    )
    click.echo(f"{machine} is gone ({told['identity'] or 'it was not bought yet'}).")


@command.command()
@click.option("--gateway-is-dead", "dead", required=True, metavar="ID", help="The control plane whose machines end.")
@click.pass_obj
def reap(options: Options, dead: str) -> None:
    """End the machines of this project that belong to a control plane which is gone for good.

    Nothing but a person can tell that one from one that is only cut off: what runs on its machines is lost.
    """
    from falplan.core.operations import OperationKind
    from falplan.core.plural import count

    client = open_here(options).running_client()
    told = client.perform(
        clock.new_uuid(), OperationKind.REAP, {"control_plane": dead}, progress=lambda text: click.echo(text, err=True)
    )
    names = cast("list[str]", told["machines"])
    click.echo(f"{count(len(names), 'machine')} ended{': ' + ', '.join(names) if names else ''}.")
