"""`schema` prints what is committed."""

from __future__ import annotations

from pathlib import Path

from falplan.cli.schema import command
from tests.cli.spec_commands import run

ROOT = Path(__file__).parents[2]


def test_the_spec_is_the_default_and_what_is_committed(tmp_path: Path) -> None:
    result = run(command, tmp_path)

    assert result.output == (ROOT / "schemas/spec.json").read_text()
    assert run(command, tmp_path, "spec").output == result.output
