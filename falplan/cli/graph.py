"""`falplan graph`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from falplan.cli.context import Options
from falplan.cli.project import load, variable_options


@click.command()
@click.option("--format", "form", type=click.Choice(["dot", "mermaid"]), default="dot", show_default=True)
@variable_options
@click.pass_obj
def command(options: Options, form: str, variables: Sequence[str], variable_files: Sequence[Path]) -> None:
    """Print what depends on what."""
    from falplan.core.resources import desired_resources
    from falplan.views import graph

    wanted = desired_resources(load(options, variables, variable_files))
    dependencies = {address: resource.dependencies for address, resource in wanted.items()}
    click.echo({"dot": graph.dot, "mermaid": graph.mermaid}[form](dependencies), nl=False)
