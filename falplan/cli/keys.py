"""`falplan keys create|list|revoke`."""

from __future__ import annotations

import json

import click

from falplan import clock
from falplan.cli.context import Options
from falplan.cli.project import open_here
from falplan.core.errors import FalplanError
from falplan.core.values import JsonObject


@click.group()
def command() -> None:
    """Create, list and revoke callers' keys."""


@command.command()
@click.option(
    "--scope",
    type=click.Choice(["API", "ADMIN"]),
    default="API",
    show_default=True,
    help="API: call apps; ADMIN: everything.",
)
@click.option("--desc", "description", default="", help="What it is for.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def create(options: Options, scope: str, description: str, as_json: bool) -> None:
    """Make a key. It is shown once: only its hash is kept."""
    from hashlib import sha256

    client = open_here(options).running_client()
    key_id, secret = clock.new_id("key"), clock.new_secret()
    body: JsonObject = {"key_id": key_id, "hash": sha256(secret.encode()).hexdigest()}
    made = client.send_again(
        "POST", "/keys", {**body, "scope": scope, "description": description}, operation=clock.new_uuid()
    )
    if as_json:
        click.echo(json.dumps({**made, "key": f"{key_id}:{secret}"}))
    else:
        click.echo("Key made. It is shown this once:", err=True)
        click.echo(f"{key_id}:{secret}")


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_(options: Options, as_json: bool) -> None:
    """List keys, revoked ones too, without their secrets."""
    from falplan.views.tables import table

    keys = open_here(options).running_client().get("/keys")["keys"]
    if as_json:
        click.echo(json.dumps(keys))
        return
    rows = [[k["key_id"], k["scope"], k["created_at"], k["revoked_at"] or "", k["description"]] for k in keys]
    click.echo(table(["KEY", "SCOPE", "CREATED", "REVOKED", "DESCRIPTION"], rows))


@command.command()
@click.argument("key_id")
@click.pass_obj
def revoke(options: Options, key_id: str) -> None:
    """Revoke a key. It stops working at once."""
    from falplan.core.runtime import KEY_ID
    from falplan.engine.client import Answered

    unknown = FalplanError("No such key", f"{key_id}: `falplan keys list` shows those that there are.")
    client = open_here(options).running_client()
    if not KEY_ID.fullmatch(key_id):
        raise unknown
    try:
        client.send_again("DELETE", f"/keys/{key_id}", operation=clock.new_uuid())
    except Answered as exc:
        raise (unknown if exc.status == 404 else exc) from None
    click.echo(f"{key_id} is revoked.")
