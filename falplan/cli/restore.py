"""`falplan restore`."""

from __future__ import annotations

from pathlib import Path

import click

from falplan.cli.context import Options
from falplan.cli.project import open_here


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_obj
def command(options: Options, file: Path) -> None:
    """Put a backup in the place of the control plane's data. It must be stopped; what was there is kept aside.

    FILE is checked whole first. If this is interrupted, run it again.
    """
    from falplan.engine.backups import restore
    from falplan.views.backups import render_manifest

    manifest, aside = restore(open_here(options), options.folder / file)
    click.echo(f"Restored the backup of {manifest.created_at}.")
    click.echo(render_manifest(manifest), nl=False)
    if aside is not None:
        click.echo(f"What was there before lies in {aside}.")
    click.echo("`falplan apply` starts the control plane.")
