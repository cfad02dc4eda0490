"""`falplan plan`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from falplan import clock
from falplan.cli.context import Options
from falplan.cli.project import dead_option, open_here, variable_options
from falplan.cli.saved import Duration
from falplan.core.errors import ExitCode
from falplan.core.saved_plan import VALID_FOR


@click.command()
@click.option(
    "--json", "as_json", is_flag=True, help="Print the plan as one line of JSON in the shape of `terraform show -json`."
)
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
@click.option("-e", "--environment", metavar="NAME", help="With --destroy: only what belongs to this environment.")
@click.option("--detailed-exitcode", is_flag=True, help="Exit 0 for no changes, 2 for changes, 1 for unknown.")
@dead_option
@variable_options
@click.pass_obj
def command(
    options: Options,
    as_json: bool,
    out: Path | None,
    valid_for: float,
    destroys: bool,
    environment: str | None,
    detailed_exitcode: bool,
    dead: str,
    variables: Sequence[str],
    variable_files: Sequence[Path],
) -> int:
    """Show what apply would change, and why. Changes nothing."""
    from falplan.cli.destroy import check_environment, warn_of_unfinished
    from falplan.cli.left_over import warn_of_left_over
    from falplan.cli.saved import keep_plan
    from falplan.engine.dead import without_dead
    from falplan.engine.planning import check_gateway, check_places, plan_apply, plan_destroy
    from falplan.engine.saved import Chosen, ready_to_save
    from falplan.views.orphans import render_orphans
    from falplan.views.plan import render_plan

    if environment is not None and not destroys:
        raise click.UsageError("-e belongs to --destroy: a plan of what the spec says is of all environments.")
    project = open_here(options, variables, variable_files)
    if environment is not None:
        check_environment(project.spec.environments, environment)
    warn_of_left_over(project)
    read = project.read_state()
    if out is not None:
        ready_to_save(project, read)
    state = without_dead(project, read, dead)
    planned = plan_destroy(project, state, environment) if destroys else plan_apply(project, state)
    if as_json:
        from falplan.core.plan_json import plan_to_json

        click.echo(json.dumps(plan_to_json(planned.plan, planned.follow), ensure_ascii=False))
    else:
        click.echo(render_plan(planned.plan, planned.follow, color=options.color), nl=False)
        click.echo(render_orphans(planned.observed.orphans, now=clock.now()), nl=False)
    check_places(planned)
    if destroys:
        warn_of_unfinished(project, planned)
    else:
        check_gateway(planned, project.spec, options.environ)
    if out is not None:
        files = tuple(str(f) for f in variable_files)
        chosen = Chosen(environment or "", destroys, dead, tuple(variables), files, valid_for)
        keep_plan(options, project, read, planned, options.folder / out, chosen)
    if not detailed_exitcode:
        return ExitCode.DONE
    if planned.plan.unknown:
        return ExitCode.FAILED
    return ExitCode.DONE if planned.plan.is_empty else ExitCode.DIFFERENCE
