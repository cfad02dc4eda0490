"""The rules of a machine's ledger, as a table; and what is no ledger."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from falplan.runner import ledger
from falplan.runner.ledger import Turn, load
from falplan.runner.rules import Refusal, check_exclusive, check_fence, check_room, judge_claim, left_by

HERE, COPY = "/data/a", "/data/b"
OLD, NEW = {"pid": 10, "start": "1", "boot_id": "b"}, {"pid": 20, "start": "2", "boot_id": "b"}


def a_claim(**values: Any) -> dict[str, Any]:
    """A claim of lineage `l` by control plane `cp-1`, epoch 5, from a process that is over."""
    base = {"lineage": "l", "control_plane": "cp-1", "epoch": 5, "home": HERE, "project": "demo", "user": "ann"}
    more = {"host": "box", "process": OLD, "since": 1.0, "shared": True, "confirmed": 5, "left": []}
    return {**base, **more, **values}


def asking(**values: Any) -> dict[str, Any]:
    """The same control plane, started anew, with the epoch that its database holds."""
    return a_claim(process=NEW, **values)


TAKEN: dict[str, tuple[dict[str, Any] | None, dict[str, Any], str, tuple[int, bool, str]]] = {
    "nobody has it": (None, asking(epoch=1), "", (1, False, "")),
    "its own earlier start": (a_claim(), asking(), "", (6, False, "")),
    "the answer was lost, and the call is repeated": (a_claim(process=NEW, epoch=6), asking(), "", (6, False, "")),
    "an epoch was given and never used": (a_claim(epoch=6, confirmed=5), asking(), "", (7, False, "")),
    "the database is older than what acted": (a_claim(), asking(epoch=3), "", (6, True, "")),
    "the database is newer than the claim": (a_claim(), asking(epoch=9), "", (10, False, "")),
    "a copy": (a_claim(), asking(home=COPY), "", (6, False, "")),
    "a copy of an older backup": (a_claim(), asking(home=COPY, epoch=2), "", (6, True, "")),
    "the copy again": (a_claim(home=COPY, left=[HERE], epoch=6), asking(home=COPY, epoch=6), "", (7, False, "")),
    "the copy moved back": (a_claim(home=COPY, left=[HERE], epoch=6), asking(epoch=6), "", (7, False, "")),
    "another one that replaces it": (a_claim(), asking(control_plane="cp-2", epoch=1), "cp-1", (6, False, "cp-1")),
}


@pytest.mark.parametrize("name", TAKEN)
def test_a_claim_is_taken_with_a_higher_epoch(name: str) -> None:
    found, asked, replaces, (epoch, rolled_back, replaced) = TAKEN[name]
    taken = judge_claim(found, asked, lives=False, retired={}, replaces=replaces)

    assert taken == {"epoch": epoch, "rolled_back": rolled_back, "replaced": replaced}


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], bool, dict[str, str], str, str]] = {
    "it lives": (a_claim(), asking(), True, {}, "", "It runs: control plane cp-1 of project demo"),
    "it lives, and is to be replaced": (a_claim(), asking(control_plane="cp-2"), True, {}, "cp-1", "pid 10 on box"),
    "a copy while it lives": (a_claim(), asking(home=COPY), True, {}, "", "data in /data/a"),
    "the original after its copy acted": (
        a_claim(home=COPY, left=[HERE], epoch=6),
        asking(),
        False,
        {},
        "",
        "A copy of it at /data/b acted since",
    ),
    "another one": (a_claim(), asking(control_plane="cp-2"), False, {}, "", "cp-1"),
    "another one that replaces a third": (a_claim(), asking(control_plane="cp-2"), False, {}, "cp-3", "cp-1"),
    "one that was replaced": (
        a_claim(control_plane="cp-2"),
        asking(),
        False,
        {"cp-1": "cp-2"},
        "cp-2",
        "cp-1 was replaced by cp-2",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_claim_of_somebody_else_is_refused_with_its_owner(name: str) -> None:
    """Seen red with rules that asked for the epoch alone: the original came back after its copy had acted."""
    found, asked, lives, retired, replaces, says = REFUSED[name]
    with pytest.raises(Refusal, match=says) as refused:
        judge_claim(found, asked, lives=lives, retired=retired, replaces=replaces)

    assert (refused.value.kind, refused.value.owner) == ("claimed", found)


def test_a_retired_one_never_gets_an_empty_machine_either() -> None:
    with pytest.raises(Refusal, match="was replaced by cp-2"):
        judge_claim(None, asking(), lives=False, retired={"cp-1": "cp-2"}, replaces="")


def test_a_copy_remembers_where_it_was_copied_from() -> None:
    assert left_by(a_claim(), asking(home=COPY)) == [HERE]
    assert left_by(a_claim(home=COPY, left=[HERE]), asking()) == [COPY]
    assert left_by(a_claim(), asking()) == left_by(a_claim(), asking(control_plane="cp-2")) == []


@pytest.mark.parametrize(("mine", "theirs"), [(False, False), (True, False), (False, True)])
def test_a_machine_that_is_not_shared_belongs_to_one_lineage(mine: bool, theirs: bool) -> None:
    other = a_claim(lineage="other", shared=theirs)
    with pytest.raises(Refusal, match=r"belongs to another lineage: .* of project demo"):
        check_exclusive({"other": other}, asking(shared=mine))
    check_exclusive({"other": a_claim(lineage="other")}, asking())
    check_exclusive({"l": a_claim(shared=False)}, asking(shared=False))


def test_only_the_newest_epoch_may_act() -> None:
    claims = {"l": a_claim()}
    check_fence(claims, {"lineage": "l", "control_plane": "cp-1", "epoch": 5})
    for fence in ({"epoch": 4}, {"epoch": 6}, {"control_plane": "cp-2"}, {"lineage": "gone"}):
        with pytest.raises(Refusal) as refused:
            check_fence(claims, {"lineage": "l", "control_plane": "cp-1", "epoch": 5, **fence})
        assert refused.value.kind == "fenced"


def an_entry(**values: Any) -> dict[str, Any]:
    return {"project": "other", "lineage": "o", "vcpu": 1.0, "ram": 600, "gpus": [0, 1], **values}


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"gpus": [1, 2]}, r"GPU 1 is taken by project other \(lineage o\)"),
        ({"ram": 401}, r"401 bytes of RAM, 400 are free beside those of project other \(lineage o\)"),
        ({"vcpu": 1.5, "strict": True}, "it needs 1.5 vCPU, 1 are free"),
        ({"vcpu": 1.5, "strict": False}, None),
        ({"gpus": [2], "ram": 400}, None),
    ],
)
def test_a_runner_has_to_fit_beside_those_of_others(wanted: dict[str, Any], says: str | None) -> None:
    machine = {"vcpu": 2.0, "ram": 1000, "strict": wanted.pop("strict", False)}
    whole = {"vcpu": 0.5, "ram": 100, "gpus": [], "machine": machine, **wanted}
    if says is None:
        return check_room(whole, [an_entry()])
    with pytest.raises(Refusal, match=says):
        check_room(whole, [an_entry()])
    return None


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A ledger's folder that is not there yet."""
    monkeypatch.setenv("FALPLAN_MACHINE_DIR", str(tmp_path / "machine"))
    return tmp_path / "machine"


def test_the_folder_is_private_from_the_first_moment_on(folder: Path) -> None:
    with Turn() as turn:
        turn.save()

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {p.name: stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()} == {
        "ledger.json": 0o600,
        "ledger.lock": 0o600,
    }


def test_a_folder_that_others_can_enter_or_that_is_a_link_is_refused(folder: Path, tmp_path: Path) -> None:
    """Seen red with a ledger that took whatever folder it found."""
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(Refusal, match="others may enter it"), Turn():
        pass
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refusal, match="or a link"), Turn():
        pass
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder of somebody else")
def test_a_folder_of_another_user_is_refused(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, -1)

    with pytest.raises(Refusal, match="belongs to user 12345"), Turn():
        pass


WHOLE = ledger.empty()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (json.dumps(WHOLE)[:40], "it is not whole JSON"),
        ("", "it is not whole JSON"),
        ("[]", "falplan did not write it"),
        ('{"claims": {}}', "falplan did not write it"),
        (json.dumps({**WHOLE, "version": 2}), "it is version 2; this falplan knows version 1"),
        (json.dumps({**WHOLE, "claims": []}), "parts of it are missing"),
        (json.dumps({**WHOLE, "claims": {"l": {"lineage": "l"}}}), "parts of it are missing"),
        (json.dumps({**WHOLE, "reservations": {"f": 3}}), "parts of it are missing"),
    ],
)
def test_what_is_no_ledger_is_refused_by_name_and_left_as_it_is(folder: Path, content: str, says: str) -> None:
    """Seen red with a ledger that began anew with what it could not read: other projects' runners were forgotten."""
    folder.mkdir(mode=0o700)
    path = folder / "ledger.json"
    path.write_text(content)
    with pytest.raises(Refusal, match=f"ledger.json: {says}") as refused:
        load(str(folder))

    assert refused.value.kind == "unreadable"
    assert path.read_text() == content


COMERS = """
import os, sys
from falplan.runner.ledger import Turn
folder, name = sys.argv[1:]
for number in range(300):
    with Turn(folder) as turn:
        inside = os.open(folder + ".inside", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        turn.body["claims"][name] = {k: "" for k in %r}
        turn.save()
        os.close(inside)
        os.unlink(folder + ".inside")
    with Turn(folder) as turn:
        assert name in turn.body["claims"], "somebody took the ledger away with a claim in it"
        del turn.body["claims"][name]
        turn.save_or_vanish()
"""


def test_an_empty_ledger_is_taken_away_and_never_with_somebody_inside(folder: Path) -> None:
    """Seen red with a turn that takes the lock of a file that was unlinked meanwhile: two were inside at once."""
    code = COMERS % (ledger.CLAIM_KEYS,)
    comers = [
        subprocess.Popen([sys.executable, "-c", code, str(folder), f"l{n}"], stderr=subprocess.PIPE, text=True)
        for n in range(4)
    ]
    said = [comer.communicate(timeout=120)[1] for comer in comers]

    assert said == [""] * 4
    assert not folder.exists()
