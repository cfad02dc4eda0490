"""A plan as a comment: nothing in it can be taken for Markdown, HTML or a mention, and it is never too long.

CommonMark is judged by markdown-it, which passes its whole test suite.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from falplan.core.consequences import Consequence, Effect
from falplan.core.plan import Action, Plan
from falplan.core.report import Report, Row, Section
from falplan.views.plan_markdown import LIMIT, code, prose, render_plan_markdown
from tests.views.plans import ADDRESSES, CASES, DRIFTED, HOSTILE, REPORTS, attribute, change, plan

PARSER = MarkdownIt("gfm-like", {"linkify": False, "html": True}).enable(["strikethrough", "table"])
OURS = re.compile(r"<details><summary>(Differences|Details)</summary>|</details>")
EVIL = st.lists(
    st.sampled_from(
        [
            "```", "````", "`", "~~~", "\n", "\r\n", "\n\n", "</details>", "<details>", "<script>", "<!--", "-->", "<b>", "&lt;",
            "@everyone", "@", "#12", "[x](http://a)", "![i](//b)", "http://evil.example", "www.evil.example", "a@b.example",
            "GH-1", "|", "---", "***", "_", "\\", "\u2028", "\u202e", "\x00", "\x1b]0;t\x07", "    ", "\t", ":+1:", "$x$", "- ", "1. ", "> ",
            "deadbeefdeadbeef", "word",
        ]
    ),
    max_size=8,
).map("".join)  # fmt: skip


def tokens(text: str) -> list[Token]:
    found: list[Token] = []
    for token in PARSER.parse(text):
        found += [token, *(token.children or [])]
    return found


def check(page: str) -> None:
    """What the page may hold outside of code: our own words, and two HTML tags."""
    for token in tokens(page):
        if token.type in ("html_block", "html_inline"):
            assert OURS.sub("", token.content).strip() == "", token
        assert token.type not in (
            "link_open",
            "image",
            "heading_open",
            "hr",
            "blockquote_open",
            "table_open",
            "s_open",
        ), token
        if token.type == "text":
            assert not re.search(r"[@#<$\\]|://|www\.|\bGH-\d|\b[0-9a-f]{7,}\b|:\w+:", token.content), token
        if token.type == "fence":
            assert token.info == "diff"
    opened = page.count("\n<details>"), page.count("\n</details>")
    fences = [t for t in tokens(page) if t.type == "fence"]
    assert opened == (len(fences), len(fences))


@example("", "", "1. ---", "gateway")
@example("", "", "1) ---", "gateway")
@given(EVIL, EVIL, EVIL, ADDRESSES)
def test_nothing_in_a_plan_breaks_out_of_its_code(one: str, other: str, third: str, address: str) -> None:
    """Seen red with lines of a value at the start of a line, with a reason that was not in code, and with `prose` taking `@`."""
    report = Report(
        plan(
            change(
                Action.UPDATE,
                address,
                one,
                attribute(f"a/{other or 'x'}", one, other, third),
                attribute("b", [one, other], [third]),
                attribute("c", other + "\n", third + "\n" + one),
                outputs={"revision": third},
                unknown=("revision",),
                importing=other,
            ),
            unknown={address: one},
            left_out={address: other},
            drift={k: replace(d, because=one, since=other, by=third, ignored=one) for k, d in DRIFTED.items()},
            hints=(third,),
        ),
        (Consequence(address, Effect.LAUNCH, 1, one, other),),
        sections=(Section("costs", other, (Row(one, detail=(other, third)), Row(third))),),
    )

    check(render_plan_markdown(report))


@given(REPORTS)
def test_any_plan_is_a_page_of_our_own_words_and_code(report: Report) -> None:
    check(render_plan_markdown(report))


@given(EVIL)
def test_code_is_one_span_and_prose_is_plain_or_code(text: str) -> None:
    (paragraph,) = [t for t in PARSER.parse(f"x {code(text)} y") if t.type == "inline"]
    kinds = [t.type for t in paragraph.children or []]

    assert kinds == ["text", "code_inline", "text"]
    assert {t.type for t in tokens(f"x {prose(text)} y")} <= {
        "paragraph_open",
        "paragraph_close",
        "inline",
        "text",
        "code_inline",
    }


@given(REPORTS, st.integers(1_500, 8_000))
def test_it_is_never_longer_than_its_limit(report: Report, limit: int) -> None:
    assert len(render_plan_markdown(report, limit=limit).encode()) <= limit


def long_plan(count: int) -> Plan:
    value = attribute("settings/名前", "a" * 900, "b" * 900)
    created = [change(Action.CREATE, f"app.main.new-{n:04}", HOSTILE * 3, value) for n in range(count)]
    gone = [change(Action.DELETE, f"app.main.old-{n:04}", "it is no longer in the spec") for n in range(count // 20)]
    return plan(*created, *gone)


@pytest.mark.parametrize("count", [100, 2_000])
def test_what_does_not_fit_is_counted_and_what_is_destroyed_is_there(count: int) -> None:
    """Seen red with the parts filled in another order."""
    page = render_plan_markdown(Report(long_plan(count)))
    shown = page.count("- `+` `app.main.new-")
    said = re.search(r"^… (\d+) more changes are not shown: see the job's log$", page, re.MULTILINE)

    assert len(page.encode()) <= LIMIT
    assert len(re.findall(r"^- `-` `app\.main\.old-\d{4}` will be destroyed", page, re.MULTILINE)) == count // 20
    assert shown + (int(said[1]) if said else 0) == count
    assert page.startswith(f"⚠ **Plan: {count} to add, 0 to change, {count // 20} to destroy.**\n")
    check(page)


def test_more_destroyed_than_fit_are_counted_too() -> None:
    page = render_plan_markdown(
        Report(plan(*(change(Action.DELETE, f"app.main.old-{n}", HOSTILE) for n in range(2000))))
    )
    shown = page.count("- `-` `app.main.old-")

    assert len(page.encode()) <= LIMIT
    assert f"… {2000 - shown} more changes are not shown: see the job's log" in page


@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_plan_is_a_safe_page(name: str) -> None:
    check(render_plan_markdown(CASES[name]))
