"""The command line: one module a command, loaded when it is called."""

from __future__ import annotations

import signal
import threading

_early = threading.current_thread() is threading.main_thread() and (
    signal.getsignal(signal.SIGINT) is signal.default_int_handler
)
if _early:  # until `main` can answer it, an interrupt ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)
try:
    from falplan.cli.group import main
finally:
    if _early:
        signal.signal(signal.SIGINT, signal.default_int_handler)

__all__ = ["main"]
