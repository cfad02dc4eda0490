"""`falplan plan`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from falplan import clock
from falplan.cli.context import Options
from falplan.cli.project import dead_option, open_here, variable_options
from falplan.core.errors import ExitCode

if TYPE_CHECKING:
    from falplan.core.values import JsonObject


@click.command()
@click.option(
    "--json", "as_json", is_flag=True, help="Print the plan as one line of JSON in the shape of `terraform show -json`."
)
@click.option("--detailed-exitcode", is_flag=True, help="Exit 0 for no changes, 2 for changes, 1 for unknown.")
@dead_option
@variable_options
@click.pass_obj
def command(
    options: Options,
    as_json: bool,
    detailed_exitcode: bool,
    dead: str,
    variables: Sequence[str],
    variable_files: Sequence[Path],
) -> int:
    """Show what apply would change, and why. Changes nothing."""
    from falplan.engine.dead import without_dead
    from falplan.engine.judging import judge
    from falplan.engine.planning import check_gateway, check_places, plan_apply
    from falplan.views.orphans import render_orphans
    from falplan.views.plan import render_plan
    from falplan.views.sections import render_sections

    project = open_here(options, variables, variable_files)
    planned = plan_apply(project, without_dead(project, project.read_state(), dead))
    judgement = judge(project, planned)
    if as_json:
        from falplan.core.plan_json import plan_to_json

        body = plan_to_json(planned.plan, planned.follow)
        sections = {section.name: section.body for section in judgement.sections}
        body["output_changes"] = sections.pop("output_changes")
        own = cast("JsonObject", body["falplan"])
        click.echo(json.dumps({**body, "falplan": {**own, **sections}}, ensure_ascii=False))
    else:
        click.echo(render_plan(planned.plan, planned.follow, color=options.color), nl=False)
        click.echo(render_sections(judgement.sections, color=options.color), nl=False)
        click.echo(render_orphans(planned.observed.orphans, now=clock.now()), nl=False)
    check_places(planned)
    check_gateway(planned, project.spec, options.environ)
    judgement.check()
    if not detailed_exitcode:
        return ExitCode.DONE
    if planned.plan.unknown:
        return ExitCode.FAILED
    return ExitCode.DONE if planned.plan.is_empty else ExitCode.DIFFERENCE
