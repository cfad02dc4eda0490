"""`falplan login`."""

from __future__ import annotations

import sys
from dataclasses import replace

import click

from falplan.cli.context import Options
from falplan.cli.project import open_here
from falplan.core.errors import FalplanError


@click.command()
@click.pass_obj
def command(options: Options) -> None:
    """Keep a key for a control plane that lives elsewhere. The key is read from standard input, or asked for.

    Its owner makes one with `falplan keys create --scope ADMIN`. It is tried, then kept in a file that only you can read;
    FALPLAN_KEY, where it is set, is used in its place.
    """
    from falplan.core.plan import Presence
    from falplan.engine.reaching import Where, reach
    from falplan.engine.ways import Ways
    from falplan.stores.user_keys import user_keys

    project = open_here(options)
    url = project.spec.gateway.get("url")
    state = project.store.read(project.spec.project)
    if state is None and not url:
        raise FalplanError("Nothing was applied yet", "There is no control plane to log in to.")
    if sys.stdin.isatty():
        key = str(click.prompt("Key", hide_input=True))
    else:
        key = sys.stdin.readline()
    key = key.strip()
    if not key:
        raise FalplanError("There is no key", "Give it on standard input: falplan login < key.txt")
    environ = {**options.environ, "FALPLAN_KEY": key}
    if state is None:
        project = replace(project, environ=environ)
        state = project.read_state()
    reached = reach(project.spec, state, environ, Ways())
    if reached.where is Where.HERE:
        raise FalplanError("No key is needed", "The control plane lives here, and is yours.")
    if reached.presence is not Presence.PRESENT:
        raise FalplanError("The key was not kept", reached.because)
    path = user_keys(options.environ).keep(state.lineage, key)
    if url:
        user_keys(options.environ).keep(str(url), key)  # for a checkout that has no state yet
    click.echo(f"Kept in {path}.")
