"""`falplan backup`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from falplan.cli.context import Options
from falplan.cli.project import open_here


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(options: Options, file: Path | None, as_json: bool) -> None:
    """Write everything that the control plane keeps into FILE (.tar.gz, private), whether it runs or is stopped.

    The database with its queue and results, certificates, keys, locks and files of apps; not runners, their logs, or caches.
    """
    from falplan.core.backups import manifest_to_json
    from falplan.engine.backups import default_name, make_backup
    from falplan.views.backups import render_manifest

    project = open_here(options)
    target = options.folder / (file or default_name(project))
    manifest = make_backup(project, target)
    size = target.stat().st_size
    if as_json:
        click.echo(json.dumps({"file": str(target), "size": size, "manifest": manifest_to_json(manifest)}))
        return
    click.echo(f"Wrote {target} ({size:,} bytes).")
    click.echo(render_manifest(manifest), nl=False)
