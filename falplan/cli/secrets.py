"""`falplan secrets list|set|unset|rotate-key`. No command prints a value, and none takes one as an argument."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from falplan import clock
from falplan.cli.context import Options
from falplan.cli.project import open_here
from falplan.core.errors import ExitCode, FalplanError, Refused

if TYPE_CHECKING:
    from falplan.core.secret import SecretValue
    from falplan.core.spec.resolved import ResolvedSecret
    from falplan.engine.client import AdminClient
    from falplan.engine.project import Project


@click.group()
def command() -> None:
    """List secrets, set those that are stored, renew the project's key. Values are never shown."""


environment_option = click.option(
    "-e", "--environment", default="main", show_default=True, metavar="NAME", help="The secret's environment."
)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_(options: Options, as_json: bool) -> None:
    """List secrets: where each comes from, how old its newest version is, and which apps use it."""
    from falplan.views.tables import table

    found = _rows(open_here(options))
    if as_json:
        click.echo(json.dumps(found))
        return
    rows = [
        [r["name"], r["environment"], r["source"], _age(clock.now(), r["changed_at"]), ", ".join(r["used_by"])]
        for r in found
    ]
    click.echo(table(["NAME", "ENVIRONMENT", "SOURCE", "AGE", "USED BY"], rows))


@command.command("set")
@click.argument("name")
@environment_option
@click.pass_obj
def set_(options: Options, name: str, environment: str) -> None:
    """Give a stored secret its value: from standard input, less one newline at its end, or asked for without echo."""
    from falplan.core.secret import misfit
    from falplan.engine.handlers import secret_path
    from falplan.engine.secrets import pending_secrets

    project = open_here(options)
    secret = _stored(project, name, environment)
    value = _read_value(name)
    why = misfit(name, value)
    if why:
        raise Refused("A secret can't be delivered", f"{secret.address}: {why}. Nothing was changed.")
    client = _client(project)
    if client is None:
        _keep(project, secret, value)
        click.echo(f"{secret.address} is kept, encrypted, until `falplan apply` delivers it.")
        return
    client.upload(f"{secret_path(secret.address)}?operation={clock.new_uuid()}", value.reveal())
    pending_secrets(project).forget(secret.address)  # an older value that still waited
    users = [r["used_by"] for r in _rows(project) if r["address"] == secret.address]
    click.echo(f"{secret.address} is set.")
    if users and users[0]:
        click.echo(f"{', '.join(users[0])} get it with the next `falplan apply`.")


@command.command()
@click.argument("name")
@environment_option
@click.pass_obj
def unset(options: Options, name: str, environment: str) -> None:
    """Forget the value of a stored secret. Refused while an app uses it."""
    from falplan.engine.client import Answered
    from falplan.engine.handlers import secret_path
    from falplan.engine.secrets import pending_secrets

    project = open_here(options)
    secret = _stored(project, name, environment)
    waiting = pending_secrets(project).forget(secret.address)
    client = _client(project)
    try:
        if client is not None:
            client.send_again("DELETE", secret_path(secret.address), operation=clock.new_uuid())
        elif not waiting:
            raise FalplanError("The secret is not set", f"{secret.address} has no value that is to be had here.")
    except Answered as exc:
        if exc.status == 404 and waiting:
            pass
        elif exc.status == 404:
            raise FalplanError("The secret is not set", f"{secret.address} has no value.") from None
        else:
            raise Refused(exc.summary, exc.detail) from None
    click.echo(f"{secret.address} is unset.")


@command.command("rotate-key")
@click.pass_obj
def rotate_key(options: Options) -> None:
    """Make a new key of the project. The old one is kept to compare with; apps are not deployed again."""
    from falplan.engine.secrets import project_keys

    project = open_here(options)
    with project.store.locked("secrets rotate-key"):
        keyring = project_keys(project).rotate()
    click.echo(f"The project's key is {keyring.current.key_id} now, in {project_keys(project).path}.")
    click.echo("The next `falplan apply` fingerprints secrets with it. No app is deployed again because of it.")


def _client(project: Project) -> AdminClient | None:
    state = project.read_state()
    return project.reach(state).client if state.serial else None


def _rows(project: Project) -> list[dict[str, Any]]:
    """Secrets of the spec and of the control plane, by environment and name."""
    client = _client(project)
    known = {row["address"]: row for row in client.get("/secrets")["secrets"]} if client else {}
    found = {
        s.address: {"name": s.name, "environment": s.environment, "source": _source(s)} for s in project.spec.secrets
    }
    for address, row in known.items():
        other = {"name": row["name"], "environment": row["environment"], "source": "(not in the spec)"}
        found.setdefault(address, other)
    return [
        {
            "address": address,
            **found[address],
            "version": known.get(address, {}).get("version"),
            "changed_at": known.get(address, {}).get("changed_at"),
            "used_by": known.get(address, {}).get("used_by", []),
        }
        for address in sorted(found)
    ]


def _source(secret: ResolvedSecret) -> str:
    kind, value = next(iter(secret.source.items()))
    if kind == "stored":
        return kind
    return f"{kind} {value[0] if isinstance(value, list) else value}"


def _age(now: float, at: float | None) -> str:
    if at is None:
        return ""
    seconds = max(0, int(now - at))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _stored(project: Project, name: str, environment: str) -> ResolvedSecret:
    from falplan.core.spec.words import did_you_mean

    here = {s.name: s for s in project.spec.secrets if s.environment == environment}
    secret = here.get(name)
    if secret is None:
        hint = (
            did_you_mean(name, here) or f"write it under environments.{environment}.secrets: {name}: {{stored: true}}"
        )
        error = FalplanError("Unknown secret", f"Environment {environment} has no secret {name} in the spec: {hint}")
        error.exit_code = ExitCode.SPEC_INVALID
        raise error
    if "stored" not in secret.source:
        detail = f"{secret.address} comes from {_source(secret)}: change it there, then apply."
        raise Refused("The secret is not a stored one", detail)
    return secret


def _read_value(name: str) -> SecretValue:
    from falplan.core.secret import LONGEST, SecretValue

    if sys.stdin.isatty():
        return SecretValue(os.fsencode(click.prompt(name, hide_input=True, default="", show_default=False, err=True)))
    return SecretValue(sys.stdin.buffer.read(LONGEST + 2).removesuffix(b"\n"))


def _keep(project: Project, secret: ResolvedSecret, value: SecretValue) -> None:
    from falplan.engine.secrets import pending_secrets, project_keys

    pending_secrets(project).keep(secret.address, value, project_keys(project).ensure())
