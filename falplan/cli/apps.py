"""`falplan apps list`."""

from __future__ import annotations

import json

import click

from falplan.cli.context import Options
from falplan.cli.project import open_here


@click.group()
def command() -> None:
    """List apps and their endpoints."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_(options: Options, as_json: bool) -> None:
    """List apps: endpoint, revision, runners, waiting requests."""
    from falplan.views.tables import table

    apps = open_here(options).running_client().get("/world")["apps"]
    if as_json:
        click.echo(json.dumps(apps))
        return
    rows = [
        [
            a["endpoint"],
            a["revision"] or "(none)",
            a["settings"].get("auth", ""),
            ", ".join(f"{n} {s}" for s, n in a["runners"].items()) or "none",
            a["waiting"],
            a["url"],
        ]
        for a in apps
    ]
    click.echo(table(["ENDPOINT", "REVISION", "AUTH", "RUNNERS", "WAITING", "URL"], rows))
    for a in apps:
        if a.get("held"):
            click.echo(f"{a['endpoint']} gets no further runner: {a['held']}")
