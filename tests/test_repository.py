"""Promises about the code base itself: what help imports, what is generated, what the layers are."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from falplan import __version__
from falplan.cli.group import COMMANDS, MODULES
from falplan.core.errors import ExitCode

ROOT = Path(__file__).parents[1]
HEAVY = [
    "boto3",
    "botocore",
    "psycopg",
    "paramiko",
    "networkx",
    "aiohttp",
    "uvloop",
    "apsw",
    "alembic",
    "sqlalchemy",
    "cryptography",
    "pydantic",
    "yaml",
    "jinja2",
    "urllib3",
]


def test_help_imports_nothing_heavy() -> None:
    code = "import sys\ntry:\n from falplan.cli import main; main(['--help'])\nexcept SystemExit: pass\nprint(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    loaded = {m.partition(".")[0] for m in out.splitlines()[-1].split()}

    assert not loaded & set(HEAVY)
    assert "click" in loaded


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_module_and_help(name: str) -> None:
    module = MODULES.get(name, f"falplan.cli.{name}")
    code = f"import {module} as m; print(m.command.get_short_help_str(200))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout

    assert out.strip()


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"serve"}))
def test_no_command_imports_the_server_or_a_provider_before_it_needs_it(name: str) -> None:
    module = MODULES.get(name, f"falplan.cli.{name}")
    code = f"import sys, {module}; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    loaded = {m.partition(".")[0] for m in out.split()}

    assert not loaded & {"boto3", "psycopg", "paramiko", "aiohttp", "uvloop", "falplan_providers"}


def test_the_changelog_has_a_place_for_what_is_new() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()

    assert "## [Unreleased]" in text or f"## [{__version__}]" in text


def test_exit_codes_are_documented() -> None:
    text = (ROOT / "docs" / "reference" / "commands.md").read_text()
    for code in ExitCode:
        assert re.search(rf"^\| {int(code)} \|", text, re.MULTILINE), f"{code!r} is missing"


def test_every_command_is_documented() -> None:
    text = (ROOT / "docs" / "reference" / "commands.md").read_text()

    assert not [name for name in COMMANDS if f"falplan {name}" not in text]


def test_links_in_the_documentation_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_schemas_are_valid_json_schema() -> None:
    from jsonschema import Draft202012Validator

    for path in (ROOT / "schemas").glob("*.json"):
        Draft202012Validator.check_schema(json.loads(path.read_text()))
