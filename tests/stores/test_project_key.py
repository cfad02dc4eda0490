"""The project's key: made once whoever comes first, private, renewed without losing the old one, and never shown."""

from __future__ import annotations

import base64
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from falplan.core.errors import Refused
from falplan.core.secret import SecretValue
from falplan.stores.project_key import VARIABLE, Keyring, ProjectKey, ProjectKeys

VALUE = SecretValue(b"hunter2")


def keys(folder: Path, text: str | None = None) -> ProjectKeys:
    return ProjectKeys(folder / ".falplan", {} if text is None else {VARIABLE: text})


def test_a_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    made = keys(tmp_path).ensure()
    path = keys(tmp_path).path

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys(tmp_path).ensure() == made
    assert [p.name for p in path.parent.iterdir()] == ["project.key"]


def test_many_that_make_it_at_one_time_get_the_same(tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from falplan.stores.project_key import ProjectKeys as K; "
    program += "print(K(Path(sys.argv[1]), {}).ensure().current.key_id)"
    started = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path / ".falplan")], stdout=subprocess.PIPE)
        for _ in range(6)
    ]
    said = {process.communicate(timeout=60)[0] for process in started}

    assert len(said) == 1
    assert [p.name for p in (tmp_path / ".falplan").iterdir()] == ["project.key"]


def test_a_fingerprint_has_one_width_and_is_of_the_value_the_secret_and_the_key(tmp_path: Path) -> None:
    key, other = ProjectKey.of(b"k" * 32), ProjectKey.of(b"l" * 32)
    found = {
        key.fingerprint("secret.main.A", VALUE),
        key.fingerprint("secret.main.B", VALUE),
        key.fingerprint("secret.main.A", SecretValue(b"")),
        key.fingerprint("secret.main.A", SecretValue(b"x" * 70_000)),
        other.fingerprint("secret.main.A", VALUE),
    }

    assert len(found) == 5
    assert all(re.fullmatch("[0-9a-f]{8}:[0-9a-f]{32}", f) for f in found)
    assert key.fingerprint("secret.main.A", VALUE) == ProjectKey.of(b"k" * 32).fingerprint("secret.main.A", VALUE)


def test_keys_for_different_purposes_differ() -> None:
    key = ProjectKey.of(b"k" * 32)

    assert key.derive("fingerprints") != key.derive("values at rest")


def test_a_new_key_is_current_and_the_old_one_still_compares(tmp_path: Path) -> None:
    old = keys(tmp_path).ensure().current
    keys(tmp_path).rotate()
    found = keys(tmp_path).read()

    assert found is not None
    assert found.current.key_id != old.key_id
    assert found.find(old.key_id) == old


def test_the_environment_holds_one_key_or_several(tmp_path: Path) -> None:
    one, two = (base64.b64encode(c * 32).decode() for c in (b"1", b"2"))
    found = keys(tmp_path, f"{two},\n {one}\n").read()

    assert found == Keyring((ProjectKey.of(b"2" * 32), ProjectKey.of(b"1" * 32)))
    with pytest.raises(Refused, match="in the environment"):
        keys(tmp_path, one).rotate()


@pytest.mark.parametrize("text", ["", "hunter2hunter2", base64.b64encode(b"short").decode(), "\N{SNOWMAN}"])
def test_what_is_no_key_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(Refused) as raised:
        keys(tmp_path, text).read()

    assert not text or text not in str(raised.value)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    keys(tmp_path).ensure()
    keys(tmp_path).path.chmod(0o640)
    with pytest.raises(Refused, match="chmod 600"):
        keys(tmp_path).read()


def test_no_text_of_a_key_holds_it(tmp_path: Path) -> None:
    ring = Keyring((ProjectKey.of(b"planted!" * 4),))
    environ = {VARIABLE: base64.b64encode(b"planted!" * 4).decode()}

    shown = repr(ring) + str(ring.current) + repr(ProjectKeys(tmp_path, environ))
    assert "planted" not in shown
    assert environ[VARIABLE] not in shown
    assert os.fsencode(shown).find(b"planted!") < 0
