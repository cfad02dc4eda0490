"""Files that are whole or not there, whatever happens in between."""

from __future__ import annotations

import os
from pathlib import Path

from falplan.sdk.failpoints import fp


def write_whole(path: Path, content: bytes, *, mode: int = 0o644, point: str = "file") -> None:
    """Replace a file so that a reader, or a crash at any instant, finds the old content or the new, never a part.

    `point` names the failpoints between the steps. The temporary file lies beside it, and has the mode from the first byte on: one that
    was left there, or a link that somebody put in its place, is removed and not written to.

    Raises:
        OSError: the old content is untouched.
    """
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        fp(f"{point}.save.before_write")
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            fp(f"{point}.save.before_fsync")
            os.fsync(file.fileno())
        fp(f"{point}.save.before_rename")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    fp(f"{point}.save.after_rename")
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename or a new name in the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
