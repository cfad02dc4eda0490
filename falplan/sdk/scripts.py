"""Falplan's own scripts on a machine: which there are, where they lie, and how they get there."""

from __future__ import annotations

import functools
from importlib import resources

from falplan.runner.foreign import digest_of
from falplan.sdk.shell import Shell

SCRIPTS = (
    "processes.py",
    "containers.py",
    "images.py",
    "rules.py",
    "ledger.py",
    "units.py",
    "foreign.py",
    "front.py",
    "fronting.py",
    "supervisor.py",
    "fal_server.py",
    "builder.py",
    "agent.py",
)
"""In the order in which they are put: one that is there finds all that it needs, wherever putting them was interrupted."""


@functools.cache
def scripts() -> dict[str, bytes]:
    """Name -> content."""
    folder = resources.files("falplan.runner")
    return {name: folder.joinpath(name).read_bytes() for name in SCRIPTS}


@functools.cache
def scripts_version() -> str:
    """What tells them from those of other releases."""
    return digest_of(scripts())


def tool(root: str, name: str) -> str:
    """Where a script of this version lies below a machine's root."""
    return f"{root}/tools/{scripts_version()}/{name}"


def put(shell: Shell, root: str) -> None:
    """Bring them all, in place of whatever is there under their names."""
    for name, content in scripts().items():
        shell.write_file(tool(root, name), content)
