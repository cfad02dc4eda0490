"""`falplan destroy`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from falplan.cli.context import Options
from falplan.cli.plan_output import show_plan
from falplan.cli.project import approve, carry_out_options, dead_option, events_option, open_here
from falplan.cli.scoping import check_environment, check_scope, part_options
from falplan.core.errors import ExitCode, FalplanError
from falplan.core.plural import count
from falplan.core.resources import GATEWAY

if TYPE_CHECKING:
    from falplan.cli.telling import Teller
    from falplan.engine.planning import Planned, Scope
    from falplan.engine.project import Project


@click.command()
@click.option("-e", "--environment", metavar="NAME", help="Only what belongs to this environment.")
@click.option(
    "--backup",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a backup first, as `falplan backup` does; without it nothing is destroyed.",
)
@part_options
@events_option
@dead_option
@carry_out_options
@click.pass_obj
def command(
    options: Options,
    auto_approve: bool,
    scope: Scope,
    environment: str | None,
    backup: Path | None,
    as_json: bool,
    dead: str,
    parallelism: int,
    lock_timeout: float,
    variables: Sequence[str],
    variable_files: Sequence[Path],
) -> int:
    """Remove everything that apply made: apps, environments, runners, the control plane and its data."""
    from falplan.cli.left_over import settle_left_over
    from falplan.cli.telling import told_on

    if as_json and not auto_approve:
        raise click.UsageError("--json needs --auto-approve: there is nobody to ask.")
    with told_on(as_json=as_json, color=options.color) as teller:
        project = open_here(options, variables, variable_files, parallelism=parallelism)
        check_environment(project.spec.environments, environment or "")
        with project.store.locked("destroy", timeout=lock_timeout):
            settle_left_over(project, ask=not as_json)
            return _destroy(project, options, teller, _Asked(environment, scope, backup, dead, auto_approve, as_json))


@dataclass(frozen=True, slots=True)
class _Asked:
    environment: str | None
    scope: Scope
    backup: Path | None
    dead: str
    auto_approve: bool
    as_json: bool


def _destroy(project: Project, options: Options, teller: Teller, asked: _Asked) -> int:
    from falplan.cli.carry_out import run
    from falplan.cli.telling import nothing_to_do
    from falplan.engine.dead import what_stays, without_dead
    from falplan.engine.judging import judge_removal
    from falplan.engine.outputs import drop_outputs
    from falplan.engine.planning import plan_destroy
    from falplan.engine.report import report_of
    from falplan.views.progress import DESTROY, complete_line

    state = without_dead(project, project.read_state(), asked.dead)
    planned = plan_destroy(project, state, asked.environment, asked.scope)
    check_scope(planned.plan, asked.scope)
    if planned.plan.is_empty:
        nothing_to_do(teller, planned, destroys=True)
        click.echo("Nothing to destroy: state holds no resources.", err=asked.as_json)
        return ExitCode.DONE
    judgement = judge_removal(planned)
    if not asked.as_json:
        show_plan(report_of(planned, judgement.sections), options, "human", prior=planned.state)
    judgement.check()
    warn_of_unfinished(project, planned)
    if asked.dead:
        click.echo(what_stays(planned.state), err=True)
    if not asked.auto_approve and asked.backup is None and GATEWAY in planned.plan.after and asked.environment is None:
        click.echo("The control plane's queue, results and keys go, too: --backup FILE keeps them.", err=True)
    if not approve("Do you really want to destroy all these resources?", auto_approve=asked.auto_approve):
        click.echo("Destroy cancelled.")
        return ExitCode.FAILED
    if asked.backup is not None:
        _back_up(project, options.folder / asked.backup, as_json=asked.as_json)
    result, code = run(
        project,
        planned.plan,
        planned.state,
        teller,
        command="destroy",
        destroys=True,
    )
    if code == ExitCode.DONE and not result.state.resources:
        drop_outputs(project, result.state)
    if code == ExitCode.DONE and not asked.as_json:
        click.echo(f"\n{complete_line(DESTROY, planned.plan)}")
    return code


def warn_of_unfinished(project: Project, planned: Planned) -> None:
    """Name the requests on stderr that have not ended in what a plan destroys."""
    from falplan.engine.observe import unfinished_requests

    for line in unfinished(planned, unfinished_requests(project, planned.state)):
        click.echo(line, err=True)


def _back_up(project: Project, target: Path, *, as_json: bool) -> None:
    from falplan.engine.backups import make_backup

    try:
        manifest = make_backup(project, target)
    except FalplanError as exc:
        exc.detail = f"{exc.detail} Nothing was destroyed.".lstrip()
        raise
    click.echo(f"Wrote {target}, as of {manifest.created_at}.", err=as_json)


def unfinished(planned: Planned, requests: Mapping[str, Any]) -> Iterator[str]:
    """A warning for each app with requests that have not ended, with the oldest of them by id."""
    direct = {row["endpoint"]: row["in_flight"] + row["waiting"] for row in planned.observed.apps.values()}
    for address, change in sorted(planned.plan.changes.items()):
        endpoint = str((change.before or {}).get("endpoint", ""))
        queued = requests.get(endpoint, {"total": 0, "oldest": []})
        total = max(queued["total"], direct.get(endpoint, 0))
        if not total or address not in planned.plan.after:
            continue
        yield f"Warning: {address} has {count(total, 'unfinished request')}; those still queued are cancelled."
        for request in queued["oldest"]:
            yield f"  {request['request_id']}  {request['status']}  since {request['created_at']}"
        if queued["total"] > len(queued["oldest"]):
            yield f"  and {queued['total'] - len(queued['oldest'])} more"
