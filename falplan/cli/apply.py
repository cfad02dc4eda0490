"""`falplan apply`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from falplan import clock
from falplan.cli.context import Options
from falplan.cli.plan_output import format_options, show_plan
from falplan.cli.project import approve, carry_out_options, dead_option, open_here
from falplan.cli.scoping import check_environment, check_refresh, check_scope, scope_options
from falplan.core.errors import ExitCode, FalplanError

if TYPE_CHECKING:
    from falplan.core.plan import Plan
    from falplan.core.state import State
    from falplan.engine.apply import Result
    from falplan.engine.planning import Scope
    from falplan.engine.project import Project


@click.command()
@click.option(
    "--refresh-only", is_flag=True, help="Record what differs from what was applied, and change nothing else."
)
@scope_options
@format_options
@dead_option
@carry_out_options
@click.pass_obj
def command(
    options: Options,
    refresh_only: bool,
    scope: Scope,
    form: str,
    json_into: Path | None,
    dead: str,
    auto_approve: bool,
    parallelism: int,
    lock_timeout: float,
    variables: Sequence[str],
    variable_files: Sequence[Path],
) -> int:
    """Make the world as the spec says."""
    project = open_here(options, variables, variable_files)
    check_environment(project.spec.environments, scope.environment)
    check_refresh(scope, refresh_only=refresh_only)
    scope = replace(scope, acts=True)
    with project.store.locked("apply", timeout=lock_timeout):
        for _ in range(2):
            show = partial(show_plan, options=options, form=form, into=json_into)
            code, again = _once(
                project, options, dead, scope, refresh_only, show, auto_approve=auto_approve, parallelism=parallelism
            )
            if not again:
                break
            dead = ""
            click.echo("\nThe control plane that was started is older than what was applied: it is told what it lacks.")
    return code


def _once(
    project: Project,
    options: Options,
    dead: str,
    scope: Scope,
    refresh_only: bool,
    show: Callable[..., None],
    *,
    auto_approve: bool,
    parallelism: int,
) -> tuple[int, bool]:
    """One plan, carried out. Returns the exit code, and whether another plan is needed."""
    from falplan.cli.carry_out import run
    from falplan.engine.dead import what_stays, without_dead
    from falplan.engine.planning import check_gateway, check_places, check_secrets, plan_apply, plan_refresh
    from falplan.engine.report import report_of
    from falplan.engine.secrets import ensure_key
    from falplan.engine.settling import Settled, settle
    from falplan.views.orphans import render_orphans

    state = without_dead(project, project.read_state(), dead)
    ensure_key(project, state)
    make = plan_refresh if refresh_only else plan_apply
    planned = make(project, state, scope)
    check_scope(planned.plan, scope)
    show(report_of(planned), prior=planned.state)
    click.echo(render_orphans(planned.observed.orphans, now=clock.now()), nl=False)
    check_places(planned)
    check_gateway(planned, project.spec, options.environ)
    check_secrets(planned)
    if dead:
        click.echo(what_stays(state), err=True)
    if planned.plan.is_empty:
        if planned.plan.blocked:
            return ExitCode.FAILED, False
        _print_endpoints(project, planned.state)
        return ExitCode.DONE, False
    if planned.plan.blocked:
        because = next(iter(planned.plan.blocked.values()))
        raise FalplanError("Not everything could be looked at", f"{because}. Nothing was changed.")
    if not approve("Do you want to perform these actions?", auto_approve=auto_approve):
        click.echo("Apply cancelled.")
        return ExitCode.FAILED, False
    values = planned.secrets.values
    result, code = run(
        project, planned.plan, planned.state, parallelism=parallelism, color=options.color, secrets=values
    )
    settled = settle(project, planned, result.state) if code == ExitCode.DONE else Settled()
    for ended in settled.ended:
        click.echo(f"{ended}: stopped, because nothing that was applied wants it", err=True)
    _print_result(project, planned.plan, result, code)
    return code, settled.again


def _print_result(project: Project, plan: Plan, result: Result, code: int) -> None:
    from falplan.views.plan_words import summary_done

    if code == ExitCode.DONE:
        click.echo(f"\nApply complete! {summary_done(plan)}.")
        _print_endpoints(project, result.state)
    else:
        click.echo(
            f"\nApply did not finish: {len(result.done)} done, {len(result.errors)} failed, {len(result.skipped)} skipped.",
            err=True,
        )


def _print_endpoints(project: Project, state: State) -> None:
    gateway = state.resources.get("gateway")
    apps = [r for a, r in sorted(state.resources.items()) if a.startswith("app.") and "endpoint" in r.outputs]
    if not apps or gateway is None:
        return
    click.echo("\nEndpoints:")
    for app in apps:
        click.echo(f"  {app.address} = {gateway.outputs['url']}/run/{app.outputs['endpoint']}")
