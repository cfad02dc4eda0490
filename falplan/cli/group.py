"""The command group: which module holds a command, global options, and how errors become text and exit codes."""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from falplan import __version__
from falplan.cli.context import Options
from falplan.cli.garbage import collect_rarely
from falplan.core.errors import ExitCode, FalplanError, SpecInvalid

COMMANDS: dict[str, str] = {
    "init": "Write a small spec and app that deploy as they are.",
    "validate": "Check the spec; print every error with its place.",
    "plan": "Show what apply would change, and why.",
    "apply": "Make the world as the spec says.",
    "drift": "Show what differs from what was applied.",
    "host": "Check the hosts that the spec names.",
    "aws": "Print the permissions that AWS has to give; fetch its prices.",
    "destroy": "Remove everything that apply made.",
    "show": "Show what was applied, or a resource of it.",
    "state": "Look at saved state, edit it, mend it. Touches nothing else.",
    "taint": "Have a resource made anew by the next apply.",
    "untaint": "Count a tainted resource as applied.",
    "output": "Print outputs of the spec, as the last apply found them.",
    "force-unlock": "Take the state's lock from a holder that is gone.",
    "import": "Take something that exists already into state.",
    "fmt": "Rewrite spec files in the standard format.",
    "graph": "Print the dependency graph (DOT or Mermaid).",
    "schema": "Print JSON Schemas.",
    "serve": "Run the control plane in the foreground.",
    "apps": "List apps; override their settings and revisions.",
    "runners": "List runners, read their logs, stop them.",
    "machines": "List bought machines, give them back.",
    "why": "Say why apps get no runner, and regions no machine.",
    "cost": "Show what bought machines cost, by their hours.",
    "call": "Call an app through the queue.",
    "exec": "Run a program whose fal_client talks to this gateway.",
    "env": "Print what `exec` sets, as shell exports.",
    "secrets": "List secrets, set stored ones, renew the key.",
    "keys": "Create, list and revoke callers' keys.",
    "audit": "Show who changed what on the control plane, and when.",
    "login": "Keep a key for a control plane that lives elsewhere.",
    "backup": "Write everything that the control plane keeps into one file.",
    "restore": "Bring the control plane's data back from a backup.",
    "prune": "Delete old requests, logs and events, and what nothing needs.",
    "version": "Print versions.",
    "completion": "Print the shell's completion script.",
}
"""name -> one line of help, in the order in which help prints them. The module is falplan.cli.<name>, its command `command`."""

MODULES = {
    "exec": "falplan.cli.exec_",
    "import": "falplan.cli.import_",
    "force-unlock": "falplan.cli.force_unlock",
}


class LazyGroup(click.Group):
    """Imports a command's module when the command is called, not before: `falplan --help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(MODULES.get(cmd_name, f"falplan.cli.{cmd_name}"))
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}.{_nearest(args[0])}")
        return super().resolve_command(ctx, args)


def _nearest(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, COMMANDS, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("-C", "folder", type=click.Path(path_type=Path), default=Path(), metavar="DIR", help="Work in DIR.")
@click.option(
    "-f", "file", type=click.Path(path_type=Path), metavar="FILE", help="The spec: a file, or a folder of them."
)
@click.version_option(__version__, prog_name="falplan")
@click.pass_context
def cli(ctx: click.Context, folder: Path, file: Path | None) -> None:
    """Deploy fal apps to your own machines, by plan and apply."""
    environ = dict(os.environ)
    color = sys.stdout.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    root = folder.absolute()
    if not root.is_dir():
        raise click.UsageError(f"-C {folder}: no such folder.")
    ctx.obj = Options(folder=root, file=file and (root / file), color=color, environ=environ)


def main(args: list[str] | None = None) -> NoReturn:
    """Run a command line and exit: 64 for a wrong one, 70 for a bug, else with the command's or the error's own code."""
    collect_rarely()
    _open_what_is_closed()
    lost = _outlive_readers()
    _leave_no_core()
    code = int(_run(args))
    sys.stdout.flush()
    sys.exit(_with_loss(code, lost))


def _with_loss(code: int, lost: Sequence[str]) -> int:
    """A result that could not be written down is none, though the work was done."""
    if not lost:
        return code
    click.echo(f"Error: The output could not be written\n{lost[0]}. What the command did otherwise is done.", err=True)
    return ExitCode.FAILED if code in (ExitCode.DONE, ExitCode.DIFFERENCE) else code


def _open_what_is_closed() -> None:
    """Standard streams that were closed lead nowhere from here on: no file that is opened later is taken for one of them."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - stays open


def _leave_no_core() -> None:
    """No dump of this process holds a secret that it was about to deliver. What it starts may ask for its dumps again."""
    try:
        import resource
    except ImportError:
        return  # not on Windows, which is refused by name
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


class _Reader(io.RawIOBase):
    """Whoever reads our output may go away (`| head`, a closed terminal): what is under way goes on, what it prints is dropped.

    So it is where a disk that our output goes to is full, but that is kept in `lost`: somebody counted on it.
    """

    def __init__(self, descriptor: int, lost: list[str]) -> None:
        self._descriptor = descriptor
        self._lost = lost

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def fileno(self) -> int:
        return self._descriptor

    def write(self, content: Any) -> int:
        try:
            return os.write(self._descriptor, content)
        except OSError as exc:
            if exc.errno not in (errno.EPIPE, errno.EIO):
                self._lost.append(exc.strerror or str(exc))
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._descriptor)
            return len(content)


def _outlive_readers() -> list[str]:
    """Returns a list that gets the reasons why what was printed on stdout got lost."""
    lost: list[str] = []
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.flush()
            raw = io.BufferedWriter(_Reader(stream.fileno(), lost if name == "stdout" else []))
            # A locale without a character shows its number, and a name that is no text its bytes: nothing ends a command half-way.
            errors = "backslashreplace" if stream.errors == "strict" else stream.errors
            setattr(sys, name, io.TextIOWrapper(raw, stream.encoding, errors, line_buffering=True))
    return lost


def _run(args: list[str] | None) -> int:
    if sys.platform == "win32":
        click.echo("Error: falplan does not run on Windows. Use it inside WSL, on Linux or on macOS.", err=True)
        return ExitCode.REFUSED
    try:
        result: Any = cli.main(args, prog_name="falplan", standalone_mode=False)
        return result if isinstance(result, int) and not isinstance(result, bool) else ExitCode.DONE
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.UsageError as exc:
        exc.show()
        return ExitCode.USAGE
    except click.exceptions.Abort:
        click.echo("\nInterrupted.", err=True)
        return ExitCode.INTERRUPTED
    except click.ClickException as exc:
        exc.show()
        return ExitCode.USAGE
    except SpecInvalid as exc:
        from falplan.views.diagnostics import render

        click.echo(render(exc.diagnostics, color=sys.stderr.isatty() and not os.environ.get("NO_COLOR")), err=True)
        return exc.exit_code
    except FalplanError as exc:
        show_error(exc)
        return exc.exit_code
    except KeyboardInterrupt:
        click.echo("\nInterrupted.", err=True)
        return ExitCode.INTERRUPTED
    except OSError as exc:
        return _report_refusal(exc) if exc.errno in REFUSALS and exc.filename is not None else _report_bug(exc)
    except Exception as exc:  # noqa: BLE001 - the outermost edge: a bug becomes a short report and exit code 70
        return _report_bug(exc)


REFUSALS = frozenset({errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EMFILE})
"""What a machine may refuse to do with a file, which is no bug of ours."""


def _report_refusal(error: OSError) -> int:
    if os.environ.get("FALPLAN_DEBUG"):
        import traceback

        traceback.print_exc()
    click.echo(
        f"Error: This machine refuses a file\n{error.filename}: {error.strerror}. Mend that, and run it again.",
        err=True,
    )
    return ExitCode.FAILED


def show_error(error: FalplanError) -> None:
    """Print a summary line and its detail on stderr."""
    label = click.style("Error:", fg="red", bold=True) if sys.stderr.isatty() else "Error:"
    click.echo(f"{label} {error.summary}", err=True)
    if error.detail:
        click.echo(error.detail, err=True)


def _report_bug(error: Exception) -> int:
    import traceback

    if os.environ.get("FALPLAN_DEBUG"):
        traceback.print_exc()
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}"
    click.echo(f"Error: a bug in falplan {__version__}: {type(error).__name__} at {place}", err=True)
    click.echo("Nothing about your spec explains it. FALPLAN_DEBUG=1 prints the whole traceback.", err=True)
    return ExitCode.BUG
