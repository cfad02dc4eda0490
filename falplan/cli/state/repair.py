"""`falplan state repair`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from falplan import clock
from falplan.cli.context import Options
from falplan.cli.project import approve, open_here
from falplan.cli.state.common import approval_option, writing_options
from falplan.cli.state.transfer import highest_seen
from falplan.core.errors import ExitCode, FalplanError

if TYPE_CHECKING:
    from falplan.core.state_repair import Backup, Diagnosis, Wish
    from falplan.engine.project import Project


@click.command()
@click.option("--apply", "apply_", is_flag=True, help="Put a mended state in place; the broken one is kept.")
@click.option("--from", "name", default="", metavar="BACKUP", help="Make it from this backup.")
@click.option("--as-it-stands", is_flag=True, help="Take the snapshot although its checksum does not match.")
@approval_option
@writing_options
@click.pass_obj
def repair(
    options: Options,
    apply_: bool,
    name: str,
    as_it_stands: bool,
    auto_approve: bool,
    lock_timeout: float,
    variables: Sequence[str],
    variable_files: Sequence[Path],
) -> int:
    """Say what is wrong with the state and what can be done; with --apply, do it."""
    from falplan.core.state_repair import Wish

    project = open_here(options, variables, variable_files)
    wish = Wish(name, as_it_stands)
    if not apply_:
        found = _diagnosis(project, wish)
        _tell(project, found)
        if found.mended is not None:
            click.echo("Nothing was changed. `falplan state repair --apply` does it.")
        return ExitCode.FAILED if found.findings else ExitCode.DONE
    with project.store.locked("state repair", timeout=lock_timeout):
        return _mend(project, wish, auto_approve=auto_approve)


def _mend(project: Project, wish: Wish, *, auto_approve: bool) -> int:
    found = _diagnosis(project, wish)
    _tell(project, found)
    if found.mended is None:
        return ExitCode.REFUSED if found.findings else ExitCode.DONE
    if not approve("Put the mended state in place?", auto_approve=auto_approve):
        click.echo("Cancelled. Nothing was changed.")
        return ExitCode.FAILED
    kept = f"broken.{clock.timestamp(clock.now()).replace(':', '')}"
    saved = project.store.replace_broken(found.mended, keep_as=kept)
    click.echo(f"State saved with serial {saved.serial}. What was there is kept among the backups as {kept}.json.")
    click.echo("Run `falplan plan` before anything else: it compares the state with what is there.")
    return ExitCode.DONE


def _diagnosis(project: Project, wish: Wish) -> Diagnosis:
    from falplan.core.state_repair import diagnose

    remains = project.store.examine()
    backups = _backups(project)
    lineages = {b.state.lineage for b in backups if b.state is not None} | (
        {remains.journal.lineage} if remains.journal else set()
    )
    lineages |= {remains.lineage} if remains.lineage else set()
    seen = max((highest_seen(project, lineage) for lineage in lineages), default=0)
    return diagnose(remains, backups, project=project.spec.project, seen=seen, wish=wish)


def _backups(project: Project) -> list[Backup]:
    from falplan.core.state_repair import Backup

    found = []
    for kept in project.store.backups():
        if kept.serial < 0:
            continue  # what an earlier repair put aside
        try:
            found.append(Backup(kept.name, project.store.read_backup(kept.name)))
        except FalplanError as exc:
            found.append(Backup(kept.name, None, exc.summary.lower()))
    return found


def _tell(project: Project, found: Diagnosis) -> None:
    if not found.findings:
        click.echo(found.advice or f"Nothing is wrong with the state in {project.store.where}.")
        if found.mended is None:
            return
    else:
        click.echo(f"The state in {project.store.where}:")
        for finding in found.findings:
            click.echo(f"  - {finding}")
    if found.mended is None:
        click.echo(found.advice)
        return
    click.echo(f"\nIt can be mended. It is made of {found.source}; {len(found.mended.resources)} resources.")
    for line in found.lines:
        click.echo(line)
