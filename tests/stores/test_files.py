"""Files that are private are so from their first byte on, whoever looks for them meanwhile."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

from falplan.stores.files import write_whole

SECRET = b"correct horse battery staple"


def test_nobody_finds_a_private_file_with_wider_permissions(tmp_path: Path) -> None:
    """500 times beside somebody who looks all the time. Seen red with a file that is made with the usual mode and narrowed then."""
    path = tmp_path / "key"
    temporary = tmp_path / ".key.new"
    modes, over = set[int](), threading.Event()

    def look() -> None:
        while not over.is_set():
            for name in (path, temporary):
                try:
                    modes.add(stat.S_IMODE(name.stat().st_mode))
                except FileNotFoundError:
                    continue

    before = os.umask(0)
    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(500):
            write_whole(path, SECRET, mode=0o600)
            path.unlink()
    finally:
        over.set()
        looking.join()
        os.umask(before)

    assert modes == {0o600}


def test_what_was_put_in_the_place_of_the_temporary_file_gets_nothing(tmp_path: Path) -> None:
    """A file that somebody holds open, and a link to somewhere else. Seen red with a file that is opened whatever it is."""
    path, temporary, elsewhere = tmp_path / "key", tmp_path / ".key.new", tmp_path / "elsewhere"
    temporary.touch(0o666)
    with temporary.open("rb") as held:
        write_whole(path, SECRET, mode=0o600)
        assert held.read() == b""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    elsewhere.write_bytes(b"mine")
    temporary.symlink_to(elsewhere)
    write_whole(path, SECRET, mode=0o600)

    assert elsewhere.read_bytes() == b"mine"
    assert path.read_bytes() == SECRET
    assert not path.is_symlink()
