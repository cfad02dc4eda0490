"""`falplan plan`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from falplan import clock
from falplan.cli.context import Options
from falplan.cli.plan_output import format_options, show_plan
from falplan.cli.project import dead_option, open_here, variable_options
from falplan.cli.scoping import check_environment, check_refresh, check_scope, scope_options
from falplan.core.errors import ExitCode

if TYPE_CHECKING:
    from falplan.core.plan import Plan
    from falplan.engine.planning import Scope


@click.command()
@format_options
@click.option(
    "--json", "as_json", is_flag=True, help="The same as `--format json`: one line as of `terraform show -json`."
)
@click.option("--detailed-exitcode", is_flag=True, help="Exit 0 for no changes, 2 for changes, 1 for unknown.")
@click.option("--refresh-only", is_flag=True, help="Only what differs from what was applied, to be recorded.")
@click.option(
    "--untrusted",
    is_flag=True,
    help="For a spec of strangers, as in a pull request from a fork: no environment, command, network or file elsewhere.",
)
@scope_options
@dead_option
@variable_options
@click.pass_obj
def command(
    options: Options,
    form: str,
    json_into: Path | None,
    as_json: bool,
    detailed_exitcode: bool,
    refresh_only: bool,
    untrusted: bool,
    scope: Scope,
    dead: str,
    variables: Sequence[str],
    variable_files: Sequence[Path],
) -> int:
    """Show what apply would change, and why. Changes nothing."""
    from falplan.engine.dead import without_dead
    from falplan.engine.planning import check_gateway, check_places, plan_apply, plan_refresh
    from falplan.engine.report import report_of
    from falplan.views.orphans import render_orphans

    if untrusted:
        if dead or refresh_only:
            raise click.UsageError(
                "--untrusted asks nobody: --gateway-is-dead and --refresh-only can't be given with it."
            )
        options, scope = replace(options, environ={}), replace(scope, trusted=False, refresh=False)
    project = open_here(options, variables, variable_files)
    check_environment(project.spec.environments, scope.environment)
    check_refresh(scope, refresh_only=refresh_only)
    make = plan_refresh if refresh_only else plan_apply
    state = project.read_untrusted() if untrusted else project.read_state()
    planned = make(project, without_dead(project, state, dead), scope)
    check_scope(planned.plan, scope)
    form = "json" if as_json else form
    show_plan(report_of(planned), options, form, prior=planned.state, into=json_into)
    if form in ("human", "tree"):
        click.echo(render_orphans(planned.observed.orphans, now=clock.now()), nl=False)
    check_places(planned)
    check_gateway(planned, project.spec, options.environ)
    return exit_code_of(planned.plan) if detailed_exitcode else ExitCode.DONE


def exit_code_of(plan: Plan) -> ExitCode:
    """What `--detailed-exitcode` tells: unknown before anything else, since then nobody can say that there is no difference."""
    if plan.unknown:
        return ExitCode.FAILED
    return ExitCode.DONE if plan.is_empty else ExitCode.DIFFERENCE
