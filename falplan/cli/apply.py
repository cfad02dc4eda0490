"""`falplan apply`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from falplan import clock
from falplan.cli.context import Options
from falplan.cli.project import approve, carry_out_options, dead_option, open_here
from falplan.core.errors import ExitCode, FalplanError

if TYPE_CHECKING:
    from falplan.core.plan import Plan
    from falplan.core.state import State
    from falplan.engine.apply import Result
    from falplan.engine.project import Project


@click.command()
@dead_option
@carry_out_options
@click.pass_obj
def command(
    options: Options,
    dead: str,
    auto_approve: bool,
    parallelism: int,
    lock_timeout: float,
    variables: Sequence[str],
    variable_files: Sequence[Path],
) -> int:
    """Make the world as the spec says."""
    project = open_here(options, variables, variable_files)
    with project.store.locked("apply", timeout=lock_timeout):
        for _ in range(2):
            code, again = _once(project, options, dead, auto_approve=auto_approve, parallelism=parallelism)
            if not again:
                break
            dead = ""
            click.echo("\nThe control plane that was started is older than what was applied: it is told what it lacks.")
    return code


def _once(project: Project, options: Options, dead: str, *, auto_approve: bool, parallelism: int) -> tuple[int, bool]:
    """One plan, carried out. Returns the exit code, and whether another plan is needed."""
    from falplan.cli.carry_out import run
    from falplan.engine.dead import what_stays, without_dead
    from falplan.engine.judging import judge
    from falplan.engine.outputs import keep_outputs
    from falplan.engine.planning import check_gateway, check_places, check_secrets, plan_apply
    from falplan.engine.secrets import ensure_key
    from falplan.engine.settling import Settled, settle
    from falplan.views.orphans import render_orphans
    from falplan.views.plan import render_plan
    from falplan.views.sections import render_sections

    state = without_dead(project, project.read_state(), dead)
    ensure_key(project, state)
    planned = plan_apply(project, state)
    judgement = judge(project, planned)
    click.echo(render_plan(planned.plan, planned.follow, color=options.color), nl=False)
    click.echo(render_sections(judgement.sections, color=options.color), nl=False)
    click.echo(render_orphans(planned.observed.orphans, now=clock.now()), nl=False)
    check_places(planned)
    check_gateway(planned, project.spec, options.environ)
    check_secrets(planned)
    judgement.check()
    if dead:
        click.echo(what_stays(state), err=True)
    if planned.plan.is_empty:
        if planned.plan.blocked:
            return ExitCode.FAILED, False
        _print_endpoints(project, planned.state)
        return _look_after(project, planned.state), False
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
    if code == ExitCode.DONE and not settled.again:
        code = _look_after(project, keep_outputs(project, result.state))
    return code, settled.again


def _look_after(project: Project, state: State) -> int:
    """Print the outputs, and what the checks after an apply say. Returns the exit code."""
    from falplan.engine.judging import judge_after
    from falplan.views.sections import output_lines

    for line in output_lines(state.outputs):
        click.echo(line)
    findings = judge_after(project.spec, state)
    for finding in findings:
        click.echo(f"\n{'Error' if finding.refuses else 'Warning'}: {finding.line}", err=True)
        for line in finding.detail:
            click.echo(f"  {line}", err=True)
    if any(finding.refuses for finding in findings):
        click.echo("Everything was applied and state is saved, but a check of the spec fails.", err=True)
        return ExitCode.FAILED
    return ExitCode.DONE


def _print_result(project: Project, plan: Plan, result: Result, code: int) -> None:
    from falplan.views.plan import summary

    if code == ExitCode.DONE:
        text = summary(plan).removeprefix("Plan: ").rstrip(".")
        text = text.replace("to add", "added").replace("to change", "changed").replace("to destroy", "destroyed")
        click.echo(f"\nApply complete! {text}.")
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
