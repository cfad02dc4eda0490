"""`falplan taint`."""

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
    """Have a resource made anew by the next apply."""
    from falplan.core.state_edits import taint

    return edit(
        options,
        "taint",
        lambda state: taint(state, address),
        lock_timeout=lock_timeout,
        variables=variables,
        variable_files=variable_files,
    )
