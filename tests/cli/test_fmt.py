"""`fmt` changes the layout and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from falplan.cli.fmt import command
from falplan.core.errors import SpecInvalid
from falplan.stores.spec.format import format_text
from tests.cli.spec_commands import run

UGLY = "# top\nversion:   1\nproject: demo # name\napps:\n    web:   # an app\n        command: 'x y'   \n        regions:\n        - a\n\n\n"
NEAT = "# top\nversion: 1\nproject: demo # name\napps:\n  web: # an app\n    command: 'x y'\n    regions:\n      - a\n"


def squeezed(text: str) -> str:
    """The text with runs of spaces before comments made one: their columns are the formatter's own affair."""
    return "\n".join(" #".join(part.rstrip() for part in line.split(" #")) for line in text.splitlines()) + "\n"


def test_a_file_is_laid_out_with_its_comments(tmp_path: Path) -> None:
    (tmp_path / "falplan.yaml").write_text(UGLY)

    result = run(command, tmp_path)

    assert result.output == "falplan.yaml\n"
    assert squeezed((tmp_path / "falplan.yaml").read_text()) == NEAT


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "falplan.yaml").write_text(UGLY)
    run(command, tmp_path)

    result = run(command, tmp_path, "--check")

    assert (result.output, result.return_value) == ("", 0)


def test_check_writes_nothing_and_exits_1(tmp_path: Path) -> None:
    (tmp_path / "falplan.yaml").write_text(UGLY)

    result = run(command, tmp_path, "--check", "--diff")

    assert result.return_value == 1
    assert "-version:   1\n+version: 1\n" in result.output
    assert (tmp_path / "falplan.yaml").read_text() == UGLY


def test_the_mode_of_a_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(UGLY)
    path.chmod(0o600)

    run(command, tmp_path, "a.yaml")

    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_no_yaml_is_placed(tmp_path: Path) -> None:
    (tmp_path / "falplan.yaml").write_text("a: b: c\n")

    assert isinstance(run(command, tmp_path).exception, SpecInvalid)


@pytest.mark.parametrize(
    "text",
    [
        "a: 3.10\nb: NO\nc: 0644\nd: 1:30:00\ne: 2024-01-01\n",
        "a: &x {b: 1}\nc: *x\nd:\n  <<: *x\n",
        'a: "{{ var.x }}"\nb: |\n  one\n   two\nc: >-\n  three\n  four\n',
        "'quoted': \"double\"\nplain: 'it''s'\n",
        "a: null\nb: ~\nc:\n",
        'é: "ü\\n\\u00e9"\n',
        "a:\n- b\n-   - c\n    - d\n",
    ],
)
def test_the_meaning_stays(text: str) -> None:
    from falplan.core.errors import FalplanError

    try:
        made = format_text(text, "a.yaml")
    except FalplanError as exc:
        pytest.fail(exc.detail)

    assert format_text(made, "a.yaml") == made


def test_an_empty_file_stays(tmp_path: Path) -> None:
    assert format_text("# only a comment\n", "a.yaml") == "# only a comment\n"
