"""`falplan why`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import click

from falplan import clock
from falplan.cli.apps import get_new
from falplan.cli.context import Options
from falplan.cli.project import open_here
from falplan.core.errors import ExitCode, FalplanError


@click.command()
@click.argument("app", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(options: Options, app: str | None, as_json: bool) -> int:
    """Say why apps have the runners that they have and get no others, and what was tried to buy machines for them.

    APP is a name of the spec, an endpoint such as acme/hello, or an address such as app.main.hello; all apps by default.
    """
    client = open_here(options).running_client()
    known = client.get("/world")["apps"]
    apps = [a for a in known if app is None or app in _names(a)]
    if app and not apps:
        close = get_close_matches(app, [name for a in known for name in _names(a)], n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise FalplanError("No such app", f"{app}: `falplan apps list` shows those that are there.{hint}")
    runners = client.get("/runners")["runners"]
    machines = get_new(client, "/machines", "tells nothing of machines that are bought")
    if as_json:
        names = {a["endpoint"] for a in apps}
        own = [r for r in runners if r["endpoint"] in names]
        click.echo(json.dumps({"apps": apps, "runners": own, **machines}))
        return ExitCode.DONE
    _print(apps, runners, machines)
    return ExitCode.DONE


def _names(app: Any) -> tuple[str, ...]:
    """What an app may be called by: its name alone means that of each environment."""
    address = str(app["address"])
    return str(app["endpoint"]), address, address.rpartition(".")[2]


def _print(apps: Iterable[Any], runners: Iterable[Any], machines: Any) -> None:
    from falplan.core.holdings import holdings_section
    from falplan.views.plan import escape
    from falplan.views.tables import age

    now = clock.now()
    for app in apps:
        states = ", ".join(f"{n} {state}" for state, n in app["runners"].items()) or "none"
        click.echo(
            f"{app['address']} ({app['revision'] or 'no revision yet'}): runners: {states}; {app['queued']} queued"
        )
        for runner in runners:
            if runner["endpoint"] == app["endpoint"]:
                since = age(now - runner["created_at"])
                click.echo(
                    f"  {runner['runner_id']} on {runner['machine']}, {runner['state']}, {since}: {escape(runner['because'])}"
                )
        if app["held"]:
            click.echo("  gets no further runner:")
            for line in app["held"].splitlines():
                click.echo(f"    {escape(line)}")
    for row in holdings_section(machines, now=now).rows:
        click.echo(escape(row.text))
        for detail in row.detail:
            click.echo(f"  {escape(detail)}")
