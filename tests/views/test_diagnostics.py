"""Findings are printed the same way every time, and nothing in them reaches a terminal raw."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falplan.core.errors import Diagnostic, Position, Related, Severity
from falplan.views.diagnostics import render

HERE = Position("falplan.yaml", 6, 11)
ONE = Diagnostic(
    "SPEC019",
    '"privat" is not allowed',
    "falplan.yaml",
    HERE,
    source="    auth: privat",
    length=6,
    hint="allowed: private, public",
)


def test_a_finding_shows_its_line_a_caret_and_what_to_do() -> None:
    assert render([ONE]) == (
        'falplan.yaml:6:11: error[SPEC019]: "privat" is not allowed\n'
        "  6 |     auth: privat\n"
        "    |           ^~~~~~\n"
        "  hint: allowed: private, public"
    )


def test_a_finding_without_a_place_names_its_file() -> None:
    assert render([Diagnostic("SPEC001", "no such file", "apps.yaml")]) == "apps.yaml: error[SPEC001]: no such file"


def test_a_second_place_is_shown() -> None:
    related = (Related(Position("a.yaml", 2, 3), "first here"),)

    assert "  a.yaml:2:3: first here" in render([replace(ONE, related=related)])


def test_beyond_the_limit_the_rest_is_counted() -> None:
    many = [replace(ONE, message=f"m{n}") for n in range(500)]

    shown = render(many)

    assert shown.count("error[SPEC019]") == 20
    assert shown.endswith("… and 480 more")
    assert json.loads(render(many, format="json"))["more"] == 480
    assert render(many, format="github").endswith("::480 more")


def test_json_holds_everything() -> None:
    found = json.loads(render([replace(ONE, related=(Related(HERE, "x"),))], format="json"))["diagnostics"][0]

    assert found == {
        "code": "SPEC019", "severity": "error", "message": '"privat" is not allowed', "file": "falplan.yaml", "line": 6, "column": 11,
        "length": 6, "source": "    auth: privat", "hint": "allowed: private, public",
        "related": [{"file": "falplan.yaml", "line": 6, "column": 11, "message": "x"}],
    }  # fmt: skip


def test_github_gets_an_annotation() -> None:
    warning = replace(ONE, severity=Severity.WARNING, message="a, b: 100%", hint="")

    assert (
        render([warning], format="github")
        == "::warning file=falplan.yaml,line=6,col=11,endColumn=17,title=SPEC019::a, b: 100%25"
    )


def test_a_long_line_is_cut_around_the_caret() -> None:
    shown = render([replace(ONE, position=Position("f", 1, 5001), source="x" * 5000 + "bad" + "y" * 5000, length=3)])

    line, caret = shown.splitlines()[1:3]
    assert len(line) < 200
    assert line[caret.index("^") :].startswith("bad")


def test_color_only_where_it_is_wanted() -> None:
    assert "\x1b[31m" in render([ONE], color=True)
    assert "\x1b" not in render([ONE])


def test_nothing_found_is_nothing_said() -> None:
    assert render([]) == ""
    assert render([], format="github") == ""


@pytest.mark.parametrize("layout", ["human", "json", "github"])
@given(text=st.text(max_size=20), column=st.integers(1, 30), length=st.integers(0, 30))
def test_control_characters_never_pass(
    layout: Literal["human", "json", "github"], text: str, column: int, length: int
) -> None:
    found = Diagnostic("SPEC001", text, text, Position(text, 1, column), source=text, length=length, hint=text)

    shown = render([found], format=layout)

    assert all(char == "\n" or char.isprintable() for char in shown)
    if layout == "github":
        assert "\n" not in shown
