"""`falplan destroy`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from falplan.cli.context import Options
from falplan.cli.project import approve, carry_out_options, dead_option, open_here
from falplan.core.errors import ExitCode, FalplanError
from falplan.core.resources import GATEWAY

if TYPE_CHECKING:
    from falplan.engine.planning import Planned
    from falplan.engine.project import Project


@click.command()
@click.option("-e", "--environment", metavar="NAME", help="Only what belongs to this environment.")
@click.option(
    "--backup",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a backup first, as `falplan backup` does; without it nothing is destroyed.",
)
@dead_option
@carry_out_options
@click.pass_obj
def command(
    options: Options,
    auto_approve: bool,
    environment: str | None,
    backup: Path | None,
    dead: str,
    parallelism: int,
    lock_timeout: float,
    variables: Sequence[str],
    variable_files: Sequence[Path],
) -> int:
    """Remove everything that apply made: apps, environments, runners, the control plane and its data."""
    from falplan.cli.carry_out import run
    from falplan.core.protection import protected_destroys
    from falplan.engine.dead import what_stays, without_dead
    from falplan.engine.judging import refuse
    from falplan.engine.observe import unfinished_requests
    from falplan.engine.outputs import drop_outputs
    from falplan.engine.planning import plan_destroy
    from falplan.views.plan import render_plan

    project = open_here(options, variables, variable_files)
    if environment is not None:
        _check_environment(project.spec.environments, environment)
    with project.store.locked("destroy", timeout=lock_timeout):
        planned = plan_destroy(project, without_dead(project, project.read_state(), dead), environment)
        if planned.plan.is_empty:
            click.echo("Nothing to destroy: state holds no resources.")
            return ExitCode.DONE
        click.echo(render_plan(planned.plan, planned.follow, color=options.color), nl=False)
        refuse(protected_destroys(planned.plan))
        for line in unfinished(planned, unfinished_requests(project, planned.state)):
            click.echo(line, err=True)
        if dead:
            click.echo(what_stays(planned.state), err=True)
        if not auto_approve and backup is None and GATEWAY in planned.plan.after and environment is None:
            click.echo("The control plane's queue, results and keys go, too: --backup FILE keeps them.", err=True)
        if not approve("Do you really want to destroy all these resources?", auto_approve=auto_approve):
            click.echo("Destroy cancelled.")
            return ExitCode.FAILED
        if backup is not None:
            _back_up(project, options.folder / backup)
        result, code = run(project, planned.plan, planned.state, parallelism=parallelism, color=options.color)
        if code == ExitCode.DONE and environment is None:
            drop_outputs(project, result.state)
    if code == ExitCode.DONE:
        click.echo(f"\nDestroy complete! {len(result.done)} destroyed.")
    return code


def _back_up(project: Project, target: Path) -> None:
    from falplan.engine.backups import make_backup

    try:
        manifest = make_backup(project, target)
    except FalplanError as exc:
        exc.detail = f"{exc.detail} Nothing was destroyed.".lstrip()
        raise
    click.echo(f"Wrote {target}, as of {manifest.created_at}.")


def unfinished(planned: Planned, requests: Mapping[str, Any]) -> Iterator[str]:
    """A warning for each app with requests that have not ended, with the oldest of them by id."""
    direct = {row["endpoint"]: row["in_flight"] + row["waiting"] for row in planned.observed.apps.values()}
    for address, change in sorted(planned.plan.changes.items()):
        endpoint = str((change.before or {}).get("endpoint", ""))
        queued = requests.get(endpoint, {"total": 0, "oldest": []})
        total = max(queued["total"], direct.get(endpoint, 0))
        if not total or address not in planned.plan.after:
            continue
        yield f"Warning: {address} has {total} unfinished request{'s' * (total > 1)}; those still queued are cancelled."
        for request in queued["oldest"]:
            yield f"  {request['request_id']}  {request['status']}  since {request['created_at']}"
        if queued["total"] > len(queued["oldest"]):
            yield f"  and {queued['total'] - len(queued['oldest'])} more"


def _check_environment(known: Sequence[str], name: str) -> None:
    if name in known:
        return
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    error = FalplanError("Unknown environment", f"The spec has {', '.join(known)}, not {name!r}.{hint}")
    error.exit_code = ExitCode.SPEC_INVALID
    raise error
