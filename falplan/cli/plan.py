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
from falplan.cli.project import dead_option, open_here, parallelism_option, variable_options, warn_of_work
from falplan.cli.saved import Duration
from falplan.cli.scoping import check_environment, check_refresh, check_scope, scope_options
from falplan.core.errors import ExitCode
from falplan.core.saved_plan import VALID_FOR

if TYPE_CHECKING:
    from falplan.core.plan import Plan
    from falplan.core.state import State
    from falplan.engine.planning import Planned, Scope
    from falplan.engine.project import Project


@click.command()
@format_options
@click.option(
    "--json", "as_json", is_flag=True, help="The same as `--format json`: one line as of `terraform show -json`."
)
@click.option("--detailed-exitcode", is_flag=True, help="Exit 0 for no changes, 2 for changes, 1 for unknown.")
@click.option("--refresh-only", is_flag=True, help="Only what differs from what was applied, to be recorded.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Save the plan, signed: `falplan apply FILE` carries out exactly this.",
)
@click.option(
    "--valid-for",
    type=Duration(),
    default=VALID_FOR,
    show_default="24h",
    metavar="TIME",
    help="How long a saved plan holds good, as 90m, 24h or 7d.",
)
@click.option("--destroy", "destroys", is_flag=True, help="Show what `falplan destroy` would do.")
@click.option(
    "--untrusted",
    is_flag=True,
    help="For a spec of strangers, as in a pull request from a fork: no environment, command, network or file elsewhere.",
)
@scope_options
@dead_option
@parallelism_option("Regions that are looked at at a time.")
@variable_options
@click.pass_obj
def command(
    options: Options,
    form: str,
    json_into: Path | None,
    markdown_into: Path | None,
    as_json: bool,
    detailed_exitcode: bool,
    refresh_only: bool,
    out: Path | None,
    valid_for: float,
    destroys: bool,
    untrusted: bool,
    scope: Scope,
    dead: str,
    parallelism: int,
    variables: Sequence[str],
    variable_files: Sequence[Path],
) -> int:
    """Show what apply would change, and why. Changes nothing."""
    from falplan.cli.destroy import warn_of_unfinished
    from falplan.cli.left_over import warn_of_left_over
    from falplan.cli.saved import keep_plan
    from falplan.engine.dead import without_dead
    from falplan.engine.judging import judge, judge_removal
    from falplan.engine.planning import check_gateway, check_logins, check_places
    from falplan.engine.report import report_of
    from falplan.engine.saved import Chosen, ready_to_save
    from falplan.views.orphans import render_orphans

    _check_options(form, as_json=as_json, saves=out is not None)
    if untrusted:
        if dead or refresh_only or out is not None:
            text = "--untrusted asks nobody: --gateway-is-dead, --refresh-only and --out can't be given with it."
            raise click.UsageError(text)
        options, scope = replace(options, environ={}), replace(scope, trusted=False, refresh=False)
    project = open_here(options, variables, variable_files, parallelism=parallelism)
    check_environment(project.spec.environments, scope.environment)
    check_refresh(scope, refresh_only=refresh_only, destroys=destroys)
    read = project.read_untrusted() if untrusted else project.read_state()
    if not untrusted:
        warn_of_left_over(project)
        warn_of_work(project, read)
    if out is not None:
        ready_to_save(project, read)
    planned = _planned(project, without_dead(project, read, dead), scope, refresh_only=refresh_only, destroys=destroys)
    check_scope(planned.plan, scope)
    judgement = judge_removal(planned) if destroys else judge(project, planned, look=scope.refresh)
    form = "json" if as_json else form
    if not scope.refresh and not untrusted:
        click.echo("Nothing was looked at (--refresh=false): what was applied is taken for what is there.", err=True)
    report = report_of(planned, judgement.sections)
    show_plan(report, options, form, prior=planned.state, into=json_into, markdown_into=markdown_into)
    if form in ("human", "tree"):
        click.echo(render_orphans(planned.observed.orphans, now=clock.now()), nl=False)
    if destroys:
        warn_of_unfinished(project, planned)
    else:
        check_gateway(planned, project.spec, options.environ)
    check_logins(planned)
    check_places(planned)
    judgement.check()
    if out is not None:
        files = tuple(str(f) for f in variable_files)
        chosen = Chosen(scope.environment, destroys, dead, tuple(variables), files, valid_for)
        keep_plan(options, project, read, planned, report, options.path(out), chosen)
    return exit_code_of(planned.plan) if detailed_exitcode else ExitCode.DONE


def _check_options(form: str, *, as_json: bool, saves: bool) -> None:
    """Refuse options that contradict each other.

    Raises:
        click.UsageError: two forms of output, or a time for which a plan is valid that nobody saves.
    """
    if as_json and form not in ("human", "json"):
        raise click.UsageError(
            "--json and another --format can't be given together: --json-into FILE writes it beside."
        )
    source = click.get_current_context().get_parameter_source("valid_for")
    if not saves and source is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("--valid-for is for a plan that is saved: add --out FILE.")


def _planned(project: Project, state: State, scope: Scope, *, refresh_only: bool, destroys: bool) -> Planned:
    from falplan.engine.planning import plan_apply, plan_destroy, plan_refresh

    if destroys:
        return plan_destroy(project, state, scope.environment or None, scope)
    return (plan_refresh if refresh_only else plan_apply)(project, state, scope)


def exit_code_of(plan: Plan) -> ExitCode:
    """What `--detailed-exitcode` tells: what can't be applied before anything else; then that something changes, whatever is unknown
    beside it; and without a known change, that nobody can say that there is none."""
    if plan.blocked:
        return ExitCode.FAILED
    if not plan.is_empty:
        return ExitCode.DIFFERENCE
    return ExitCode.FAILED if plan.unknown else ExitCode.DONE
