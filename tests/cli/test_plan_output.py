"""`plan` in its formats, from outside: what is printed, and what is in the file beside it."""

from __future__ import annotations

import json
import os
import pty
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_commands import SPEC, falplan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project of two apps in which nothing was applied."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "falplan.yaml").write_text(SPEC)
    (project / "base.py").write_text("")
    return project


def test_each_format_is_what_its_name_says(folder: Path) -> None:
    human, tree, page, line = (falplan(folder, "plan", "--format", f) for f in ("human", "tree", "markdown", "json"))

    assert [d.returncode for d in (human, tree, page, line)] == [0] * 4
    assert human.stdout.startswith("Plan: 3 to add, 0 to change, 0 to destroy.\n\n  + app.main.base will be created")
    assert "├── + gateway" in tree.stdout
    assert page.stdout.startswith("**Plan: 3 to add, 0 to change, 0 to destroy.**\n")
    assert line.stdout.count("\n") == 1
    assert json.loads(line.stdout)["planned_values"]["root_module"]["resources"]
    assert changes_in(falplan(folder, "plan", "--json").stdout) == changes_in(line.stdout)


def test_json_goes_into_a_file_of_ones_own_beside_the_text(folder: Path) -> None:
    """Seen red with the file's mode left to the umask."""
    done = falplan(folder, "plan", "--json-into", "plan.json")
    path = folder / "plan.json"

    assert done.stdout == falplan(folder, "plan").stdout
    assert changes_in(path.read_text()) == changes_in(falplan(folder, "plan", "--json").stdout)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_markdown_goes_into_a_file_of_ones_own_beside_the_text(folder: Path) -> None:
    """One look at the world makes both. Seen red with the text for people in the file."""
    done = falplan(folder, "plan", "--markdown-into", "plan.md")
    path = folder / "plan.md"

    assert done.stdout.startswith("Plan: 3 to add")
    assert path.read_text() == falplan(folder, "plan", "--format", "markdown").stdout
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(("option", "what"), [("--json-into", "JSON"), ("--markdown-into", "Markdown")])
def test_a_file_that_cannot_be_written_is_named_before_anything_is_shown(folder: Path, option: str, what: str) -> None:
    done = falplan(folder, "plan", option, "nowhere/plan.json")

    assert (done.returncode, done.stdout) == (1, "")
    assert f"The plan's {what} can't be written" in done.stderr
    assert "nowhere/plan.json: No such file or directory" in done.stderr


@pytest.mark.parametrize("moment", ["before_write", "before_fsync", "before_rename", "after_rename"])
def test_the_file_is_whole_or_as_it_was_wherever_it_is_killed(folder: Path, moment: str) -> None:
    """Seen red with the file written in place: it was empty at the first moment."""
    path = folder / "plan.json"
    path.write_text("before")
    environ = {**environ_of(folder), "FALPLAN_FAILPOINTS": f"plan_json.save.{moment}=kill"}
    command = [sys.executable, "-m", "falplan", "-C", str(folder), "plan", "--json-into", "plan.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ)

    assert done.returncode == -signal.SIGKILL, done.stderr
    if moment == "after_rename":
        assert json.loads(path.read_text())["format_version"] == "1.2"
    else:
        assert path.read_text() == "before"


def changes_in(text: str) -> list[Any]:
    """A plan's changes; what has no state yet gets another lineage, and so other operations, with each plan."""
    return [c["change"] for c in json.loads(text)["resource_changes"]]


def environ_of(folder: Path) -> dict[str, str]:
    home = folder.parent
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "XDG_STATE_HOME": str(home / "state"),
        "FALPLAN_MACHINE_DIR": str(home / "ledger"),
    }


@pytest.mark.parametrize("no_color", [False, True])
def test_colours_are_for_terminals_without_no_color(folder: Path, no_color: bool) -> None:
    """Seen red with colours taken from the environment alone."""
    environ = {**environ_of(folder), "TERM": "xterm", "COLUMNS": "60", **({"NO_COLOR": "1"} if no_color else {})}
    command = [sys.executable, "-m", "falplan", "-C", str(folder), "plan"]
    master, slave = pty.openpty()
    with subprocess.Popen(command, stdout=slave, stderr=subprocess.PIPE, env=environ) as process:
        os.close(slave)
        text = read_all(master)
        process.wait(60)

    assert ("\x1b[32m+" in text) != no_color
    assert "\x1b" not in subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ).stdout


def test_it_fits_the_terminal(folder: Path) -> None:
    """Seen red with COLUMNS believed of a file, too: words that scripts look for were cut apart."""
    command = [sys.executable, "-m", "falplan", "-C", str(folder), "plan"]
    environ = {**environ_of(folder), "COLUMNS": "40", "NO_COLOR": "1"}
    wide = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ).stdout
    master, slave = pty.openpty()
    with subprocess.Popen(command, stdout=slave, stderr=subprocess.PIPE, env=environ) as process:
        os.close(slave)
        narrow = read_all(master)
        process.wait(60)

    assert max(map(len, wide.splitlines())) > 80, "lines in a file are as long as they are"
    assert max(map(len, narrow.splitlines())) <= 40


def test_an_output_that_is_no_unicode_gets_a_tree_of_ascii(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "falplan", "-C", str(folder), "plan", "--format", "tree"],
        capture_output=True,
        timeout=60,
        env={**environ_of(folder), "PYTHONIOENCODING": "ascii"},
    )

    assert done.returncode == 0, done.stderr
    assert b"|-- + gateway" in done.stdout
    assert done.stdout.isascii()


def read_all(descriptor: int) -> str:
    found = b""
    while True:
        try:
            piece = os.read(descriptor, 65536)
        except OSError:  # a terminal whose last writer is gone
            piece = b""
        if not piece:
            os.close(descriptor)
            return found.decode()
        found += piece
