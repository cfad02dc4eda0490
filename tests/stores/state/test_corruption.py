"""A state on a disk that changed its bytes: it is what it was, or it is refused and left alone. Never something else."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from falplan.cli import apply as apply_module
from falplan.cli import plan as plan_module
from falplan.core.errors import ExitCode
from falplan.core.state import Recorded, State, StateUnreadable, replay
from falplan.stores.state.local import LocalState
from tests.cli.spec_commands import run
from tests.core.builders import a_build, a_gateway, a_state
from tests.stores.state.worker import entry

SEALED: State = a_state(a_gateway(), a_build("a"), a_build("b"))
ENTRIES = [entry("app.main.c"), entry("app.main.d"), entry("app.main.e")]


def flip(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :]


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def emptied(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + b"\0" * (len(content) - place)


def lost(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content) - 1)
    return content[:place] + content[place + rng.randint(1, 40) :]


def twice(content: bytes, rng: random.Random) -> bytes:
    first = rng.randrange(len(content) - 1)
    last = rng.randint(first + 1, len(content))
    return content[:last] + content[first:last] + content[last:]


DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (flip, flip, flip, flip, cut, emptied, lost, twice)


@pytest.fixture
def store(tmp_path: Path) -> LocalState:
    store = LocalState(tmp_path / ".falplan")
    base = store.save(SEALED)
    for each in ENTRIES:
        store.append(base, each)
    return store


def allowed(store: LocalState) -> list[dict[str, Recorded]]:
    """What the state may be: all of it; or, where the journal's end is cut off, as it was before the last entries."""
    base = store.read("demo")
    assert base is not None
    return [dict(replay(SEALED, ENTRIES[:count]).resources) for count in range(len(ENTRIES) + 1)]


@pytest.mark.parametrize("times", [1000, pytest.param(10_000, marks=pytest.mark.faults)])
def test_whatever_becomes_of_its_bytes_it_is_what_it_was_or_refused(store: LocalState, times: int) -> None:
    """Seen red with a damaged head of the journal that counted as no journal, with one that named an older snapshot, and with a damaged
    last line that counted as never written.
    """
    rng = random.Random(times)
    whole = {path: path.read_bytes() for path in (store.path, store.journal)}
    states = allowed(store)
    refused = 0
    for number in range(times):
        path = rng.choice(list(whole))
        damage = rng.choice(DAMAGES)
        content = damage(whole[path], rng)
        path.write_bytes(content)
        # The end of the file is gone: what was being written as the power went looks the same.
        shortened = path == store.journal and not content.endswith(b"\n")
        prefixes = path == store.journal and (shortened or damage in (cut, lost))
        try:
            found = store.read("demo")
        except StateUnreadable as exc:
            refused += 1
            assert "backups" in str(exc), exc
            assert path.read_bytes() == content
        else:
            assert found is not None, (number, damage.__name__)
            known = dict(found.resources)
            assert known in (states if prefixes else states[-1:]), (number, damage.__name__, path.name, sorted(known))
        path.write_bytes(whole[path])

    assert refused > times // 2
    assert dict(store.read("demo").resources) == states[-1]  # type: ignore[union-attr]


def test_an_empty_file_is_no_empty_state(store: LocalState) -> None:
    store.path.write_bytes(b"")

    with pytest.raises(StateUnreadable, match="backups"):
        store.read("demo")


def test_a_journals_head_from_before_there_were_checksums_is_read(store: LocalState) -> None:
    head, _, rest = store.journal.read_bytes().partition(b"\n")
    store.journal.write_bytes(head.partition(b', "checksum"')[0] + b"}\n" + rest)

    assert dict(store.read("demo").resources) == dict(replay(SEALED, ENTRIES).resources)  # type: ignore[union-attr]


def test_commands_refuse_it_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "falplan.yaml").write_text("version: 1\nproject: demo\napps: {a: {command: serve, files: [a.py]}}\n")
    (tmp_path / "a.py").write_text("")
    store = LocalState(tmp_path / ".falplan")
    base = store.save(SEALED)
    store.append(base, ENTRIES[0])
    rng = random.Random(1)
    for path in (store.path, store.journal):
        whole = path.read_bytes()
        path.write_bytes(flip(whole[:40], rng) + whole[40:])
        ran = run(plan_module.command, tmp_path, environ={"HOME": str(tmp_path)})

        assert isinstance(ran.exception, StateUnreadable), (path, ran.exception)
        assert ran.exception.exit_code is ExitCode.REFUSED
        assert "backups" in ran.exception.detail
        path.write_bytes(whole)


def test_a_newer_format_is_refused_by_name_and_not_a_byte_is_changed(tmp_path: Path) -> None:
    (tmp_path / "falplan.yaml").write_text("version: 1\nproject: demo\napps: {a: {command: serve, files: [a.py]}}\n")
    (tmp_path / "a.py").write_text("")
    store = LocalState(tmp_path / ".falplan")
    store.save(SEALED)
    body = json.loads(store.path.read_text())
    for newer in (1, 2, 100):
        store.path.write_text(
            json.dumps({**body, "format_version": body["format_version"] + newer, "falplan_version": "9.1"})
        )
        before = store.path.read_bytes()
        for command, arguments in ((plan_module.command, ()), (apply_module.command, ("--auto-approve",))):
            ran = run(command, tmp_path, *arguments, environ={"HOME": str(tmp_path)})
            assert isinstance(ran.exception, StateUnreadable)
            assert "written by falplan 9.1" in ran.exception.detail
        assert store.path.read_bytes() == before
        assert store.backups() == []
