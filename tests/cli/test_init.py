"""`init` writes a project that is valid as it is, and overwrites nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from falplan.cli import init
from falplan.cli.schema import schema_text
from falplan.core.errors import Refused
from falplan.core.spec.words import is_name
from falplan.stores.spec import load_spec
from tests.cli.spec_commands import run


def test_what_is_written_is_valid_without_a_warning(tmp_path: Path) -> None:
    result = run(init.command, tmp_path)

    spec = load_spec(tmp_path)
    assert [app.address for app in spec.apps] == ["app.main.hello"]
    assert spec.warnings == ()
    assert "falplan apply" in result.output
    assert (tmp_path / "falplan.yaml").read_text().startswith("# yaml-language-server: $schema=")
    assert (tmp_path / ".gitignore").read_text() == ".falplan/\n"
    assert (tmp_path / init.SCHEMA_FILE).read_text() == schema_text("spec")


def test_the_app_is_a_program(tmp_path: Path) -> None:
    compile(init.APP, "app.py", "exec")


@pytest.mark.parametrize("name", ["falplan.yaml", "app.py", "falplan.yml"])
def test_nothing_is_overwritten(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")

    result = run(init.command, tmp_path)

    assert isinstance(result.exception, Refused)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_force_overwrites_and_runs_twice(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("mine")
    (tmp_path / ".gitignore").write_text("*.log")

    run(init.command, tmp_path, "--force")
    result = run(init.command, tmp_path, "--force")

    assert result.exception is None
    assert (tmp_path / "app.py").read_text() == init.APP
    assert (tmp_path / ".gitignore").read_text() == "*.log\n.falplan/\n"


@pytest.mark.parametrize("folder", ["My App", "2024 demo", "ÜBER", "a--b", "日本", "x" * 100, "_", "1"])
def test_any_folder_gives_a_name(folder: str) -> None:
    assert is_name(init.project_name(folder))
