"""`falplan exec`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

import click

from falplan.cli.access import access
from falplan.cli.context import Options
from falplan.core.errors import FalplanError


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def command(options: Options, program: Sequence[str]) -> None:
    """Run a program whose fal_client talks to this gateway: falplan exec -- python client.py"""
    environ = {**options.environ, **access(options)}
    path = shutil.which(program[0], path=environ.get("PATH"))
    if path is None:
        raise FalplanError("No such program", f"{program[0]} is not on PATH.")
    os.execve(path, list(program), environ)  # noqa: S606 - that is what the command is for
