"""`falplan state list|show`."""

from __future__ import annotations

import json
from difflib import get_close_matches
from typing import TYPE_CHECKING

import click

from falplan.cli.context import Options
from falplan.cli.project import open_here
from falplan.cli.state_migrate import migrate
from falplan.core.errors import FalplanError

if TYPE_CHECKING:
    from falplan.core.state import Recorded, State


@click.group()
def command() -> None:
    """List and show resources in saved state."""


command.add_command(migrate)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_(options: Options, as_json: bool) -> None:
    """Print the address of every resource."""
    state = open_here(options).read_state()
    addresses = sorted(state.resources)
    if as_json:
        click.echo(json.dumps(addresses))
    else:
        click.echo("".join(a + "\n" for a in addresses), nl=False)


@command.command()
@click.argument("address")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def show(options: Options, address: str, as_json: bool) -> None:
    """Print one resource: what was applied, and what came of it."""
    from falplan.core.state import recorded_to_json

    recorded = find(open_here(options).read_state(), address)
    click.echo(json.dumps(recorded_to_json(recorded)) if as_json else resource_text(recorded))


def find(state: State, address: str) -> Recorded:
    """The resource in state.

    Raises:
        FalplanError: there is none; the message names the nearest.
    """
    recorded = state.resources.get(address)
    if recorded is None:
        close = get_close_matches(address, state.resources, n=1)
        hint = f" Did you mean {close[0]}?" if close else " `falplan state list` prints those there are."
        raise FalplanError("No such resource in state", f"{address} is not there.{hint}")
    return recorded


def resource_text(recorded: Recorded) -> str:
    """A resource for people: inputs and outputs as YAML-like lines."""
    lines = [f"# {recorded.address} ({recorded.status.value}, generation {recorded.generation})"]
    if recorded.intent:
        lines.append(f"# interrupted: {recorded.intent.action}; the next apply finishes it")
    for title, values in (("inputs", recorded.inputs), ("outputs", recorded.outputs)):
        lines.append(f"{title}:")
        lines += [f"  {name}: {json.dumps(value, ensure_ascii=False)}" for name, value in sorted(values.items())]
    if recorded.dependencies:
        lines.append(f"depends on: {', '.join(recorded.dependencies)}")
    return "\n".join(lines)
