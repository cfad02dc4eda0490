"""Runs the commands of the spec as the group runs them."""

from __future__ import annotations

from pathlib import Path

import click
from click.testing import CliRunner, Result

from falplan.cli.context import Options


def run(
    command: click.Command, folder: Path, *args: str, file: Path | None = None, environ: dict[str, str] | None = None
) -> Result:
    """The command's result; `return_value` is its exit code, exceptions are those that the group turns into text."""
    options = Options(folder=folder, file=file, environ=environ or {})
    return CliRunner().invoke(command, list(args), obj=options, standalone_mode=False)
