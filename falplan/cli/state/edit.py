"""`falplan state mv|rm`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from falplan.cli.context import Options
from falplan.cli.state.common import approval_option, edit, writing_options


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@writing_options
@click.pass_obj
def mv(
    options: Options,
    source: str,
    target: str,
    lock_timeout: float,
    variables: Sequence[str],
    variable_files: Sequence[Path],
) -> int:
    """Give a resource another address: it is the same one, under a new name."""
    from falplan.core.state_edits import move

    return edit(
        options,
        "state mv",
        lambda state: move(state, source, target),
        lock_timeout=lock_timeout,
        variables=variables,
        variable_files=variable_files,
    )


@click.command()
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...")
@approval_option
@writing_options
@click.pass_obj
def rm(
    options: Options,
    addresses: tuple[str, ...],
    auto_approve: bool,
    lock_timeout: float,
    variables: Sequence[str],
    variable_files: Sequence[Path],
) -> int:
    """Forget resources without destroying them."""
    from falplan.core.state_edits import forget

    return edit(
        options,
        "state rm",
        lambda state: forget(state, addresses),
        lock_timeout=lock_timeout,
        variables=variables,
        variable_files=variable_files,
        question="Forget what runs, and leave it running?",
        auto_approve=auto_approve,
    )
