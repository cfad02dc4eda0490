"""`falplan exec`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

import click

from falplan.cli.access import access
from falplan.cli.context import Options
from falplan.core.errors import FalplanError


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def command(options: Options, program: Sequence[str]) -> None:
    """Run a program whose fal_client talks to this gateway: falplan exec -- python client.py"""
    given = access(options)
    environ = {**options.environ, **given.variables}
    path = shutil.which(program[0], path=environ.get("PATH"))
    if path is None:
        raise FalplanError("No such program", f"{program[0]} is not on PATH.")
    if given.lives_here:
        sys.exit(_run(path, program, environ))  # through a port that this process keeps open
    os.execve(path, list(program), environ)  # noqa: S606 - that is what the command is for


def _run(path: str, program: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run it beside this process. Its exit status, as a shell tells it; it hears of Ctrl-C itself."""
    with subprocess.Popen(list(program), executable=path, env=dict(environ)) as process:
        for number in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda n, frame: process.send_signal(n))
        code = process.wait()
    return code if code >= 0 else 128 - code
