"""Files of saved plans: nothing but what was signed under the project's key is read, however it was changed."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falplan.core.errors import FalplanError, Refused
from falplan.core.state import StateUnreadable
from falplan.core.values import JsonObject
from falplan.stores.plan_file import is_plan, plan_bytes, plan_of, read_plan, variables_in, write_plan
from falplan.stores.project_key import Keyring, ProjectKey
from falplan.stores.state.seal import NoSeal

KEY, OLD, OTHERS = (ProjectKey.of(bytes([n]) * 32) for n in (1, 2, 3))
KEYS = Keyring((KEY, OLD))
BODY: JsonObject = {"binding": {"variables": ["tag=v2"], "variable_files": ["a.yaml"]}, "plan": {"text": "ü" * 40}}
FILE = plan_bytes(BODY, 7, KEY, NoSeal())


def read(content: bytes, keys: Keyring | None = KEYS) -> JsonObject:
    return plan_of(content, "p", keys, NoSeal())


def test_what_was_written_is_read_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_bytes(b"something older")
    path.chmod(0o644)
    write_plan(path, BODY, 7, KEY, NoSeal())

    assert read_plan(path, KEYS, NoSeal()) == BODY
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["p"]
    assert is_plan(path)
    assert variables_in(path.read_bytes()) == (("tag=v2",), ("a.yaml",))


def test_a_key_that_was_renewed_still_vouches_for_its_plans() -> None:
    assert read(plan_bytes(BODY, 7, OLD, NoSeal())) == BODY


def head(version: bytes = b"1", key: bytes = KEY.key_id.encode(), size: bytes = b"", mac: bytes = b"") -> bytes:
    real_size, real_mac = FILE.partition(b"\n")[0].split(b" ")[3:]
    return b" ".join([b"falplan-plan", version, key, size or real_size, mac or real_mac])


PAYLOAD = FILE.partition(b"\n")[2]
MUTATIONS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a value edited": (lambda: FILE.replace(b"tag=v2", b"tag=v3"), "It was edited after it was signed"),
    "unsigned": (lambda: PAYLOAD, "It is not signed"),
    "signed by others": (lambda: plan_bytes(BODY, 7, OTHERS, NoSeal()), f"It is signed with key {OTHERS.key_id}; this project has"),
    "signed by others, under our key's name": (
        lambda: plan_bytes(BODY, 7, OTHERS, NoSeal()).replace(OTHERS.key_id.encode(), KEY.key_id.encode()),
        "It was edited",
    ),
    "our older key's name": (lambda: head(key=OLD.key_id.encode()) + b"\n" + PAYLOAD, "It was edited"),
    "half-written": (lambda: FILE[: len(FILE) // 2], "It is half-written"),
    "half-written, with a size that fits": (
        lambda: head(size=str(len(PAYLOAD) - 5).encode()) + b"\n" + PAYLOAD[:-5],
        "It was edited",
    ),
    "something behind it": (lambda: FILE + b"\n", "It was edited"),
    "newer": (lambda: head(version=b"2") + b"\n" + PAYLOAD, "It has format 2; falplan"),
    "older": (lambda: head(version=b"0") + b"\n" + PAYLOAD, "It was edited"),
    "no first line": (lambda: head(), "Its first line is cut short"),
    "empty": (lambda: b"", "It is not a saved plan"),
    "a signature in capitals": (lambda: head(mac=head()[-64:].upper()) + b"\n" + PAYLOAD, "Its first line is cut short or was edited"),
    "something else": (lambda: b"PK\x03\x04" + PAYLOAD, "It is not a saved plan"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutated_plan_is_refused_by_name(name: str) -> None:
    """Seen red without the comparison of signatures, without the size, and with a signature that leaves the first line out."""
    make, said = MUTATIONS[name]
    with pytest.raises(Refused) as caught:
        read(make())

    assert said in caught.value.detail
    assert "Nothing was changed." in caught.value.detail


def test_without_a_key_nothing_is_believed() -> None:
    with pytest.raises(Refused, match="this project has none here"):
        read(FILE, None)


def test_a_thousand_flips_and_cuts_are_refused() -> None:
    """Every bit that is flipped anywhere, and every length that it is cut to. Seen red with a signature over the plan alone."""
    dice = random.Random(20)
    refused = 0
    for _ in range(700):
        at, bit = dice.randrange(len(FILE)), 1 << dice.randrange(8)
        refused += is_refused(FILE[:at] + bytes([FILE[at] ^ bit]) + FILE[at + 1 :])
    for _ in range(300):
        refused += is_refused(FILE[: dice.randrange(len(FILE))])

    assert refused == 1000


def test_each_byte_of_the_first_line_counts() -> None:
    first = FILE.index(b"\n") + 1
    changed = (FILE[:at] + bytes([b]) + FILE[at + 1 :] for at in range(first) for b in range(256) if b != FILE[at])

    assert all(is_refused(content) for content in changed)


def is_refused(content: bytes) -> bool:
    try:
        read(content)
    except Refused:
        return True
    return False


@given(st.binary(max_size=200), st.integers(0, len(FILE)), st.integers(0, 40))
@settings(max_examples=300)
def test_whatever_is_put_into_it_it_is_refused_and_nothing_else_happens(inserted: bytes, at: int, dropped: int) -> None:
    content = FILE[:at] + inserted + FILE[at + dropped :]

    assert content == FILE or is_refused(content)
    assert len(variables_in(content)) == 2  # whatever it finds, it fails at nothing


class Turned:
    """A seal that anybody can see through, and that says what it was asked."""

    def prepare(self) -> None:
        return

    def seal(self, plain: bytes, *, kind: str, serial: int) -> bytes:
        return base64.b64encode(f"{kind} {serial} ".encode() + plain)

    def open(self, sealed: bytes, *, kind: str, serial: int | None) -> bytes:
        begins, _, plain = base64.b64decode(sealed).partition(b" ")
        if begins != kind.encode():
            raise StateUnreadable("Sealed for another place")
        return plain.partition(b" ")[2]


def test_a_sealed_plan_is_signed_as_it_is_stored_and_shows_nothing() -> None:
    content = plan_bytes(BODY, 7, KEY, Turned())

    assert plan_of(content, "p", KEYS, Turned()) == BODY
    assert b"tag=v2" not in content
    assert variables_in(content) == ((), ())
    with pytest.raises(Refused):
        plan_of(content, "p", KEYS, NoSeal())


def test_a_folder_that_takes_no_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FalplanError, match="can't be saved"):
        write_plan(tmp_path / "nowhere" / "p", BODY, 7, KEY, NoSeal())
