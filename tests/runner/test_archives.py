"""Unpacking what comes piece by piece: whole and hashed, or damaged; in bounded memory."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from falplan.runner.archives import unpack
from falplan.runner.placing import Damaged, files_below
from falplan.sdk.trees import TreeFile, write_archive


class Trickle:
    """An archive that comes in pieces of random sizes."""

    def __init__(self, content: bytes, seed: int) -> None:
        self.stream, self.chance = io.BytesIO(content), random.Random(seed)

    def read(self, size: int) -> bytes:
        return self.stream.read(self.chance.choice((1, 7, 511, 512, 513, 100_000, size)))


@pytest.mark.parametrize("seed", range(40))
def test_what_was_packed_comes_out_with_its_hashes(tmp_path: Path, seed: int) -> None:
    """Sizes around tar's blocks of 512 bytes, names that need a header of their own, and contents of every kind."""
    chance = random.Random(seed)
    names = ["a", "b/c", "ü/" + "long" * 60, "b/d/e", "empty"]
    files = [TreeFile(name, _content(chance, name), executable=chance.random() < 0.5) for name in names]
    archive = io.BytesIO()
    write_archive(files, archive)
    target = tmp_path / "t"
    hashes = unpack(Trickle(archive.getvalue(), seed), str(target))

    assert {f.path: (target / f.path).read_bytes() for f in files} == {f.path: f.content for f in files}
    assert hashes == files_below(str(target)) and {k for k, v in hashes.items() if v.endswith("+x")} == {
        f.path for f in files if f.executable
    }


def _content(chance: random.Random, name: str) -> bytes:
    size = 0 if name == "empty" else chance.choice((1, 511, 512, 513, 1024, 3_000_000))
    return bytes(size) if chance.random() < 0.5 else chance.randbytes(size)


@pytest.mark.parametrize("seed", range(20))
def test_an_archive_that_was_cut_or_changed_anywhere_is_damaged_or_has_another_digest(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    files = [TreeFile("a", chance.randbytes(2000)), TreeFile("b", b"text " * 500)]
    archive = io.BytesIO()
    write_archive(files, archive)
    whole = archive.getvalue()
    at = chance.randrange(len(whole))
    cut, changed = whole[:at], whole[:at] + bytes((whole[at] ^ 0x55,)) + whole[at + 1 :]
    with pytest.raises(Damaged):
        unpack(io.BytesIO(cut), str(tmp_path / "cut"))
    wanted = unpack(io.BytesIO(whole), str(tmp_path / "whole"))
    try:
        assert unpack(io.BytesIO(changed), str(tmp_path / "changed")) == wanted or at < 10  # gzip's own header
    except Damaged:
        pass


def _link(tar: tarfile.TarFile) -> None:
    info = tarfile.TarInfo("link")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc"
    tar.addfile(info)


def _named(name: str) -> Callable[[tarfile.TarFile], None]:
    def add(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))

    return add


@pytest.mark.parametrize("add", [_link, _named("../out"), _named("/out"), _named("a/../../out")])
def test_what_would_leave_the_folder_is_refused(tmp_path: Path, add: Callable[[tarfile.TarFile], None]) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        add(tar)
    with pytest.raises(Damaged, match=r"leave the folder|neither a file nor a folder"):
        unpack(io.BytesIO(raw.getvalue()), str(tmp_path / "t" / "u"))
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_an_archive_that_grows_a_thousandfold_takes_no_more_memory(tmp_path: Path) -> None:
    """Seen red with pieces that were inflated whole."""
    raw = io.BytesIO()
    with gzip.GzipFile(fileobj=raw, mode="wb") as zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
        info = tarfile.TarInfo("zeros")
        info.size = 200 << 20
        tar.addfile(info, io.BytesIO(bytes(info.size)))
    content = raw.getvalue()
    tracemalloc.start()
    try:
        unpack(io.BytesIO(content), str(tmp_path / "t"))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert (tmp_path / "t" / "zeros").stat().st_size == 200 << 20
