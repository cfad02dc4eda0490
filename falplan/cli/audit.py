"""`falplan audit`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from falplan import clock
from falplan.cli.apps import get_new
from falplan.cli.context import Options
from falplan.cli.project import open_here
from falplan.cli.prune import UNITS

F = TypeVar("F", bound=Callable[..., Any])


def _since(ctx: click.Context, param: click.Parameter, value: str | None) -> float:
    """A duration before now, or a time, in seconds since the epoch."""
    if value is None:
        return 0.0
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", value)
    if found:
        return clock.now() - int(found[1]) * UNITS[found[2]]
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        example = "such as 12h or 7d, or a time such as 2026-01-31T12:00:00Z"
        raise click.BadParameter(
            f"{value!r} is neither a duration nor a time: write a number and s, m, h or d, {example}."
        ) from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def time_option(text: str, default: str | None = None) -> Callable[[F], F]:
    """`--since`, told as seconds since 1970."""
    return click.option("--since", callback=_since, default=default, metavar="DURATION|TIME", help=text)


@click.command()
@click.argument("address", required=False)
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, metavar="N", help="The newest N."
)
@time_option("Those of this time, as 24h, or from a time on (UTC).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(options: Options, address: str | None, limit: int, since: float, as_json: bool) -> None:
    """Show who changed what on the control plane, when, and what came of it; the newest last.

    ADDRESS is a resource's address, as `app.main.hello`, or the id of a key. A call that was refused changed nothing and is not listed.
    """
    from urllib.parse import urlencode

    from falplan.views.plan import escape
    from falplan.views.tables import table

    query = urlencode({"address": address or "", "limit": limit, "since": since})
    client = open_here(options).running_client()
    entries = get_new(client, f"/audit?{query}", "keeps no audit log")["entries"]
    if as_json:
        click.echo(json.dumps(entries))
        return
    rows = [
        [e["at"], escape(_who(e["by"])), escape(e["what"]), e["resource"], escape(_outcome(e["outcome"], e["because"]))]
        for e in entries
    ]
    click.echo(table(["TIME", "WHO", "WHAT", "RESOURCE", "OUTCOME"], rows))


def _who(by: dict[str, str]) -> str:
    from falplan.core.operations import Asker

    return str(Asker(by["key_id"], by["name"])) or "(not kept)"


def _outcome(outcome: str, because: str) -> str:
    return f"{outcome}: {because}" if because else outcome
