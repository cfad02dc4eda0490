"""State survives its text, and nothing else is taken for state."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falplan.core.state import (
    FORMAT_VERSION,
    Entry,
    Intent,
    Recorded,
    State,
    StateUnreadable,
    Status,
    operation_id,
    parse_entry,
    parse_state,
    render_entry,
    render_state,
    replay,
)

from .builders import LINEAGE, a_build, a_gateway, a_state, an_app

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
RECORDED = st.builds(
    Recorded,
    address=TEXT,
    type=TEXT,
    inputs=st.dictionaries(TEXT, JSON, max_size=3),
    outputs=st.dictionaries(TEXT, JSON, max_size=3),
    dependencies=st.lists(TEXT, max_size=3).map(tuple),
    generation=st.integers(0, 9),
    status=st.sampled_from(Status),
    intent=st.none() | st.builds(Intent, TEXT, TEXT, st.integers(0, 9), TEXT),
)
STATES = st.builds(
    State,
    project=TEXT,
    lineage=TEXT,
    serial=st.integers(0, 10**6),
    resources=st.lists(RECORDED, max_size=4).map(lambda rs: {r.address: r for r in rs}),
    retired=st.dictionaries(TEXT, st.integers(0, 9), max_size=3),
)
ENTRIES = st.builds(Entry, st.sampled_from(["begin", "done", "failed"]), TEXT, st.integers(0, 9), st.none() | RECORDED)


@given(STATES)
def test_state_survives_its_text(state: State) -> None:
    assert parse_state(render_state(state), "state.json") == state


@given(ENTRIES)
def test_a_journal_entry_survives_its_line(entry: Entry) -> None:
    assert parse_entry(render_entry(entry)) == entry


@given(ENTRIES, st.data())
def test_a_torn_journal_line_is_no_entry(entry: Entry, data: st.DataObject) -> None:
    line = render_entry(entry).rstrip("\n")
    cut = data.draw(st.integers(0, len(line) - 1))

    assert parse_entry(line[:cut]) is None


WHOLE = render_state(a_state(a_gateway(), a_build(), an_app()))


@given(st.integers(0, len(WHOLE) - 2))
def test_a_truncated_state_is_never_used(cut: int) -> None:
    with pytest.raises(StateUnreadable):
        parse_state(WHOLE[:cut], "state.json")


@given(st.integers(0, len(WHOLE) - 1), st.characters(codec="ascii"))
def test_a_state_with_a_changed_character_is_refused_or_the_same(at: int, new: str) -> None:
    changed = WHOLE[:at] + new + WHOLE[at + 1 :]
    try:
        state = parse_state(changed, "state.json")
    except StateUnreadable:
        return

    assert state == parse_state(WHOLE, "state.json")


def test_an_empty_file_is_not_an_empty_state() -> None:
    with pytest.raises(StateUnreadable, match="empty"):
        parse_state("\n", "state.json")


def test_a_newer_format_is_refused_with_both_versions() -> None:
    body = json.loads(WHOLE)
    body.update(format_version=FORMAT_VERSION + 1, falplan_version="9.9.9")
    with pytest.raises(StateUnreadable, match=rf"format {FORMAT_VERSION + 1}, written by falplan 9\.9\.9"):
        parse_state(json.dumps(body), "state.json")


def test_duplicate_keys_and_nan_are_refused() -> None:
    for text in ('{"format_version": 1, "format_version": 1}', '{"format_version": NaN}'):
        with pytest.raises(StateUnreadable):
            parse_state(text, "state.json")


def test_replay_applies_entries_in_order() -> None:
    state = a_state(a_gateway())
    app = Recorded("app.main.x", "app", {}, {}, (), 1)
    begun = Entry("begin", app.address, 1, replace(app, generation=0, intent=Intent("create", "op", 1, "")))
    after = replay(state, [begun, Entry("done", app.address, 1, app), Entry("done", "gateway", 2, None)])

    assert after.resources == {app.address: app}
    assert after.generation("gateway") == 2


def test_operation_ids_differ_by_lineage_address_and_generation() -> None:
    ids = {operation_id(*a) for a in ((LINEAGE, "a", 1), (LINEAGE, "a", 2), (LINEAGE, "b", 1), ("other", "a", 1))}

    assert len(ids) == 4


def test_two_lines_of_a_journal_that_run_into_one_another_are_none() -> None:
    """Seen red with keys that may stand twice: the first entry was gone, and the second looked whole."""
    one, two = (render_entry(Entry("done", f"app.main.{name}", 1, None)) for name in ("one", "two"))
    place = two.index(',"address"')

    assert parse_entry(two) is not None
    assert parse_entry(one.rstrip("}\n") + two[place:]) is None
