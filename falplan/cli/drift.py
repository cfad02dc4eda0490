"""`falplan drift`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from falplan import clock
from falplan.cli.context import Options
from falplan.cli.plan_output import screen_of
from falplan.cli.project import open_here, parallelism_option, variable_options, warn_of_work
from falplan.cli.scoping import check_environment
from falplan.core.errors import ExitCode

if TYPE_CHECKING:
    from falplan.engine.drifting import Looked
    from falplan.views.drift import DriftReport


@click.command()
@click.option("-e", "--environment", default="", metavar="NAME", help="Only what belongs to this environment.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown, as for an issue.")
@click.option("--allow-unknown", is_flag=True, help="Exit 0 although something could not be looked at.")
@parallelism_option("Regions that are looked at at a time.")
@variable_options
@click.pass_obj
def command(
    options: Options,
    environment: str,
    as_json: bool,
    as_markdown: bool,
    allow_unknown: bool,
    parallelism: int,
    variables: Sequence[str],
    variable_files: Sequence[Path],
) -> int:
    """Show what differs from what was applied, whatever the spec says by now. Changes nothing.

    Exits 0 if nothing differs, 2 if something does, 1 if something is unknown.
    """
    from falplan.engine.drifting import look
    from falplan.views.drift import drift_json, drift_markdown, drift_text

    if as_json and as_markdown:
        raise click.UsageError("--json and --markdown can't be given together.")
    project = open_here(options, variables, variable_files, parallelism=parallelism)
    check_environment(project.spec.environments, environment)
    now = clock.now()
    looked = look(project, environment=environment, today=clock.timestamp(now)[:10])
    warn_of_work(project, looked.state)
    report = report_of(looked, now=now, environment=environment)
    code = exit_code_of(report, allow_unknown=allow_unknown)
    if as_json:
        click.echo(json.dumps(drift_json(report, code), ensure_ascii=False))
    else:
        click.echo(drift_markdown(report) if as_markdown else drift_text(report, screen_of(options)), nl=False)
    return code


def report_of(looked: Looked, *, now: float, environment: str = "") -> DriftReport:
    """What is told of a look. `now` in seconds since 1970."""
    from falplan.core.loss import DOUBT
    from falplan.views.drift import DriftReport

    state = looked.state
    return DriftReport(
        state.project,
        state.lineage,
        state.serial,
        clock.timestamp(now),
        now,
        looked.checked,
        looked.findings,
        looked.orphans,
        environment,
        f"{looked.lost.message}: {DOUBT}" if looked.lost else "",
    )


def exit_code_of(report: DriftReport, *, allow_unknown: bool) -> ExitCode:
    """Drift before what is unknown: that something differs stays true, whatever else is there."""
    if not report.in_sync:
        return ExitCode.DIFFERENCE
    return ExitCode.FAILED if report.findings.unknown and not allow_unknown else ExitCode.DONE
