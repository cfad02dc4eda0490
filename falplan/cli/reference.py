"""The page of commands, made from the commands themselves."""

from __future__ import annotations

import click

from falplan.cli.group import cli
from falplan.core.errors import ExitCode

MEANING = {
    ExitCode.DONE: "done; for `plan --detailed-exitcode`: no difference",
    ExitCode.FAILED: "failed, state saved; trying again may help",
    ExitCode.DIFFERENCE: "only ever: a difference was found",
    ExitCode.SPEC_INVALID: "the spec is invalid; nothing was touched",
    ExitCode.LOCKED: "the lock is held; nothing was touched; try again",
    ExitCode.STATE_NOT_SAVED: "done, but state could not be saved; a recovery path was printed",
    ExitCode.REFUSED: "refused: approval missing, no room, state unreadable; nothing was touched, trying again does not help",
    ExitCode.ROLLOUT_FAILED: "the rollout failed; the old revision serves",
    ExitCode.USAGE: "the command line is wrong",
    ExitCode.BUG: "a bug of falplan",
    ExitCode.INTERRUPTED: "interrupted by SIGINT; state saved",
    ExitCode.TERMINATED: "interrupted by SIGTERM; state saved",
}


VARIABLES = {
    "FALPLAN_KEY": "the key to use, instead of the one kept for this user",
    "FALPLAN_LOOK_AT_FILES": "seconds between looks at the files of `gateway.tls`; 30 by default",
    "FALPLAN_DEBUG": "print whole tracebacks of bugs",
    "FALPLAN_BACKOFF": "waits after failed starts in a row, in seconds; `30,60,90` by default, then 30 more each time up to 600. "
    "Read when the control plane starts",
    "FALPLAN_MACHINE_DIR": "where this machine keeps who may act on it, and what the runners of all projects take; the same for all of "
    "them, or they don't see each other. `/var/tmp/falplan-<uid>` by default",
    "NO_COLOR": "no colours",
    "XDG_STATE_HOME": "the control plane's data lie in `falplan/<lineage>` below it, and the serials of states that were seen in "
    "`falplan-serials`; `~/.local/state` by default",
}
"""Environment variable -> what it does."""


def commands_page() -> str:
    """Markdown: exit codes, then the help of every command."""
    lines = [
        "# Commands",
        "",
        "Made from the commands' own help.",
        "",
        "## Exit codes",
        "",
        "| Code | Meaning |",
        "|---|---|",
    ]
    lines += [f"| {int(code)} | {MEANING[code]} |" for code in ExitCode]
    lines += ["", "## Environment variables", "", "| Variable | Meaning |", "|---|---|"]
    lines += [f"| `{name}` | {meaning} |" for name, meaning in VARIABLES.items()]
    root = click.Context(cli, info_name="falplan")
    lines += ["", "## falplan", "", *_help(cli, root)]
    for name in cli.list_commands(root):
        command = cli.get_command(root, name)
        if command is not None:
            lines += _section(command, root, name, "##")
    return "\n".join(lines).rstrip() + "\n"


def _section(command: click.Command, parent: click.Context, name: str, mark: str) -> list[str]:
    ctx = click.Context(command, info_name=name, parent=parent)
    lines = ["", f"{mark} {ctx.command_path}", "", *_help(command, ctx)]
    if isinstance(command, click.Group):
        for child in command.list_commands(ctx):
            found = command.get_command(ctx, child)
            if found is not None:
                lines += _section(found, ctx, child, mark + "#")
    return lines


def _help(command: click.Command, ctx: click.Context) -> list[str]:
    ctx.max_content_width = 120
    ctx.terminal_width = 120
    return ["```text", command.get_help(ctx), "```"]
