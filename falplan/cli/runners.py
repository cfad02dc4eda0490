"""`falplan runners list|logs|stop`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import click

from falplan import clock
from falplan.cli.context import Options
from falplan.cli.project import open_here
from falplan.core.values import JsonObject


@click.group()
def command() -> None:
    """List runners, read their logs, stop them."""


@command.command("list")
@click.option("--all", "ended_too", is_flag=True, help="Those that have ended, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_(options: Options, ended_too: bool, as_json: bool) -> None:
    """List runners, and why each one is there or ended."""
    from falplan.views.tables import age, table

    answer = open_here(options).running_client().get(f"/runners?all={int(ended_too)}")
    runners = answer["runners"]
    if as_json:
        click.echo(json.dumps(runners))
        return
    now = clock.now()
    rows = [
        [
            r["runner_id"],
            r["endpoint"],
            r["revision"],
            r["state"],
            _where(r),
            r["in_flight"],
            age(now - r["created_at"]),
            r["because"],
        ]
        for r in runners
    ]
    click.echo(table(["RUNNER", "APP", "REVISION", "STATE", "WHERE", "REQUESTS", "AGE", "BECAUSE"], rows))
    for endpoint, because in sorted(answer.get("held", {}).items()):
        click.echo(f"{endpoint} gets no further runner: {because}")


def _where(runner: Any) -> str:
    gpus = "".join(f" gpu{g}" for g in runner["placement"]["gpus"])
    return f"{runner['machine']} ({runner['placement']['machine_type']}{gpus})"


@command.command()
@click.argument("runner_id")
@click.option("-n", "--lines", type=click.IntRange(min=0), default=100, show_default=True)
@click.option("-f", "--follow", is_flag=True, help="Go on printing until the runner ends.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
@click.pass_obj
def logs(options: Options, runner_id: str, lines: int, follow: bool, as_json: bool) -> None:
    """Print what a runner printed."""
    client = open_here(options).running_client()
    if not follow:
        _print(client.get(f"/runners/{runner_id}/logs?lines={lines}")["entries"], as_json)
        return
    rest = b""
    for chunk in client.stream(f"/runners/{runner_id}/logs?lines={lines}&follow=1"):
        *whole, rest = (rest + chunk).split(b"\n")
        _print((json.loads(line) for line in whole), as_json)


def _print(entries: Iterable[Any], as_json: bool) -> None:
    from falplan.views.plan import escape

    for entry in entries:
        if as_json:
            click.echo(json.dumps(entry))
        else:
            request = f" [{entry['request_id']}]" if entry["request_id"] else ""
            click.echo(f"{clock.timestamp(entry['timestamp'])} {entry['level']:<6}{request} {escape(entry['message'])}")


@command.command()
@click.argument("runner_id")
@click.option("-r", "--replace", is_flag=True, help="Start another one first.")
@click.pass_obj
def stop(options: Options, runner_id: str, replace: bool) -> None:
    """Drain a runner and stop it."""
    from falplan.core.operations import OperationKind

    client = open_here(options).running_client()
    body: JsonObject = {"runner_id": runner_id, "replace": replace}
    client.perform(clock.new_uuid(), OperationKind.STOP_RUNNER, body)
    click.echo(f"{runner_id} is stopped.")
