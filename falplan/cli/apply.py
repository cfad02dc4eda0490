"""`falplan apply`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from falplan import clock
from falplan.cli.context import Options
from falplan.cli.project import approve, carry_out_options, open_here
from falplan.core.errors import ExitCode, FalplanError

if TYPE_CHECKING:
    from falplan.core.state import State
    from falplan.engine.project import Project


@click.command()
@carry_out_options
@click.pass_obj
def command(
    options: Options,
    auto_approve: bool,
    parallelism: int,
    lock_timeout: float,
    variables: Sequence[str],
    variable_files: Sequence[Path],
) -> int:
    """Make the world as the spec says."""
    from falplan.cli.carry_out import run
    from falplan.engine.planning import check_gateway, check_places, check_secrets, plan_apply
    from falplan.engine.secrets import ensure_key
    from falplan.engine.settling import settle
    from falplan.views.orphans import render_orphans
    from falplan.views.plan import render_plan, summary

    project = open_here(options, variables, variable_files)
    with project.store.locked("apply", timeout=lock_timeout):
        state = project.read_state()
        ensure_key(project, state)
        planned = plan_apply(project, state)
        click.echo(render_plan(planned.plan, planned.follow, color=options.color), nl=False)
        click.echo(render_orphans(planned.observed.orphans, now=clock.now()), nl=False)
        check_places(planned)
        check_gateway(planned, project.spec, options.environ)
        check_secrets(planned)
        if planned.plan.is_empty:
            if planned.plan.blocked:
                return ExitCode.FAILED
            _print_endpoints(project, planned.state)
            return ExitCode.DONE
        if planned.plan.blocked:
            because = next(iter(planned.plan.blocked.values()))
            raise FalplanError("Not everything could be looked at", f"{because}. Nothing was changed.")
        if not approve("Do you want to perform these actions?", auto_approve=auto_approve):
            click.echo("Apply cancelled.")
            return ExitCode.FAILED
        result, code = run(
            project,
            planned.plan,
            planned.state,
            parallelism=parallelism,
            color=options.color,
            secrets=planned.secrets.values,
        )
        if code == ExitCode.DONE:
            for ended in settle(project, planned, result.state):
                click.echo(f"{ended}: stopped, because nothing that was applied wants it", err=True)
    if code == ExitCode.DONE:
        text = summary(planned.plan).removeprefix("Plan: ").rstrip(".")
        text = text.replace("to add", "added").replace("to change", "changed").replace("to destroy", "destroyed")
        click.echo(f"\nApply complete! {text}.")
        _print_endpoints(project, result.state)
    else:
        click.echo(
            f"\nApply did not finish: {len(result.done)} done, {len(result.errors)} failed, {len(result.skipped)} skipped.",
            err=True,
        )
    return code


def _print_endpoints(project: Project, state: State) -> None:
    gateway = state.resources.get("gateway")
    apps = [r for a, r in sorted(state.resources.items()) if a.startswith("app.") and "endpoint" in r.outputs]
    if not apps or gateway is None:
        return
    click.echo("\nEndpoints:")
    for app in apps:
        click.echo(f"  {app.address} = {gateway.outputs['url']}/run/{app.outputs['endpoint']}")
