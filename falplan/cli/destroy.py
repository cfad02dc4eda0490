"""`falplan destroy`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from falplan.cli.context import Options
from falplan.cli.project import approve, carry_out_options, open_here
from falplan.core.errors import ExitCode, FalplanError


@click.command()
@click.option("-e", "--environment", metavar="NAME", help="Only what belongs to this environment.")
@carry_out_options
@click.pass_obj
def command(
    options: Options,
    auto_approve: bool,
    environment: str | None,
    parallelism: int,
    lock_timeout: float,
    variables: Sequence[str],
    variable_files: Sequence[Path],
) -> int:
    """Remove everything that apply made: apps, environments, runners, the control plane and its data."""
    from falplan.cli.carry_out import run
    from falplan.engine.planning import plan_destroy
    from falplan.views.plan import render_plan

    project = open_here(options, variables, variable_files)
    if environment is not None:
        _check_environment(project.spec.environments, environment)
    with project.store.locked("destroy", timeout=lock_timeout):
        planned = plan_destroy(project, project.read_state(), environment)
        if planned.plan.is_empty:
            click.echo("Nothing to destroy: state holds no resources.")
            return ExitCode.DONE
        click.echo(render_plan(planned.plan, planned.follow, color=options.color), nl=False)
        for address, row in sorted(planned.observed.apps.items()):
            unfinished = row["queued"] + row["in_flight"]
            if unfinished and address in planned.plan.after:
                click.echo(
                    f"Warning: {address} has {unfinished} unfinished requests; those still queued are cancelled.",
                    err=True,
                )
        if not approve("Do you really want to destroy all these resources?", auto_approve=auto_approve):
            click.echo("Destroy cancelled.")
            return ExitCode.FAILED
        result, code = run(project, planned.plan, planned.state, parallelism=parallelism, color=options.color)
    if code == ExitCode.DONE:
        click.echo(f"\nDestroy complete! {len(result.done)} destroyed.")
    return code


def _check_environment(known: Sequence[str], name: str) -> None:
    if name in known:
        return
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    error = FalplanError("Unknown environment", f"The spec has {', '.join(known)}, not {name!r}.{hint}")
    error.exit_code = ExitCode.SPEC_INVALID
    raise error
