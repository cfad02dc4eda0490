"""Errors that a person can act on, and the exit code of each kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """What a command's exit status tells a script."""

    DONE = 0  #: done; for `plan --detailed-exitcode` and `drift`: no difference
    FAILED = 1  #: failed, state saved, trying again may help
    DIFFERENCE = 2  #: only ever "difference found"
    SPEC_INVALID = 3  #: the spec is invalid; nothing was touched
    LOCKED = 4  #: somebody else holds the lock; nothing was touched; try again
    STATE_NOT_SAVED = 5  #: done, but state could not be saved; a recovery path was printed
    REFUSED = 6  #: refused: trying again does not help
    ROLLOUT_FAILED = 7  #: the rollout failed; the old revision serves
    USAGE = 64  #: the command line is wrong
    BUG = 70  #: a bug of falplan
    INTERRUPTED = 130  #: SIGINT; state saved
    TERMINATED = 143  #: SIGTERM; state saved


class FalplanError(Exception):
    """Something a person can fix. `summary` is one fixed line; `detail` says what, why, and what to do next."""

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, summary: str, detail: str = "") -> None:
        super().__init__(f"{summary}: {detail}" if detail else summary)
        self.summary = summary
        self.detail = detail


class Refused(FalplanError):
    """Nothing was touched, and trying again does not help."""

    exit_code = ExitCode.REFUSED


class Locked(FalplanError):
    """Somebody else holds the lock. Nothing was touched; trying again helps once they are done."""

    exit_code = ExitCode.LOCKED


class StateNotSaved(FalplanError):
    """The world changed but state could not be written; the detail holds the recovery path.

    `overtaken`: because another one has the lock by now, and goes on from what was recorded.
    """

    exit_code = ExitCode.STATE_NOT_SAVED
    overtaken = False


class RolloutFailed(FalplanError):
    """The new revision never got healthy; the old one serves."""

    exit_code = ExitCode.ROLLOUT_FAILED


class Severity(StrEnum):
    """How bad a diagnostic is."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a file. Lines and columns count from 1, columns in Unicode characters."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Related:
    """A second place that explains the first one, such as an earlier definition."""

    position: Position
    message: str


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding about a file that a person wrote.

    `code` is stable (`SPEC017`). `position` is None only when there is no text to point at, as for a missing file;
    then `file` names it. `source` is the whole line at `position`, `length` the number of characters to underline.
    `hint` says what to do next.
    """

    code: str
    message: str
    file: str = ""
    position: Position | None = None
    severity: Severity = Severity.ERROR
    source: str = ""
    length: int = 1
    hint: str = ""
    related: tuple[Related, ...] = field(default=())


class SpecInvalid(FalplanError):
    """The spec can't be used. Carries every diagnostic found, in order of position; nothing was touched."""

    exit_code = ExitCode.SPEC_INVALID

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        super().__init__("Invalid spec", f"{len(diagnostics)} finding(s)")
        self.diagnostics = tuple(diagnostics)
