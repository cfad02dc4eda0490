"""The command line: one module a command, loaded when it is called."""

from __future__ import annotations

from falplan.cli.group import main

__all__ = ["main"]
