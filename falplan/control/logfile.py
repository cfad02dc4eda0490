"""The control plane's log as a file that does not grow for ever, standard error included. Knows nothing of what is logged."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

LARGEST = 10 << 20
"""Bytes of a log file, after which the next one is begun."""

KEPT = 3
"""Earlier files that stay: serve.log.1 is the newest."""

FORM = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def log_to_stderr_or(path: Path, *, largest: int = LARGEST, kept: int = KEPT) -> None:
    """Send logging to standard error; where that is the log file at `path`, rotate it.

    A control plane in the foreground, or one whose output something else collects, writes to standard error as ever. Python's own
    last words (a traceback of another thread, a crash's stack) go there too, from the first moment on.
    """
    faulthandler.enable(file=2)
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if _is_stderr(path):
        handler = _Rotating(path, maxBytes=largest, backupCount=kept, encoding="utf-8", delay=True)
    logging.basicConfig(level=logging.INFO, format=FORM, handlers=[handler])


def _is_stderr(path: Path) -> bool:
    """Whether standard error was opened as this very file."""
    try:
        return os.path.samestat(os.fstat(2), path.stat())
    except OSError:
        return False


class _Rotating(RotatingFileHandler):
    """Takes standard output and error along to each new file, so that no word that bypasses logging is lost.

    A disk that is full costs lines, never the control plane: an error while logging goes to standard error, and where that
    fails as well, nowhere. A successor in another process may have begun a new file: that one is written to, then.
    """

    def shouldRollover(self, record: logging.LogRecord) -> int | bool:  # noqa: N802 - logging's name for it
        if self.stream is not None and not _is_file(self.stream.fileno(), self.baseFilename):
            self.stream.close()
            self.stream = None
        return super().shouldRollover(record)

    def _open(self) -> TextIOWrapper:
        stream = super()._open()
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
        return stream


def _is_file(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))  # noqa: PTH116 - the handler's own name for it
    except OSError:
        return False
