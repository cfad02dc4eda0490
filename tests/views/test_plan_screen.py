"""A plan's text fits where it is printed: its width, its encoding, and nothing that drives a terminal."""

from __future__ import annotations

import re
from unicodedata import category, east_asian_width

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from falplan.core.plan import Action
from falplan.core.report import Report
from falplan.views.plan import render_plan
from falplan.views.plan_tree import render_plan_tree
from falplan.views.screen import NARROWEST, Line, Screen, Span, elide, width
from tests.views.plans import CASES, REPORTS, TEXT, attribute, change, only, plan

COLUMNS = st.just(0) | st.just(-1) | st.integers(NARROWEST, 120)


@given(REPORTS, COLUMNS)
def test_no_line_is_wider_than_the_terminal(report: Report, columns: int) -> None:
    """Seen red with wide characters counted as one column."""
    limit = columns if columns > 0 else 80
    lines = [
        *render_plan(report, Screen(columns)).splitlines(),
        *render_plan_tree(report, Screen(columns)).splitlines(),
    ]

    assert max(map(taken, lines)) <= limit


@pytest.mark.parametrize("columns", [20, 33])
def test_what_is_deep_inside_fits_too(columns: int) -> None:
    """Seen red with indents that were not bounded."""
    lines = Screen(columns).render([Line(60, (Span("a value that is nested deeply"),), "+")])

    assert max(map(taken, lines)) <= columns


def taken(line: str) -> int:
    """Columns by Unicode's own tables, apart from what the code makes of them."""
    return sum(2 if east_asian_width(c) in "WF" else 0 if category(c) in ("Mn", "Me") else 1 for c in line)


@pytest.mark.parametrize("columns", [None, 0, 1, 20, 80, 1000])
def test_every_plan_can_be_shown_at_any_width(columns: int | None) -> None:
    for report in CASES.values():
        assert render_plan(report, Screen(columns)).endswith("\n")
        assert render_plan_tree(report, Screen(columns)).endswith("\n")


@given(REPORTS)
def test_nothing_in_a_plan_drives_the_terminal(report: Report) -> None:
    """Seen red with reasons that were not escaped."""
    for text in (render_plan(report), render_plan_tree(report)):
        assert all(c.isprintable() for c in text.replace("\n", ""))


@given(REPORTS, st.sampled_from(["ascii", "latin-1", "cp437", "utf-8"]))
def test_the_output_can_carry_all_of_it(report: Report, encoding: str) -> None:
    """Seen red with the ellipsis of shortened values left as it is."""
    for text in (
        render_plan(report, Screen(30, encoding=encoding)),
        render_plan_tree(report, Screen(30, encoding=encoding)),
    ):
        assert text.encode(encoding).decode(encoding) == text


@given(REPORTS)
def test_colours_add_nothing_but_colours(report: Report) -> None:
    plain, painted = render_plan(report, Screen(60)), render_plan(report, Screen(60, color=True))

    assert [line.rstrip() for line in re.sub("\x1b\\[[0-9;]*m", "", painted).splitlines()] == plain.splitlines()


@given(st.lists(st.tuples(TEXT, st.sampled_from(["", "red"])), max_size=4), COLUMNS)
def test_wrapping_loses_nothing_but_spaces(pieces: list[tuple[str, str]], columns: int) -> None:
    spans = tuple(Span(text.replace("\n", ""), style) for text, style in pieces if text.isprintable())
    shown = "".join(Screen(columns).render([Line(6, spans, "+")]))

    assert shown.replace(" ", "") == "+" + "".join(s.text for s in spans).replace(" ", "")


@given(st.text(), st.integers(4, 50))
@example("000界", 4)
def test_a_shortened_text_fits(text: str, columns: int) -> None:
    """Seen red with an end that was one wide character too many."""
    assert width(elide(text, columns)) <= columns or width(text) <= columns


def test_of_two_long_values_the_difference_is_kept() -> None:
    """Seen red with each value shortened in its own middle."""
    before, after = "a" * 500 + "HERE" + "b" * 500, "a" * 500 + "THERE" + "b" * 500
    text = render_plan(only(Action.UPDATE, "", attribute("settings/x", before, after)), Screen(40))
    joined = "".join(text.split())

    assert "HERE" in joined
    assert "THERE" in joined
    assert len(text) < 1000


def test_a_secret_takes_as_much_room_whatever_its_fingerprint_is() -> None:
    """And shows no more of it than state holds. Seen red without the padding."""
    seals = ["k:12345678abcdef", "k:1234", "", "k:"]
    lines = []
    for seal in seals:
        value = attribute("fingerprint", "k:0", seal, origin=None)
        report = Report(plan(change(Action.UPDATE, "secret.main.TOKEN", "", value, generation=4)))
        lines.append(next(line for line in render_plan(report).splitlines() if "fingerprint" in line))

    assert len({len(line) for line in lines}) == 1
    assert "v3 (0.......) -> v4 (12345678)" in lines[0]
    assert "abcdef" not in lines[0]


def test_what_is_known_after_apply_takes_one_line() -> None:
    """Seen red with the old value printed in full."""
    old = {f"key-{n}": n for n in range(50)}
    report = only(Action.UPDATE, "", unknown=("lock",), outputs={"lock": old})
    lines = [line for line in render_plan(report).splitlines() if "lock" in line or "key-" in line]

    assert lines == ["      ~ lock = (50 values) -> (known after apply)"]
