"""What commands share: loading the spec with its variables, opening the project, asking."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from falplan.cli.context import Options
from falplan.core.errors import Refused

if TYPE_CHECKING:
    from falplan.core.spec.resolved import ResolvedSpec
    from falplan.core.state import State
    from falplan.engine.project import Project
    from falplan.sdk.shell import Shell
    from falplan.sdk.waiting import Wait

F = TypeVar("F", bound=Callable[..., Any])

AT_A_TIME, MOST = 10, 256
"""What `--parallelism` is if nobody says it, and may be at most."""


def variable_options(function: F) -> F:
    """`--var` and `--var-file`, for commands that read the spec."""
    path = click.Path(path_type=Path)
    from_file = click.option(
        "--var-file",
        "variable_files",
        type=path,
        multiple=True,
        metavar="FILE",
        help="Read variables from a YAML file.",
    )
    function = from_file(function)
    return click.option("--var", "variables", multiple=True, metavar="NAME=VALUE", help="Set a variable of the spec.")(
        function
    )


def carry_out_options(function: F) -> F:
    """What apply and destroy have in common, the spec's variables included."""
    seconds = click.FloatRange(min=0)
    function = variable_options(function)
    function = click.option("--lock-timeout", type=seconds, default=0, metavar="SECONDS", help="Wait for the lock.")(
        function
    )
    function = parallelism_option("Operations, and regions that are looked at, at a time.")(function)
    return click.option("--auto-approve", is_flag=True, help="Do not ask.")(function)


def parallelism_option(text: str) -> Callable[[F], F]:
    """`--parallelism`, for commands that look at the world; `text` says what is done so many at a time."""
    return click.option(
        "--parallelism",
        type=click.IntRange(1, MOST),
        default=AT_A_TIME,
        show_default=True,
        metavar="NUMBER",
        help=text,
    )


def dead_option(function: F) -> F:
    """`--gateway-is-dead`, for commands that ask the control plane."""
    return click.option(
        "--gateway-is-dead",
        "dead",
        default="",
        metavar="ID",
        help="The control plane of that id, on another machine, is gone for good: do without it.",
    )(function)


def events_option(function: F) -> F:
    """`--json` of commands that carry a plan out."""
    text = "Print events, a line of JSON each (`falplan schema events`); needs --auto-approve or a saved plan."
    return click.option("--json", "as_json", is_flag=True, help=text)(function)


def load(
    options: Options, variables: Sequence[str] = (), variable_files: Sequence[Path] = (), *, quiet: bool = False
) -> ResolvedSpec:
    """The resolved spec; warnings go to stderr, unless `quiet`.

    Raises:
        SpecInvalid: every error at once.
    """
    from falplan import registry
    from falplan.stores.spec.cache import load_cached
    from falplan.views.diagnostics import render

    spec = load_cached(
        options.folder,
        options.file,
        variables=assignments(variables),
        variable_files=[options.folder / f for f in variable_files],
        environ=options.environ,
        providers=registry.available(),
    )
    if spec.warnings and not quiet:
        click.echo(render(spec.warnings, color=options.color and sys.stderr.isatty()), err=True)
    return spec


def assignments(pairs: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` options as a mapping; usage error for anything else."""
    result = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--var {pair}: write NAME=VALUE.")
        result[name] = value
    return result


def open_here(
    options: Options,
    variables: Sequence[str] = (),
    variable_files: Sequence[Path] = (),
    *,
    parallelism: int = AT_A_TIME,
) -> Project:
    """The project of the spec in the options' folder."""
    from falplan.engine.project import open_project
    from falplan.sdk import waiting

    spec = load(options, variables, variable_files)
    project = open_project(spec, options.environ, parallelism=parallelism, install=partial(_install, options.environ))
    click.get_current_context().call_on_close(project.ways.close)
    project.store.on_wait = lambda holder: click.echo(f"Waiting for the state's lock. {holder}", err=True)
    waiting.tell(_tell_of_waits)
    return project


NAMED = 3
"""Machines that are named of those that are waited for."""


def _tell_of_waits(waits: Sequence[Wait]) -> None:
    names = [wait.what for wait in waits]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    longest = max(wait.at_most for wait in waits)
    click.echo(f"Waiting for {', '.join(names[:NAMED])}{more}: no answer yet, given up after {longest:g} s.", err=True)


def _install(
    environ: Mapping[str, str], shell: Shell, folder: str, platform: str, say: Callable[[str], None], *, pushes: bool
) -> str:
    """Put this falplan on another machine. See `falplan.control.installing`."""
    from falplan.control.installing import install
    from falplan.stores.user_keys import cache_folder

    return install(shell, folder, platform, cache_folder(environ, "install"), say, pushes=pushes)


def warn_of_work(project: Project, state: State) -> None:
    """Say on stderr that what looks interrupted may be under way: somebody holds the lock."""
    from falplan.stores.state.holding import describe

    if any(r.intent for r in state.resources.values()) and (holder := project.store.holder()):
        text = f"Warning: the state is being changed, and is locked. {describe(holder)} What is shown as interrupted is under way."
        click.echo(text, err=True)


def approve(question: str, *, auto_approve: bool) -> bool:
    """Ask; True if the answer is yes.

    Raises:
        Refused: there is nobody to ask.
    """
    if auto_approve:
        return True
    if not sys.stdin.isatty():
        raise Refused(
            "Approval is missing", "There is no terminal to ask on. If you know what it will do, add --auto-approve."
        )
    click.echo(f"\n{question}\n  Only 'yes' is accepted.")
    return str(click.prompt("\n  Enter a value", default="", show_default=False)).strip() == "yes"
