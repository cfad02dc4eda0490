"""Values are read byte for byte from where the spec says; what can't be had says why, and shows nothing."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from falplan.core.values import Json, JsonObject
from falplan.stores.secret_sources import SourceMissing, read_source

ODD = [
    b"",
    b"\n",
    b"two\nlines\n",
    b"a'b\"c`d$e\\f",
    b"{{7*7}}",
    b"-rf",
    b"\xff\xfe\x00x",
    "schlüssel".encode(),
    b"x" * 65_536,
]


def program(code: str) -> JsonObject:
    argv: list[Json] = [sys.executable, "-c", code]
    return {"command": argv}


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_a_file_is_read_whole(tmp_path: Path, value: bytes) -> None:
    (tmp_path / "value").write_bytes(value)

    assert read_source({"file": "value"}, tmp_path, {}).reveal() == value
    assert read_source({"file": str(tmp_path / "value")}, Path("/"), {}).reveal() == value


@pytest.mark.parametrize("value", [v for v in ODD if b"\0" not in v], ids=range(len(ODD) - 1))
def test_a_variable_is_read_byte_for_byte(tmp_path: Path, value: bytes) -> None:
    assert read_source({"env": "V"}, tmp_path, {"V": os.fsdecode(value)}).reveal() == value


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_a_commands_output_loses_one_newline_alone(tmp_path: Path, value: bytes) -> None:
    (tmp_path / "value").write_bytes(value + b"\n")

    assert read_source({"command": ["cat", "value"]}, tmp_path, dict(os.environ)).reveal() == value


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"env": "NOPE"}, "environment variable NOPE is not set"),
        ({"file": "nope"}, "the file nope can't be read"),
        ({"file": "."}, "can't be read|not a regular file"),
        ({"file": "pipe"}, "not a regular file"),
        ({"command": ["/nope/x", "hunter2"]}, "the command /nope/x can't be run"),
        (program("import sys; print('hunter2'); print('hunter2', file=sys.stderr); sys.exit(3)"), "status 3"),
        (program("print('hunter2' * 100000)"), "printed more than"),
    ],
)
def test_what_can_not_be_had_says_why_and_shows_nothing(
    tmp_path: Path, source: JsonObject, says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceMissing, match=says) as raised:
        read_source(source, tmp_path, dict(os.environ))

    assert "hunter2" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_no_shell_runs_a_command(tmp_path: Path) -> None:
    assert read_source({"command": ["echo", "$HOME;", "`id`"]}, tmp_path, dict(os.environ)).reveal() == b"$HOME; `id`"


def test_a_command_does_not_get_the_projects_key(tmp_path: Path) -> None:
    environ = {**os.environ, "FALPLAN_PROJECT_KEY": "hunter2", "OTHER": "kept"}

    assert b"hunter2" not in read_source({"command": ["env"]}, tmp_path, environ).reveal()
    assert b"OTHER=kept" in read_source({"command": ["env"]}, tmp_path, environ).reveal()


def test_a_command_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    """Seen red with a kill of the program alone: the second process went on."""
    mark = str(tmp_path / "mark")
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)', {mark!r}])"
    begun = time.monotonic()
    with pytest.raises(SourceMissing, match="did not end within 1 s"):
        read_source(program(code), tmp_path, dict(os.environ), timeout=1)

    assert time.monotonic() - begun < 20
    left = [p for p in psutil.process_iter(["cmdline", "status"]) if mark in (p.info["cmdline"] or [])]
    _, alive = psutil.wait_procs(left, 10)
    assert not alive
