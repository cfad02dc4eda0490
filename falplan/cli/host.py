"""`falplan host check`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from falplan import clock
from falplan.cli.context import Options
from falplan.cli.project import open_here, parallelism_option, variable_options
from falplan.cli.scoping import check_environment
from falplan.core.errors import ExitCode

if TYPE_CHECKING:
    from falplan.engine.preflight import Subject


@click.group()
def command() -> None:
    """Check the hosts that the spec names."""


@command.command()
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@click.option("-e", "--environment", default="", metavar="NAME", help="Only hosts of regions that its apps may run in.")
@click.option("--inventory", is_flag=True, help="Print what each host has, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (`falplan schema host-check`).")
@parallelism_option("Hosts that are looked at at a time.")
@variable_options
@click.pass_obj
def check(
    options: Options,
    hosts: Sequence[str],
    environment: str,
    inventory: bool,
    as_json: bool,
    parallelism: int,
    variables: Sequence[str],
    variable_files: Sequence[Path],
) -> int:
    """Look for what would keep hosts from running apps, before they are applied or after. Changes nothing on them.

    HOST is an address (host.dc1.gpu-01), a region and a name (dc1/gpu-01) or a region; all hosts by default. Exits 0 if no host has an
    error, and 1 if one has, or can't be looked at.
    """
    from falplan.core.preflight import is_usable
    from falplan.engine.preflight import check as check_all
    from falplan.engine.preflight import subjects
    from falplan.engine.provided import pinned, provided_by
    from falplan.views.hosts import checked_json, checked_text

    project = open_here(options, variables, variable_files, parallelism=parallelism)
    spec = project.spec
    check_environment(spec.environments, environment)
    state = project.store.read(spec.project)
    wanted = chosen(subjects(spec, provided_by(spec, pinned(state) if state else {}), environment), hosts)
    found = check_all(wanted, at_a_time=parallelism, now=clock.now)
    if as_json:
        click.echo(json.dumps(checked_json(found), ensure_ascii=False))
    else:
        click.echo(checked_text(found, color=options.color, inventory=inventory), nl=False)
    return ExitCode.DONE if is_usable(found) else ExitCode.FAILED


def chosen(found: Sequence[Subject], names: Sequence[str]) -> list[Subject]:
    """Those that are named, in their own order; all if nothing is named.

    Raises:
        UsageError: a name is none of theirs, with the nearest one.
    """
    known = {name for s in found for name in (s.address, s.short, s.region)}
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise click.UsageError(f"{name}: the spec has no such host.{hint}")
    return [s for s in found if not names or {s.address, s.short, s.region} & {*names}]
