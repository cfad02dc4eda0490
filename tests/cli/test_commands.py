"""Rules that all commands share, seen from outside: exit codes, streams, suggestions; and the small commands themselves."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from falplan import __version__
from falplan.cli.group import COMMANDS

SPEC = """
version: 1
project: demo
apps:
  base: {command: [python3, base.py], files: [base.py]}
  front: {command: [python3, base.py], files: [base.py], depends_on: [base]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A valid project in which nothing was applied."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "falplan.yaml").write_text(SPEC)
    (project / "base.py").write_text("")
    return project


def falplan(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with a home beside it."""
    return subprocess.run(
        [sys.executable, "-m", "falplan", "-C", str(folder), *args],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder.parent),
            "XDG_STATE_HOME": str(folder.parent / "state"),
            "FALPLAN_MACHINE_DIR": str(folder.parent / "ledger"),
            "NO_COLOR": "1",
        },
    )


def test_version_prints_falplans_and_pythons(folder: Path) -> None:
    assert falplan(folder, "version").stdout.startswith(
        f"falplan {__version__}\nPython {platform.python_version()} on "
    )
    assert falplan(folder, "--version").stdout == f"falplan, version {__version__}\n"
    assert json.loads(falplan(folder, "version", "--json").stdout)["falplan"] == __version__


def test_help_lists_every_command_with_its_line(folder: Path) -> None:
    out = falplan(folder, "--help").stdout

    for name, line in COMMANDS.items():
        assert f"  {name} " in out
        assert line in out


@pytest.mark.parametrize(
    "args",
    [
        ["plam"],
        ["plan", "--no-such-option"],
        ["plan", "surplus"],
        ["apply", "--parallelism", "0"],
        ["graph", "--format", "svg"],
        ["state", "shw"],
        ["state", "show"],
        ["call"],
        ["call", "base", "{not json"],
        ["completion", "tcsh"],
        ["plan", "--var", "without-equals"],
        ["plan", "--json", "--format", "markdown"],
        ["plan", "--valid-for", "1h"],
        ["apply", "no/such/plan"],
        ["runners", "logs"],
        ["keys", "create", "--scope", "ROOT"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_exits_64_with_usage_on_stderr(folder: Path, args: list[str]) -> None:
    ran = falplan(folder, *args)

    assert ran.returncode == 64
    assert ran.stdout == ""
    assert "Usage: falplan" in ran.stderr or "Error: " in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("typed", "meant"), [("plam", "plan"), ("aply", "apply"), ("runer", "runners"), ("destory", "destroy")]
)
def test_a_misspelt_command_suggests_the_nearest(folder: Path, typed: str, meant: str) -> None:
    assert f"No such command '{typed}'. Did you mean '{meant}'?" in falplan(folder, typed).stderr


def test_a_command_unlike_any_other_suggests_nothing(folder: Path) -> None:
    err = falplan(folder, "zzzzzz").stderr

    assert "No such command 'zzzzzz'." in err
    assert "Did you mean" not in err


def test_a_folder_that_is_not_there_is_a_usage_error(folder: Path) -> None:
    ran = falplan(folder / "nowhere", "plan")

    assert ran.returncode == 64
    assert "no such folder" in ran.stderr


def test_without_a_spec_nothing_runs_and_the_exit_code_is_3(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for args in (["plan"], ["apply", "--auto-approve"], ["show"], ["graph"], ["validate"]):
        assert falplan(tmp_path / "empty", *args).returncode == 3, args
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_that_the_shell_accepts(folder: Path, shell: str) -> None:
    script = falplan(folder, "completion", shell).stdout

    assert "_FALPLAN_COMPLETE" in script
    if program := shutil.which(shell):
        assert subprocess.run([program, "-n"], input=script, text=True, capture_output=True, timeout=30).returncode == 0


def test_graph_prints_dependencies_as_dot_and_mermaid(folder: Path) -> None:
    dot = falplan(folder, "graph").stdout
    mermaid = falplan(folder, "graph", "--format", "mermaid").stdout

    assert '"app.main.front" -> "app.main.base"' in dot
    assert dot.startswith("digraph {") and dot.endswith("}\n")
    assert mermaid.startswith(("graph", "flowchart"))
    assert all(address in mermaid for address in ("app.main.front", "app.main.base", "gateway"))
    assert falplan(folder, "graph").stdout == dot


def test_show_and_state_list_before_the_first_apply(folder: Path) -> None:
    assert falplan(folder, "show").stdout == "State holds no resources. `falplan apply` makes them.\n"
    assert json.loads(falplan(folder, "show", "--json").stdout)["resources"] == []
    assert falplan(folder, "state", "list").stdout == ""
    assert json.loads(falplan(folder, "state", "list", "--json").stdout) == []


@pytest.mark.parametrize("args", [["show", "app.main.nobody"], ["state", "show", "app.main.nobody"]], ids=" ".join)
def test_an_address_that_is_not_in_state_says_how_to_list_them(folder: Path, args: list[str]) -> None:
    ran = falplan(folder, *args)

    assert ran.returncode == 1
    assert "No such resource in state" in ran.stderr
    assert "`falplan state list`" in ran.stderr


@pytest.mark.parametrize(
    "args",
    [["apps", "list"], ["runners", "list"], ["call", "base"], ["exec", "--", "true"], ["env"], ["keys", "list"]],
    ids=" ".join,
)
def test_what_needs_a_control_plane_says_that_nothing_was_applied(folder: Path, args: list[str]) -> None:
    ran = falplan(folder, *args)

    assert ran.returncode == 1
    assert ran.stdout == ""
    assert "Nothing was applied yet" in ran.stderr
    assert "`falplan apply`" in ran.stderr


def test_calling_an_app_that_the_spec_has_not_names_the_nearest(folder: Path) -> None:
    ran = falplan(folder, "call", "bsae")

    assert ran.returncode == 1
    assert "Did you mean base?" in ran.stderr


@pytest.mark.parametrize("command", [("plan",), ("apply",), ("drift",), ("destroy", "--auto-approve")], ids=" ".join)
def test_an_environment_that_the_spec_has_not_names_the_nearest(folder: Path, command: tuple[str, ...]) -> None:
    ran = falplan(folder, *command, "-e", "mian")

    assert (ran.returncode, ran.stdout) == (64, "")
    assert "Error: -e mian: the spec has main. Did you mean 'main'?" in ran.stderr


def test_destroying_nothing_is_done(folder: Path) -> None:
    ran = falplan(folder, "destroy", "--auto-approve")

    assert (ran.returncode, ran.stdout) == (0, "Nothing to destroy: state holds no resources.\n")


def test_schemas_are_printed_as_json(folder: Path) -> None:
    assert json.loads(falplan(folder, "schema", "spec").stdout)["$schema"]


def test_output_that_nobody_reads_is_no_error(folder: Path) -> None:
    command = f"{sys.executable} -m falplan -C {folder} schema spec | head -c 1; exit ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)

    assert ran.returncode == 0
    assert ran.stderr == ""
