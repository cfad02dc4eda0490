"""`falplan untaint`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from falplan.cli.context import Options
from falplan.cli.state.common import edit, writing_options


@click.command()
@click.argument("address")
@writing_options
@click.pass_obj
def command(
    options: Options, address: str, lock_timeout: float, variables: Sequence[str], variable_files: Sequence[Path]
) -> int:
    """Count a tainted resource as applied."""
    from falplan.core.state_edits import untaint

    return edit(
        options,
        "untaint",
        lambda state: untaint(state, address),
        lock_timeout=lock_timeout,
        variables=variables,
        variable_files=variable_files,
    )
