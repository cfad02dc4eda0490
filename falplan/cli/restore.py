"""`falplan restore`."""

from __future__ import annotations

from pathlib import Path

import click

from falplan.cli.context import Options
from falplan.cli.project import dead_option, open_here


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@dead_option
@click.pass_obj
def command(options: Options, file: Path, dead: str) -> None:
    """Put a backup in the place of the control plane's data. It must be stopped; what was there is kept aside.

    FILE is checked whole first. If this is interrupted, run it again.
    """
    from falplan.engine.backups import restore
    from falplan.views.backups import render_manifest

    manifest, aside = restore(open_here(options), options.folder / file, dead)
    click.echo(f"Restored the backup of {manifest.created_at}.")
    click.echo(render_manifest(manifest), nl=False)
    if aside is not None:
        click.echo(f"What was there before lies in {aside}.")
    again = f" --gateway-is-dead {dead}" if dead else ""
    click.echo(f"`falplan apply{again}` starts the control plane.")
