"""Puts files and trees in place, whole or not at all. Knows nothing of who asked, or of the way that they came.

Used by falplan where it acts on its own machine, and by `hand.py` on others. Needs Python 3.9 and its standard library alone.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile

TYPE_CHECKING = False  # importing typing costs time at each start
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any


PIECE = 1 << 18
PART = ".part-"
"""What names of unfinished things begin with. Behind it stands the pid of whoever makes them, and `-`."""


class Damaged(Exception):
    """An archive that is not what it should be: the text says what is wrong with it."""


def seal(hashes: Mapping[str, str]) -> str:
    """The digest of a tree, out of path -> SHA-256 in hex, with `+x` behind it for executable files."""
    text = json.dumps(dict(hashes), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_of(path: str) -> str:
    """SHA-256 of a file's content, in hex."""
    hashed = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            hashed.update(chunk)
    return hashed.hexdigest()


def files_below(folder: str) -> dict[str, str]:
    """Path -> SHA-256 of the regular files in a folder, `+x` behind it for executable ones. Paths with forward slashes."""
    hashes = {}
    for base, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(base, name)
            found = os.stat(path)
            if stat.S_ISREG(found.st_mode):
                hashes[os.path.relpath(path, folder)] = hash_of(path) + ("+x" if found.st_mode & stat.S_IXUSR else "")
    return hashes


def put_tree(
    target: str, fill: Callable[[str], Mapping[str, str] | None], digest: str | None, moment: Callable[[], object]
) -> None:
    """Make the folder `target`, read-only, with what `fill(folder)` puts in; whole or not at all. Durable once it is there.

    `fill` returns what `files_below` would find, or None: it has to be read again. `moment` is called before it gets its name. Somebody
    else may be first, with the same contents.

    Raises:
        Damaged: what came out does not have this digest; nothing is left.
    """
    above = os.path.dirname(target)
    make_folders(above)
    sweep(above)
    base = tempfile.mkdtemp(prefix=f"{PART}{os.getpid()}-", dir=above)
    temporary = os.path.join(base, "tree")
    try:
        hashes = fill(temporary)
        if digest is not None:
            found = seal(files_below(temporary) if hashes is None else hashes)
            if found != digest:
                raise Damaged(f"It should hold {digest[:12]}… and holds {found[:12]}….")
        make_read_only(temporary)
        os.chmod(temporary, 0o755)  # a folder can be renamed only while it is writable
        moment()
        _rename_once(temporary, target)
    finally:
        remove_tree(base)


def _rename_once(source: str, target: str) -> None:
    try:
        os.rename(source, target)
    except OSError:
        if not os.path.isdir(target):
            raise
        return  # somebody else was first, with the same contents
    os.chmod(target, 0o555)
    flush(os.path.dirname(target))


def make_folders(folder: str) -> None:
    """Make a folder and those above it that are missing, private."""
    missing = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for path in reversed(missing):
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass


def write_first(path: str, content: bytes, missing: Sequence[str]) -> bool:
    """Write a private file into a folder of its own, which may be there. Whether it did: not if `missing` are not what is missing above.

    `missing` are folders above that of the file. They appear with the file in them or not at all: whoever finds one of them finds the
    file, too, as long as whoever wrote it is there.
    """
    folder = os.path.dirname(path)
    top = min(missing, key=len, default="")
    if not top:
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            pass
        except FileNotFoundError:
            return False  # whoever was there is gone, and has taken the folders above along
        write_file(path, content, 0o600, lambda: None)
        return True
    above = os.path.dirname(top)
    try:
        sweep(above)
        base = tempfile.mkdtemp(prefix=f"{PART}{os.getpid()}-", dir=above)
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, top) from None
    try:
        write_file(os.path.join(base, os.path.relpath(path, top)), content, 0o600, lambda: None)
        os.rename(base, top)
    except FileNotFoundError:
        return False
    except OSError as exc:
        if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    finally:
        remove_tree(base)
    flush(above)
    return True


def make_read_only(folder: str) -> None:
    """Take the right to write from every file and folder below, and flush them to disk."""
    for base, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = os.path.join(base, name)
            os.chmod(path, 0o555 if os.stat(path).st_mode & stat.S_IXUSR else 0o444)
            flush(path)
        os.chmod(base, 0o555)
        flush(base)


def write_file(path: str, content: bytes, mode: int, moment: Callable[[], object]) -> None:
    """Write whole or not at all, durably. Missing folders above are made, private. `moment` is called before it gets its name."""
    above = os.path.dirname(path)
    make_folders(above)
    handle, temporary = tempfile.mkstemp(prefix=f"{PART}{os.getpid()}-", dir=above)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        moment()
        os.replace(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass
        raise
    flush(above)


def edit_lines(path: str, ending: str, line: str | None) -> None:
    """Put a line at the end of a file in place of all that have this ending; None: only take them away. Whole or not at all, in turns.

    The file's mode stays; a file that is made is private, and one without lines is removed. Nothing is made where there is nothing to
    take away. What somebody who died left beside the file is removed.
    """
    path = os.path.realpath(path)
    above = os.path.dirname(path)
    if line is not None:
        make_folders(above)
    try:
        turn = os.open(above, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        sweep(above)
        try:
            with open(path, "rb") as file:
                before, mode = file.read(), stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        except FileNotFoundError:
            before, mode = b"", 0o600
        kept = [old for old in before.splitlines() if not old.rstrip().endswith(ending.encode())]
        after = b"".join(text + b"\n" for text in (*kept, *([line.encode()] if line else ())))
        if after == before:
            return
        if after:
            write_file(path, after, mode, lambda: None)
        else:
            remove_tree(path)
    finally:
        os.close(turn)


def remove_empty(path: str) -> bool:
    """Remove a folder if nothing is in it. Whether it is gone."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def names_in(path: str) -> list[tuple[str, bool, int]]:
    """(name, whether it is a folder, bytes) of what lies in a folder, sorted; unfinished things left out. Empty without a folder."""
    entries = []
    try:
        with os.scandir(path) as found:
            for e in found:
                try:
                    if not e.name.startswith(PART):
                        entries.append((e.name, e.is_dir(follow_symlinks=False), e.stat(follow_symlinks=False).st_size))
                except FileNotFoundError:
                    continue  # it went in this very moment
    except FileNotFoundError:
        return []
    return sorted(entries)


def remove_tree(path: str) -> None:
    """Remove a file or folder, read-only or not. Nothing there is no error."""
    if os.path.islink(path) or not os.path.isdir(path):
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        return
    for base, _, _ in os.walk(path):
        try:
            os.chmod(base, 0o700)
        except FileNotFoundError:
            continue
    while os.path.isdir(path):
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            continue  # somebody else removes it, or a part of it, at the same time


def flush(path: str) -> None:
    """Make a file, or the names in a folder, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: str) -> None:
    """Remove what was left unfinished by those who are no more."""
    for name in os.listdir(folder):
        owner = name[len(PART) :].partition("-")[0] if name.startswith(PART) else ""
        if owner.isdigit() and not _is_alive(int(owner)):
            remove_tree(os.path.join(folder, name))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def details(exc: OSError) -> dict[str, Any]:
    """An error of the operating system as it travels."""
    return {"errno": exc.errno, "text": exc.strerror or str(exc), "path": exc.filename}
