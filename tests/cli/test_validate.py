"""`validate` says that a spec is valid, or everything that is wrong with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click

from falplan.cli.validate import command
from falplan.core.errors import SpecInvalid
from falplan.sdk.testing.world import install
from tests.cli.spec_commands import run

GOOD = "version: 1\nproject: demo\napps: {a: {command: x}, b: {command: x}}\nenvironments: {staging: {apps: all}}\n"


def test_a_valid_spec_is_counted(tmp_path: Path) -> None:
    (tmp_path / "falplan.yaml").write_text(GOOD)

    result = run(command, tmp_path)

    assert result.output == "Success! The spec is valid: 4 apps in 2 environments.\n"
    assert result.return_value == 0


def test_a_region_of_any_provider_that_is_installed_is_valid(tmp_path: Path) -> None:
    """Seen red with `local` alone: what plan and apply took was refused."""
    (tmp_path / "falplan.yaml").write_text(
        f"version: 1\nproject: demo\nregions: {{lab: {{provider: fake, world: {tmp_path}/w}}}}\n"
    )
    argv = [sys.executable, "-m", "falplan", "-C", str(tmp_path), "validate"]
    plain, knowing = (
        subprocess.run(argv, env={**os.environ, **more}, capture_output=True, text=True, check=False)
        for more in ({}, install(tmp_path / "installed"))
    )

    assert (plain.returncode, knowing.returncode) == (3, 0), (plain, knowing)
    assert 'unknown provider "fake"' in plain.stderr


def test_an_invalid_spec_is_left_to_the_group(tmp_path: Path) -> None:
    (tmp_path / "falplan.yaml").write_text(GOOD + "onwer: x\n")

    assert isinstance(run(command, tmp_path).exception, SpecInvalid)


def test_json_and_annotations_go_to_stdout_with_exit_code_3(tmp_path: Path) -> None:
    (tmp_path / "falplan.yaml").write_text(GOOD + "onwer: x\n")

    as_json, as_github = run(command, tmp_path, "--format", "json"), run(command, tmp_path, "--format", "github")

    assert json.loads(as_json.stdout)["diagnostics"][0]["code"] == "SPEC020"
    assert as_github.stdout.startswith("::error file=falplan.yaml,line=5,col=1")
    assert (as_json.return_value, as_github.return_value) == (3, 3)


def test_a_valid_spec_is_an_empty_list_in_json(tmp_path: Path) -> None:
    (tmp_path / "falplan.yaml").write_text(GOOD)

    assert json.loads(run(command, tmp_path, "--format", "json").stdout) == {"diagnostics": [], "more": 0}


def test_variables_come_from_options_files_and_the_environment(tmp_path: Path) -> None:
    (tmp_path / "falplan.yaml").write_text(
        "version: 1\nproject: demo\nvariables: {a: {env: A}, b: {}, c: {type: int}}\n"
    )
    (tmp_path / "v.yaml").write_text("b: x\n")

    result = run(command, tmp_path, "--var", "c=1", "--var-file", "v.yaml", environ={"A": "x"})

    assert result.output.startswith("Success!")


def test_a_variable_without_a_value_sign_is_wrong_usage(tmp_path: Path) -> None:
    assert isinstance(run(command, tmp_path, "--var", "x").exception, click.BadParameter)


def test_warnings_go_to_stderr(tmp_path: Path) -> None:
    (tmp_path / "falplan.yaml").write_text("version: 1\nproject: demo\napps: {a: {app: a.py::A}}\n")
    (tmp_path / "a.py").write_text("import fal\n\n\nclass A(fal.App):\n    kep_alive = 1\n")

    result = run(command, tmp_path)

    assert "warning[SPEC039]" in result.stderr
    assert result.stdout == "Success! The spec is valid: 1 app in 1 environment. 1 warning.\n"
