"""State and plans at rest: opened by the right key at the right place, and by nothing else."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falplan.core.errors import ExitCode, FalplanError, Refused
from falplan.core.state import StateUnreadable, render_state
from falplan.stores.encryption import EncryptedSeal, KeyNotHere, seal_for
from falplan.stores.encryption_keys import KmsKey, PassphraseKey, ProjectsKey, VariableKey, _Derived
from falplan.stores.project_key import ProjectKeys
from falplan.stores.state.seal import NoSeal
from tests.core.builders import LINEAGE, a_state, an_app

KEY = base64.b64encode(bytes(range(32))).decode()
OTHER = base64.b64encode(bytes(range(1, 33))).decode()
PASSPHRASE = "correct horse battery staple"
PLAIN = render_state(a_state(an_app())).encode()


def by_variable(key: str = KEY, **changed: Any) -> EncryptedSeal:
    return EncryptedSeal("demo", VariableKey("STATE_KEY", {"STATE_KEY": key}), **changed)


SEALED = by_variable().seal(PLAIN, kind="state", serial=1)


def refused(seal: EncryptedSeal, sealed: bytes, kind: str = "state", serial: int | None = None) -> FalplanError:
    with pytest.raises(FalplanError) as caught:
        seal.open(sealed, kind=kind, serial=serial)
    return caught.value


def test_what_is_sealed_is_opened_and_nothing_of_it_can_be_read() -> None:
    again = by_variable().seal(PLAIN, kind="state", serial=1)

    assert by_variable().open(SEALED, kind="state", serial=1) == PLAIN
    assert b"app.main.hello" not in SEALED
    assert again != SEALED
    assert b"\n" not in SEALED  # one line of a journal


def test_what_it_belongs_to_stands_in_clear() -> None:
    meta = json.loads(SEALED)["meta"]

    assert {k: meta[k] for k in ("project", "environment", "lineage", "serial", "kind")} == {
        "project": "demo",
        "environment": "",
        "lineage": LINEAGE,
        "serial": 1,
        "kind": "state",
    }
    assert meta["key"]["provider"] == "env"
    assert re.fullmatch("[0-9a-f]{8}", meta["key"]["key_id"])


@pytest.mark.parametrize(
    ("seal", "kind", "serial", "says"),
    [
        (replace(by_variable(), project="other"), "state", 1, "project demo and not other"),
        (by_variable(environment="staging"), "state", 1, "environment (all) and not staging"),
        (by_variable(), "state", 2, "serial 1 and not 2"),
        (by_variable(), "journal/1", 1, "kind state and not journal/1"),
        (by_variable(lineage="another"), "plan", 1, f"lineage {LINEAGE} and not another, kind state and not plan"),
    ],
)
def test_it_is_good_at_one_place_alone(seal: EncryptedSeal, kind: str, serial: int, says: str) -> None:
    """Seen red without the comparison: the state of another project was opened."""
    error = refused(seal, SEALED, kind, serial)

    assert says in error.detail
    assert error.exit_code == ExitCode.REFUSED


@pytest.mark.parametrize("field", ["project", "environment", "lineage", "serial", "kind"])
def test_where_it_belongs_can_not_be_rewritten(field: str) -> None:
    """Seen red without associated data: a rewritten serial was believed."""
    body = json.loads(SEALED)
    body["meta"][field] = {"serial": 7, "kind": "plan"}.get(field, "other")
    moved = json.dumps(body, separators=(",", ":")).encode()
    meta = body["meta"]
    seal = by_variable(environment=meta["environment"])
    seal.project = meta["project"]

    error = refused(seal, moved, meta["kind"])

    assert "its seal does not hold" in error.detail


@settings(max_examples=400)
@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_no_byte_of_it_can_be_changed(at: int, by: int) -> None:
    """Seen red without the comparison with what would be rendered: the last base64 digit has bits that decode to nothing."""
    damaged = bytearray(SEALED)
    damaged[at] ^= by

    assert isinstance(refused(by_variable(), bytes(damaged), serial=1), StateUnreadable | KeyNotHere)


@settings(max_examples=200)
@given(st.data())
def test_no_part_of_it_can_be_cut_out_or_put_in(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(SEALED) - 1))
    end = data.draw(st.integers(start, len(SEALED)))
    middle = data.draw(st.binary(max_size=20).filter(lambda b: b != SEALED[start:end]))
    damaged = SEALED[:start] + middle + SEALED[end:]
    if damaged.strip():
        assert isinstance(refused(by_variable(), damaged, serial=1), StateUnreadable | KeyNotHere)


@settings(max_examples=25)
@given(st.integers(0, 400), st.integers(1, 255))
def test_what_is_told_of_a_passphrase_can_not_be_changed(at: int, by: int) -> None:
    """The parameters are read before anything vouches for them: none may make falplan work for hours or end in a traceback."""
    seal = by_passphrase({"env": "WORDS"}, Path(), {"WORDS": PASSPHRASE})
    damaged = bytearray(_BY_PASSPHRASE)
    damaged[at] ^= by

    assert isinstance(refused(seal, bytes(damaged)), StateUnreadable | KeyNotHere)


def test_a_wrong_key_says_which_is_needed_and_where_it_was_looked_for() -> None:
    error = refused(by_variable(OTHER), SEALED)
    needed = json.loads(SEALED)["meta"]["key"]["key_id"]

    assert error.summary == "The state is encrypted with a key that is not here"
    assert needed in error.detail
    assert "environment variable STATE_KEY: it holds another key" in error.detail
    assert not shows(error, KEY, OTHER)


@pytest.mark.parametrize("text", [None, "", "hunter2hunter2", "aHVudGVyMmh1bnRlcjI=", "\udcff\udcfe"])
def test_what_is_no_key_is_not_shown(text: str | None) -> None:
    source = VariableKey("STATE_KEY", {} if text is None else {"STATE_KEY": text})
    reading = refused(EncryptedSeal("demo", source), SEALED)
    with pytest.raises(Refused) as writing:
        EncryptedSeal("demo", source).prepare()

    for error in (reading, writing.value):
        assert "STATE_KEY" in error.detail
        assert not shows(error, "hunter2", "aHVudGVyMmh1")


def shows(error: FalplanError, *planted: str) -> list[str]:
    """Which of the planted values stand in what a person would see, or in what a traceback would."""
    seen = f"{error!r}{error}{error.__cause__!r}{error.__context__!r}"
    return [value for value in planted if value in seen]


# Switching on, over and off


def test_what_is_in_clear_is_refused_once_encryption_is_on() -> None:
    error = refused(by_variable(), PLAIN)

    assert error.summary == "The state is not encrypted"
    assert "`state.encryption.previous`" in error.detail


def test_it_is_switched_on_over_and_off_without_losing_a_state() -> None:
    on = by_variable(in_clear=True)
    encrypted = on.seal(on.open(PLAIN, kind="state", serial=None), kind="state", serial=2)
    over = EncryptedSeal(
        "demo", VariableKey("NEW", {"NEW": OTHER}), previous=(VariableKey("STATE_KEY", {"STATE_KEY": KEY}),)
    )
    rewritten = over.seal(over.open(encrypted, kind="state", serial=2), kind="state", serial=3)
    off = EncryptedSeal("demo", None, previous=(VariableKey("NEW", {"NEW": OTHER}),))

    assert by_variable().open(encrypted, kind="state", serial=2) == PLAIN
    assert by_variable(OTHER).open(rewritten, kind="state", serial=3) == PLAIN
    assert isinstance(refused(by_variable(), rewritten), KeyNotHere)  # the previous key never writes
    assert off.seal(off.open(rewritten, kind="state", serial=3), kind="state", serial=4) == PLAIN


def test_lines_of_a_journal_belong_to_the_lineage_of_their_snapshot() -> None:
    writer, other = by_variable(), by_variable()
    writer.open(SEALED, kind="state", serial=1)
    line = writer.seal(b"entry", kind="journal/3", serial=1)
    other.seal(PLAIN.replace(LINEAGE.encode(), b"another"), kind="state", serial=1)

    assert json.loads(line)["meta"]["lineage"] == LINEAGE
    assert by_variable().open(line, kind="journal/3", serial=1) == b"entry"
    assert f"lineage {LINEAGE} and not another" in refused(other, line, "journal/3", 1).detail


def test_a_plan_file_is_refused_in_its_own_words() -> None:
    seal = by_variable(environment="staging", lineage=LINEAGE)
    sealed = seal.seal(b"a plan", kind="plan", serial=4)

    assert seal.open(sealed, kind="plan", serial=4) == b"a plan"
    error = refused(by_variable(environment="main", lineage=LINEAGE), sealed, "plan")
    assert (error.summary, type(error)) == ("The plan file is of something else", Refused)
    assert "environment staging and not main" in error.detail


# Passphrases


def by_passphrase(source: Any, folder: Path, environ: dict[str, str], **changed: Any) -> EncryptedSeal:
    return EncryptedSeal("demo", PassphraseKey(source, folder, environ), **changed)


_BY_PASSPHRASE = by_passphrase({"env": "WORDS"}, Path(), {"WORDS": PASSPHRASE}).seal(PLAIN, kind="state", serial=1)


def test_a_passphrase_opens_what_it_sealed_from_file_and_variable(tmp_path: Path) -> None:
    (tmp_path / "words").write_text(PASSPHRASE + "\n")
    by_file = by_passphrase({"file": "words"}, tmp_path, {})

    assert by_file.open(_BY_PASSPHRASE, kind="state", serial=1) == PLAIN
    key = json.loads(_BY_PASSPHRASE)["meta"]["key"]
    assert (key["kdf"], key["n"], key["r"], key["p"]) == ("scrypt", 131072, 8, 1)


def test_a_passphrase_is_derived_once_for_any_number_of_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen red with a salt for each line: one derivation a line."""
    from cryptography.hazmat.primitives.kdf import scrypt

    derived, real = [], scrypt.Scrypt

    def counted(**values: Any) -> Any:
        derived.append(values["salt"])
        return real(**values)

    monkeypatch.setattr(scrypt, "Scrypt", counted)
    monkeypatch.setattr(_Derived, "_keys", {})
    monkeypatch.setattr(_Derived, "_last", {})
    seal = by_passphrase({"env": "WORDS"}, Path(), {"WORDS": PASSPHRASE})
    seal.prepare()
    seal.open(_BY_PASSPHRASE, kind="state", serial=1)
    lines = [seal.seal(b"entry", kind=f"journal/{n}", serial=1) for n in range(200)]
    for n, line in enumerate(lines):
        seal.open(line, kind=f"journal/{n}", serial=1)

    assert len(derived) == 1
    assert len({json.loads(line)["data"] for line in lines}) == 200


@pytest.mark.parametrize(
    ("words", "says"), [("hunter2", "16 characters"), ("another passphrase, long", "it holds another passphrase")]
)
def test_a_passphrase_that_does_not_fit_is_not_shown(words: str, says: str) -> None:
    error = refused(by_passphrase({"env": "WORDS"}, Path(), {"WORDS": words}), _BY_PASSPHRASE)

    assert says in error.detail
    assert not shows(error, words, PASSPHRASE)


@pytest.mark.parametrize(
    "told", [{"n": 2**40}, {"n": 3}, {"r": 0}, {"p": 10**9}, {"salt": "!"}, {"kdf": "md5"}, {"n": None}]
)
def test_parameters_that_no_falplan_writes_are_refused_before_they_are_used(told: dict[str, Any]) -> None:
    body = json.loads(_BY_PASSPHRASE)
    body["meta"]["key"] |= told
    error = refused(
        by_passphrase({"env": "WORDS"}, Path(), {"WORDS": PASSPHRASE}), json.dumps(body, separators=(",", ":")).encode()
    )

    assert "derived" in error.detail


# The project's key


def test_the_projects_key_opens_what_it_sealed_after_it_was_renewed(tmp_path: Path) -> None:
    seal = EncryptedSeal("demo", ProjectsKey(ProjectKeys(tmp_path, {})))
    sealed = seal.seal(PLAIN, kind="state", serial=1)
    ProjectKeys(tmp_path, {}).rotate()
    renewed = EncryptedSeal("demo", ProjectsKey(ProjectKeys(tmp_path, {})))

    assert renewed.open(sealed, kind="state", serial=1) == PLAIN
    assert isinstance(refused(renewed, renewed.seal(PLAIN, kind="state", serial=2), serial=3), StateUnreadable)
    (tmp_path / "project.key").unlink()
    gone = refused(EncryptedSeal("demo", ProjectsKey(ProjectKeys(tmp_path, {}))), sealed)
    assert "there is no project key" in gone.detail
    assert not (tmp_path / "project.key").exists()  # reading makes none


# AWS KMS, as moto's server speaks it


@pytest.fixture(scope="module")
def kms_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = (tmp_path_factory.mktemp("moto") / "log").open("w+")
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"], stdout=log, stderr=log, env={**os.environ}
    )
    try:
        yield _address(server, Path(log.name))
    finally:
        server.kill()
        server.wait()
        log.close()


def _address(server: subprocess.Popen[bytes], log: Path) -> str:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up and server.poll() is None:
        found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
        if found:
            return found[0]
        time.sleep(0.05)
    raise AssertionError(log.read_text())


@pytest.fixture
def kms(kms_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in (("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("NO_PROXY", "127.0.0.1")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    import boto3

    return boto3.Session().client("kms", region_name="us-east-1", endpoint_url=kms_url)


def by_kms(key: str, url: str, **changed: Any) -> EncryptedSeal:
    return EncryptedSeal("demo", KmsKey(key, "demo", "us-east-1", url), **changed)


def test_kms_wraps_one_key_a_run(kms: Any, kms_url: str) -> None:
    arn = kms.create_key()["KeyMetadata"]["Arn"]
    kms.create_alias(AliasName="alias/falplan-state", TargetKeyId=arn)
    seal = by_kms("alias/falplan-state", kms_url)
    sealed = seal.seal(PLAIN, kind="state", serial=1)
    line = seal.seal(b"entry", kind="journal/0", serial=1)
    keys = [json.loads(s)["meta"]["key"] for s in (sealed, line)]
    fresh = by_kms(arn, kms_url)

    assert fresh.open(sealed, kind="state", serial=1) == PLAIN
    assert fresh.open(line, kind="journal/0", serial=1) == b"entry"
    assert keys[0] == keys[1]
    assert (keys[0]["provider"], keys[0]["key_id"]) == ("kms", arn)


def test_a_run_ends_although_kms_went_away_and_the_next_one_says_so(kms: Any, kms_url: str) -> None:
    """Seen red with a data key for each write."""
    seal = by_kms(kms.create_key()["KeyMetadata"]["KeyId"], kms_url)
    seal.prepare()
    source = seal.writing
    assert isinstance(source, KmsKey)
    source.endpoint_url = "http://127.0.0.1:9"  # nobody listens there
    sealed = seal.seal(PLAIN, kind="state", serial=1)
    line = seal.seal(b"entry", kind="journal/0", serial=1)

    assert seal.open(line, kind="journal/0", serial=1) == b"entry"
    away = refused(by_kms(source.key, "http://127.0.0.1:9"), sealed)
    assert (away.exit_code, "KMS could not be asked" in away.detail) == (ExitCode.FAILED, True)
    with pytest.raises(FalplanError, match="Nothing was touched") as writing:
        by_kms(source.key, "http://127.0.0.1:9").prepare()
    assert writing.value.exit_code == ExitCode.FAILED


def test_what_kms_refuses_is_said_in_words(kms: Any, kms_url: str) -> None:
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    sealed = by_kms(key, kms_url).seal(PLAIN, kind="state", serial=1)
    body = json.loads(sealed)
    wrapped = bytearray(base64.b64decode(body["meta"]["key"]["wrapped"]))
    wrapped[-1] ^= 1
    body["meta"]["key"]["wrapped"] = base64.b64encode(wrapped).decode()
    changed = json.dumps(body, separators=(",", ":")).encode()
    unknown = by_kms("00000000-0000-0000-0000-000000000000", kms_url)

    assert "KMS can't unwrap it" in refused(by_kms(key, kms_url), changed).detail
    with pytest.raises(Refused, match="KMS knows no such key"):
        unknown.prepare()
    elsewhere = EncryptedSeal("other", KmsKey(key, "other", "us-east-1", kms_url))
    assert "project demo and not other" in refused(elsewhere, sealed).detail


# From the spec


def spec_with(folder: Path, encryption: str) -> Any:
    from falplan.stores.spec import load_spec

    (folder / "falplan.yaml").write_text(f"version: 1\nproject: demo\nstate: {{encryption: {encryption}}}\n")
    return load_spec(folder)


def test_the_spec_chooses_the_seal(tmp_path: Path) -> None:
    environ = {"STATE_KEY": KEY, "OLD": PASSPHRASE}
    on = seal_for(spec_with(tmp_path, "{key: {env: STATE_KEY}, previous: [{passphrase: {env: OLD}}]}"), environ)
    off = seal_for(spec_with(tmp_path, "{key: none, previous: [{env: STATE_KEY}]}"), environ)
    (tmp_path / "falplan.yaml").write_text("version: 1\nproject: demo\n")
    from falplan.stores.spec import load_spec

    assert on.open(SEALED, kind="state", serial=1) == PLAIN
    assert on.open(_BY_PASSPHRASE, kind="state", serial=1) == PLAIN
    assert off.seal(off.open(SEALED, kind="state", serial=1), kind="state", serial=2) == PLAIN
    assert isinstance(seal_for(load_spec(tmp_path), environ), NoSeal)


@pytest.mark.parametrize(
    "encryption",
    ["{key: hunter2hunter2hunter2}", "{key: {passphrase: hunter2hunter2hunter2}}", "{key: {env: A, project: true}}"],
)
def test_a_key_in_the_spec_is_refused_and_not_shown(tmp_path: Path, encryption: str) -> None:
    from falplan.core.errors import SpecInvalid
    from falplan.views.diagnostics import render

    with pytest.raises(SpecInvalid) as caught:
        spec_with(tmp_path, encryption)

    assert "hunter2" not in render(caught.value.diagnostics, color=False)
