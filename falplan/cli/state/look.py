"""`falplan state list|show`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from falplan.cli.context import Options
from falplan.cli.project import open_here, variable_options

if TYPE_CHECKING:
    from falplan.core.state import Recorded


@click.command("list")
@click.argument("pattern", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@variable_options
@click.pass_obj
def list_(
    options: Options, pattern: str | None, as_json: bool, variables: Sequence[str], variable_files: Sequence[Path]
) -> None:
    """Print the address of every resource, or of those that PATTERN names: app.staging, or 'app.*.web'."""
    from falplan.core.state_edits import matching

    state = open_here(options, variables, variable_files).read_state()
    addresses = matching(state, pattern)
    if not addresses and not as_json:
        none = "State holds no resources: nothing was applied yet."
        other = f"No resource has an address like {pattern}: `falplan state list` prints them all."
        click.echo(other if state.resources else none, err=True)
    if as_json:
        click.echo(json.dumps(addresses))
    else:
        click.echo("".join(a + "\n" for a in addresses), nl=False)


@click.command()
@click.argument("address")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@variable_options
@click.pass_obj
def show(
    options: Options, address: str, as_json: bool, variables: Sequence[str], variable_files: Sequence[Path]
) -> None:
    """Print one resource: what was applied, and what came of it."""
    from falplan.core.state import recorded_to_json
    from falplan.core.state_edits import find

    recorded = find(open_here(options, variables, variable_files).read_state(), address)
    click.echo(json.dumps(recorded_to_json(recorded)) if as_json else resource_text(recorded))


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
