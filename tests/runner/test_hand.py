"""Falplan's hand by itself: what it makes of a connection that ends early, and of what others do beside it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import queue
import shutil
import subprocess
import sys
import tarfile
import threading
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from typing import Any

import psutil
import pytest

from falplan.runner import hand, placing
from falplan.runner.commands import Kept
from falplan.runner.placing import seal
from falplan.sdk.ssh.link import LOADER, TELL, TOLD, program_of
from falplan.sdk.trees import TreeFile, write_archive
from tests.runner.machine import until


def serve(*requests: dict[str, Any]) -> bytes:
    """Start a hand that gets these requests, and the end of its connection right behind them. Returns what it says."""
    frames = b""
    for number, request in enumerate(requests):
        body = json.dumps({"id": number, **request}).encode()
        frames += hand.HEAD.pack(len(body), 0) + body
    argv = [sys.executable, "-I", "-S", "-u", "-c", LOADER]
    return subprocess.run(argv, input=program_of() + frames, stdout=subprocess.PIPE, timeout=30, check=True).stdout


def a_run(script: str, **more: Any) -> dict[str, Any]:
    return {"do": "run", "argv": ["sh", "-c", script], "env": {}, "timeout": 20, "stream": False, **more}


def test_a_job_that_arrives_as_the_connection_ends_is_done(tmp_path: Path) -> None:
    serve(a_run(f"sleep 0.1; echo x >> {tmp_path}/count", job=f"{tmp_path}/jobs/a"))

    assert (tmp_path / "count").read_text() == "x\n"
    assert json.loads((tmp_path / "jobs/a/end").read_text())["code"] == 0


def test_a_job_is_forgotten_though_the_connection_ends_right_behind(tmp_path: Path) -> None:
    job = f"{tmp_path}/jobs/a"
    for _ in range(5):
        serve(a_run("true", job=job))
        serve({"do": "forget", "jobs": [job]})

        assert not (tmp_path / "jobs").exists()


def test_a_command_that_is_no_job_does_not_outlive_its_connection(tmp_path: Path) -> None:
    for _ in range(10):
        serve(a_run(f"exec 1>&- 2>&-; sleep 60; : {tmp_path}"))

    until(lambda: not _naming(tmp_path), 5)


def _naming(folder: Path) -> list[int]:
    """Pids of the processes in whose command line this stands."""
    lines = ((p.pid, p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"]))
    return [pid for pid, line in lines if any(f": {folder}" in word for word in line)]


def test_a_job_begins_though_the_folder_of_jobs_is_removed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, times = tmp_path / "jobs", 0

    def forgotten(folder: str) -> None:
        nonlocal times
        times += 1
        if times == 1:
            shutil.rmtree(folder)

    monkeypatch.setattr(hand, "clear_jobs", forgotten)

    assert hand.begin(f"{base}/a") and not hand.begin(f"{base}/a")


@pytest.mark.parametrize("there", [False, True])
def test_nothing_is_left_of_an_upload_that_is_not_needed_or_has_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    def full(folder: str, size: int) -> None:
        raise OSError(28, "full", folder)

    monkeypatch.setattr(hand, "check_space", full)
    target, partial = tmp_path / "t", tmp_path / f"{placing.PART}upload-{'a' * 32}"
    partial.write_bytes(b"begun")
    if there:
        target.mkdir()
    header = {"id": 1, "folder": str(target), "size": 10, "digest": "a" * 64}
    connection = hand.Hand(None, None)
    if there:
        assert hand.put(connection, header, b"") == ({"there": True}, b"")
    else:
        with pytest.raises(OSError, match="full"):
            hand.put(connection, header, b"")

    assert not partial.exists()


def test_an_upload_of_which_nothing_comes_any_more_gives_way_to_another_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that lost its network says no good-bye, and the system may take hours to notice."""
    monkeypatch.setattr(hand, "QUIET", 0.2)
    content, digest = _one_file(b"content")
    header = {"id": 1, "folder": str(tmp_path / "t"), "size": len(content), "digest": digest}
    first, second = _uploading(content[:10]), _uploading(content[10:])
    with pytest.raises(hand.Answered, match="cut"):
        hand.put(first, header, b"")
    hand.put(second, header, b"")

    assert (tmp_path / "t" / "a").read_bytes() == b"content"
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def _uploading(content: bytes) -> hand.Hand:
    """A connection by which this much of an upload has come."""
    connection = hand.Hand(None, io.BytesIO())
    connection.open[1] = queue.Queue()
    connection.open[1].put(content)
    return connection


@pytest.mark.parametrize("what", ["another tree", "no archive", "an end that is missing", "more behind it"])
def test_an_upload_that_is_not_what_it_should_be_is_refused_and_nothing_of_it_kept(tmp_path: Path, what: str) -> None:
    content, digest = _one_file(b"other" if what == "another tree" else b"content")
    digest = _one_file(b"content")[1]
    content = {
        "no archive": b"x" * 100,
        "an end that is missing": content[:-12],
        "more behind it": content + b"more",
    }.get(what, content)
    header = {"id": 1, "folder": str(tmp_path / "t"), "size": len(content), "digest": digest}
    if what == "more behind it":  # nobody unpacks that
        hand.put(_uploading(content), header, b"")
        assert [path.name for path in tmp_path.iterdir()] == ["t"]
        return
    with pytest.raises(placing.Damaged):
        hand.put(_uploading(content), header, b"")

    assert list(tmp_path.iterdir()) == []


def test_an_upload_that_goes_on_behind_a_part_of_something_else_comes_again_whole(tmp_path: Path) -> None:
    """A power cut may leave zeros; and the same tree is another archive where it is compressed by another zlib."""
    content, digest = _one_file(b"content")
    header = {"id": 1, "folder": str(tmp_path / "t"), "size": len(content), "digest": digest}
    (tmp_path / f"{placing.PART}upload-{digest[:32]}").write_bytes(bytes(10))
    with pytest.raises(hand.Answered, match="cut"):
        hand.put(_uploading(content[10:]), header, b"")
    assert list(tmp_path.iterdir()) == []
    hand.put(_uploading(content), header, b"")

    assert (tmp_path / "t" / "a").read_bytes() == b"content"


def _one_file(content: bytes) -> tuple[bytes, str]:
    """An archive with this file, and the digest of its tree."""
    archive = io.BytesIO()
    write_archive([TreeFile("a", content)], archive)
    return archive.getvalue(), seal({"a": hashlib.sha256(content).hexdigest()})


def test_an_upload_is_unpacked_while_it_comes(tmp_path: Path) -> None:
    """Seen red with one that was unpacked once it was whole: its end then waits for all of that."""
    archive, first = io.BytesIO(), os.urandom(1 << 20)
    write_archive([TreeFile("a", first), TreeFile("b", os.urandom(1 << 20))], archive)
    content = archive.getvalue()
    hashes = {name: hashlib.sha256(body).hexdigest() for name, body in _files_of(content).items()}
    header = {"id": 1, "folder": str(tmp_path / "t"), "size": len(content), "digest": seal(hashes)}
    connection = _uploading(content[: 3 << 19])
    worker = threading.Thread(target=hand.put, args=(connection, header, b""))
    worker.start()
    until(lambda: [p for p in tmp_path.glob(".part-*/tree/a") if p.stat().st_size == len(first)], 10)
    connection.open[1].put(content[3 << 19 :])
    worker.join(10)

    assert (tmp_path / "t" / "a").read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def _files_of(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]  # all of them are files


def test_a_connection_compiles_no_more_than_it_needs() -> None:
    """Seen red with modules that were all begun at once: half of what a connection costs the host."""
    loaded = 'import sys; print(sorted({"tarfile", "subprocess", "platform"} & set(sys.modules)))'
    body = json.dumps({"id": 1, "do": "hello"}).encode()
    frames = hand.HEAD.pack(len(body), 0) + body
    at_the_end = LOADER.replace(TELL, "").replace(
        "[k].main()", f'["hand"].Hand(r,open(1,"wb",closefd=False)).serve();{loaded}'
    )
    assert at_the_end != LOADER
    argv = [sys.executable, "-I", "-S", "-u", "-c", at_the_end]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(program_of() + frames)
        process.stdin.flush()
        size, more = hand.HEAD.unpack(process.stdout.read(hand.HEAD.size))
        answer = process.stdout.read(size + more)  # before the end of the connection, which waits for no answer
        said, _ = process.communicate(timeout=30)

    assert b'"boot_id"' in answer and said == b"[]\n"


@pytest.mark.parametrize("compiled", [True, False])
def test_a_program_is_what_its_python_takes(compiled: bool, tmp_path: Path) -> None:
    body = json.dumps({"id": 1, "do": "ask", "request": {"verb": "observe", "root": str(tmp_path)}}).encode()
    magic = MAGIC_NUMBER if compiled else b"another"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-u", "-c", LOADER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        told = TOLD.match(process.stdout.read(len(b"\0falplan-python 01234567\0")))
        process.stdin.write(program_of((), magic) + hand.HEAD.pack(len(body), 0) + body)
        process.stdin.flush()
        assert process.stdout.read(len(hand.READY)) == hand.READY
        size, _ = hand.HEAD.unpack(process.stdout.read(hand.HEAD.size))
        answer = json.loads(process.stdout.read(size))

    assert told is not None and bytes.fromhex(told[1].decode()) == MAGIC_NUMBER
    assert program_of((), magic)[:1] == (b"c" if compiled else b"s")
    assert answer == {"id": 1, "ok": {"ok": []}}


def test_what_is_kept_of_a_stream_is_its_beginning_and_its_end() -> None:
    kept = Kept(limit=8)
    for byte in b"0123456789abcdef":
        kept.add(bytes([byte]))

    assert kept.content() == b"0123\n[8 bytes left out]\ncdef"
