"""`falplan output`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from falplan.cli.context import Options
from falplan.cli.project import open_here, variable_options
from falplan.core.errors import FalplanError

if TYPE_CHECKING:
    from falplan.core.state import Output, State


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; sensitive values too.")
@click.option("--raw", is_flag=True, help="Print the value of NAME alone, as it is: text, a number or a boolean.")
@variable_options
@click.pass_obj
def command(
    options: Options,
    name: str | None,
    as_json: bool,
    raw: bool,
    variables: Sequence[str],
    variable_files: Sequence[Path],
) -> None:
    """Print outputs of the spec, as the last apply found them. A sensitive one is shown when it is asked for by name."""
    if raw and (as_json or name is None):
        raise click.UsageError("--raw prints one value: falplan output --raw NAME, without --json.")
    state = open_here(options, variables, variable_files).read_state()
    if name is None:
        click.echo(_all(state, as_json), nl=False)
        return
    output = _find(state, name)
    click.echo(_plain(name, output) if raw else json.dumps(output.value, ensure_ascii=False), nl=not raw)


def _all(state: State, as_json: bool) -> str:
    outputs = sorted(state.outputs.items())
    if not outputs and not as_json:
        click.echo(
            "There are no outputs: `outputs:` in the spec says which there are, and apply works them out.", err=True
        )
    if as_json:
        return json.dumps({n: {"value": o.value, "sensitive": o.sensitive} for n, o in outputs}) + "\n"
    shown = ((n, "(sensitive value)" if o.sensitive else json.dumps(o.value, ensure_ascii=False)) for n, o in outputs)
    return "".join(f"{name} = {value}\n" for name, value in shown)


def _find(state: State, name: str) -> Output:
    from falplan.core.spec.words import did_you_mean

    output = state.outputs.get(name)
    if output is None:
        hint = did_you_mean(name, state.outputs) or "state holds none: they are written by `falplan apply`."
        raise FalplanError("No such output", f"{name} is not there; {hint}")
    return output


def _plain(name: str, output: Output) -> str:
    value = output.value
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, list | dict):
        raise FalplanError("The output is no plain value", f"{name} is a list, a mapping or null: --json prints it.")
    return json.dumps(value)
