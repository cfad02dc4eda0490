"""An interrupt at the very start of a command ends it, and nothing more."""

from __future__ import annotations

import signal
import subprocess
import sys

STRIKE = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from falplan.cli import main
"""
AFTER = "import signal; from falplan.cli import main; print(signal.getsignal(signal.SIGINT) is signal.{})"


def run(code: str, before: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", before + code], capture_output=True, text=True, timeout=60)


def test_an_interrupt_while_it_is_being_loaded_leaves_no_traceback() -> None:
    """Seen red with imports under Python's own handler: a user who pressed Ctrl-C at once saw fifty lines of it."""
    ran = run(STRIKE)

    assert (ran.returncode, ran.stderr) == (-signal.SIGINT, "")


def test_afterwards_interrupts_are_as_they_were() -> None:
    ignored = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN);"

    assert run(AFTER.format("default_int_handler")).stdout == "True\n"
    assert run(AFTER.format("SIG_IGN"), before=ignored).stdout == "True\n"
