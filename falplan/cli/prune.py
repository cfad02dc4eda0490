"""`falplan prune`."""

from __future__ import annotations

import json
import re

import click

from falplan import clock
from falplan.cli.context import Options
from falplan.cli.project import open_here
from falplan.core.values import JsonObject

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """A time as a number and a unit, in seconds."""
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", value)
    if found is None:
        raise click.BadParameter(f"{value!r} is no duration: write a number and s, m, h or d, such as 12h or 7d.")
    return float(int(found[1]) * UNITS[found[2]])


@click.command()
@click.option("--dry-run", is_flag=True, help="Delete nothing; print what would be.")
@click.option(
    "--keep-requests",
    callback=_seconds,
    metavar="DURATION",
    help="Keep results of requests that ended within this time.",
)
@click.option(
    "--keep-runners", type=click.IntRange(0), metavar="N", help="Keep the newest N ended runners. [default: 50]"
)
@click.option("--keep-events", callback=_seconds, metavar="DURATION", help="Keep events of this time. [default: 30d]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(
    options: Options,
    dry_run: bool,
    keep_requests: float | None,
    keep_runners: int | None,
    keep_events: float | None,
    as_json: bool,
) -> None:
    """Delete finished requests, ended runners with their logs, old events, and bundles, environments and locks that nothing needs.

    The control plane does the same by itself, with the limits by default. Unfinished requests stay, and what a revision needs.
    """
    body: JsonObject = {
        "dry_run": dry_run,
        "requests": keep_requests,
        "runners": keep_runners,
        "events": keep_events,
    }
    found = (
        open_here(options)
        .running_client()
        .send_again("POST", "/prune", body, operation=clock.new_uuid(), timeout=600)["pruned"]
    )
    if as_json:
        click.echo(json.dumps({"dry_run": dry_run, "pruned": found}))
        return
    from falplan.views.tables import table

    rows = [[p["what"], f"{p['count']:,}", f"{p['size']:,}"] for p in found if p["count"]]
    if not rows:
        click.echo("Nothing is beyond the limits.")
        return
    click.echo(table(["WOULD BE DELETED" if dry_run else "DELETED", "COUNT", "BYTES"], rows))
