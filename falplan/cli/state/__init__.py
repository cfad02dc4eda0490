"""`falplan state`: look at saved state, edit it, bring it back, mend it. Nothing here touches the world."""

from __future__ import annotations

import click

from falplan.cli.state.backup import backup
from falplan.cli.state.edit import mv, rm
from falplan.cli.state.look import list_, resource_text, show
from falplan.cli.state.repair import repair
from falplan.cli.state.transfer import pull, push
from falplan.cli.state_migrate import migrate


@click.group()
def command() -> None:
    """Look at saved state, edit it, mend it. Touches nothing else."""


for _verb in (list_, show, mv, rm, pull, push, backup, repair, migrate):
    command.add_command(_verb)

__all__ = ["command", "resource_text"]
