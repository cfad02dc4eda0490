"""`falplan state backup list|make|show|restore`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from falplan.cli.context import Options
from falplan.cli.project import open_here, variable_options
from falplan.cli.state.common import approval_option, tell_saved, writing_options
from falplan.cli.state.transfer import highest_seen, present, put


@click.group()
def backup() -> None:
    """Earlier states: every write of the state keeps the one before it."""


@backup.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@variable_options
@click.pass_obj
def list_(options: Options, as_json: bool, variables: Sequence[str], variable_files: Sequence[Path]) -> None:
    """List the backups, newest first."""
    from falplan.views.tables import table

    store = open_here(options, variables, variable_files).store
    kept = store.backups()
    if as_json:
        click.echo(json.dumps([asdict(k) for k in kept]))
    elif kept:
        rows = [(k.name, k.serial if k.serial >= 0 else "", k.saved_at, f"{k.size:,}") for k in kept]
        click.echo(table(("NAME", "SERIAL", "SAVED", "BYTES"), rows))
    else:
        click.echo(f"There are none beside {store.where}: the first write of a state has nothing to keep.")


@backup.command()
@writing_options
@click.pass_obj
def make(options: Options, lock_timeout: float, variables: Sequence[str], variable_files: Sequence[Path]) -> None:
    """Keep the present state as a backup, and write it anew: encrypted as the spec says now."""
    project = open_here(options, variables, variable_files)
    with project.store.locked("state backup make", timeout=lock_timeout):
        tell_saved(project, project.store.save(project.applied()))


@backup.command()
@click.argument("name")
@variable_options
@click.pass_obj
def show(options: Options, name: str, variables: Sequence[str], variable_files: Sequence[Path]) -> None:
    """Print a backup as one JSON document, decrypted."""
    from falplan.core.state import render_state

    click.echo(render_state(open_here(options, variables, variable_files).store.read_backup(name)), nl=False)


@backup.command()
@click.argument("name")
@approval_option
@writing_options
@click.pass_obj
def restore(
    options: Options,
    name: str,
    auto_approve: bool,
    lock_timeout: float,
    variables: Sequence[str],
    variable_files: Sequence[Path],
) -> int:
    """Put a backup in the place of the present state, with a serial above all that were seen."""
    project = open_here(options, variables, variable_files)
    with project.store.locked("state backup restore", timeout=lock_timeout):
        current, restored = present(project), project.store.read_backup(name)
        serials = [restored.serial, highest_seen(project, restored.lineage), current.serial if current else 0]
        return put(project, current, restored, max(serials), auto_approve=auto_approve)
