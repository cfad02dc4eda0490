"""Edits of state keep it sound, whatever their order; so does mending one that is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falplan.core.compare import REMADE
from falplan.core.errors import FalplanError, Refused
from falplan.core.plan import Action, Presence, Reason, Seen
from falplan.core.planner import inputs_digest, make_plan
from falplan.core.state import (
    Entry,
    Intent,
    Output,
    Recorded,
    State,
    StateUnreadable,
    Status,
    operation_id,
    parse_state,
    render_state,
)
from falplan.core.state_edits import difference, forget, matching, move, objections, taint, untaint
from falplan.core.state_integrity import problems
from falplan.core.state_repair import Backup, Log, Remains, Wish, diagnose
from falplan.core.values import digest
from tests.core.builders import LINEAGE, a_build, a_gateway, a_state, an_app, wanted

FULL = a_state(
    a_gateway(), a_build(), an_app(), a_build("two"), an_app("two"), a_build(environment="staging"), serial=4
)
NAMES = ["hello", "two", "three"]
ADDRESSES = [f"{kind}.{e}.{n}" for kind in ("app", "build") for e in ("main", "staging") for n in NAMES] + ["gateway"]

EDITS = st.one_of(
    st.tuples(st.sampled_from(ADDRESSES), st.sampled_from(ADDRESSES)).map(lambda p: lambda s: move(s, *p)),
    st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=3).map(lambda a: lambda s: forget(s, a)),
    st.sampled_from(ADDRESSES).map(lambda a: lambda s: taint(s, a)),
    st.sampled_from(ADDRESSES).map(lambda a: lambda s: untaint(s, a)),
)


@given(st.lists(EDITS, max_size=12))
def test_no_order_of_edits_breaks_a_state_or_repeats_an_operation_id(edits: list[Callable[[State], Any]]) -> None:
    """Seen red with a move that left the old address unretired, and with one that kept the resource's own generation."""
    state = replace(FULL, retired={"app.main.three": 9, "build.staging.two": 4})
    used = {a: state.generation(a) for a in ADDRESSES}
    for edit in edits:
        try:
            state = edit(state).state
        except FalplanError:
            continue
        for address in ADDRESSES:
            assert state.generation(address) >= used[address], address
            used[address] = state.generation(address)

    assert problems(state) == []
    assert parse_state(render_state(state), "here") == state


def test_a_pattern_names_itself_what_is_below_and_what_matches() -> None:
    assert matching(FULL, "app.main") == ["app.main.hello", "app.main.two"]
    assert matching(FULL, "*.staging.hello") == ["build.staging.hello"]
    assert matching(FULL, "app.main.hell") == []
    assert matching(FULL, None) == sorted(FULL.resources)


def test_a_moved_app_is_no_change_where_the_spec_moved_with_it() -> None:
    moved = move(move(FULL, "build.main.hello", "build.main.new").state, "app.main.hello", "app.main.new").state
    app = replace(an_app("new"), inputs=an_app("hello").inputs)
    plan = make_plan(
        wanted(a_gateway(), a_build("new"), app, a_build("two"), an_app("two"), a_build(environment="staging")),
        moved,
        {},
    )

    assert plan.is_empty


def test_a_tainted_app_is_replaced_under_a_new_operation_id() -> None:
    """Seen red without the status in the plan: nothing was done."""
    tainted = taint(FULL, "app.main.hello").state
    seen = {a: Seen(Presence.PRESENT) for a in FULL.resources}
    change = make_plan(wanted(a_gateway(), a_build(), an_app()), tainted, seen).changes["app.main.hello"]

    assert (change.action, change.because) == (Action.REPLACE, REMADE)
    assert change.operation == operation_id(LINEAGE, "app.main.hello", 2)


def test_a_remaking_that_was_interrupted_is_asked_for_again_under_its_id() -> None:
    """Seen red with the interruption looked at first: an update in place, and the tainted app went on as it was."""
    tainted = taint(FULL, "app.main.hello").state
    first = make_plan(wanted(a_gateway(), a_build(), an_app()), tainted, {}).changes["app.main.hello"]
    begun = replace(
        tainted.resources[first.address],
        intent=Intent(first.action.value, first.operation, first.generation, inputs_digest(first)),
    )
    state = replace(tainted, resources={**tainted.resources, begun.address: begun})
    again = make_plan(wanted(a_gateway(), a_build(), an_app()), state, {}).changes["app.main.hello"]

    assert (again.action, again.operation, again.reason) == (Action.REPLACE, first.operation, Reason.TAINTED)


def test_a_host_that_never_answered_can_be_forgotten_and_nothing_else_that_was_interrupted() -> None:
    """Seen red with a host whose address was wrong from the beginning: no command got it out of state."""
    intent = Intent("create", "op-1", 1, "")
    host = Recorded("host.dc1.a", "host", {}, {}, intent=intent)
    app = replace(FULL.resources["app.main.hello"], intent=intent)
    state = replace(FULL, resources={**FULL.resources, host.address: host, app.address: app})

    edit = forget(state, [host.address])
    assert host.address not in edit.state.resources
    assert edit.notes[0] == "Nobody knows whether the create of host.dc1.a was done."
    with pytest.raises(Refused, match="interrupted"):
        forget(state, [app.address])


def test_another_type_that_is_tainted_is_done_again() -> None:
    plan = make_plan(wanted(a_gateway(), a_build(), an_app()), taint(FULL, "build.main.hello").state, {})

    build, app = plan.changes["build.main.hello"], plan.changes["app.main.hello"]
    assert (build.action, build.reason, app.action) == (Action.UPDATE, Reason.TAINTED, Action.UPDATE)


def test_a_failed_operation_is_done_again_in_place_as_before() -> None:
    failed = replace(FULL.resources["app.main.hello"], status=Status.TAINTED)
    state = replace(FULL, resources={**FULL.resources, failed.address: failed})
    change = make_plan(wanted(a_gateway(), a_build(), an_app()), state, {}).changes["app.main.hello"]

    assert change.action is Action.UPDATE


def test_what_is_lost_by_another_state_is_told() -> None:
    begun = replace(FULL.resources["app.main.two"], intent=Intent("update", "op", 2, ""))
    before = replace(FULL, resources={**FULL.resources, begun.address: begun})
    found = difference(before, forget(FULL, ["app.main.hello"]).state)

    assert (found.removed, found.changed, found.intents) == (("app.main.hello",), ("app.main.two",), ("app.main.two",))


@pytest.mark.parametrize("gone", [False, True], ids=["it is done", "it is removed"])
def test_an_operation_whose_end_the_other_state_knows_is_not_lost(gone: bool) -> None:
    """Seen red with every open operation that the other state did not have: one that `errored` had the end of was called lost."""
    two = FULL.resources["app.main.two"]
    begun = replace(two, intent=Intent("update", "op", two.generation + 1, ""))
    ended = replace(two, generation=two.generation + 1)
    after = {a: r for a, r in FULL.resources.items() if a != two.address} | ({} if gone else {two.address: ended})
    known = replace(FULL, resources=after, retired={two.address: ended.generation} if gone else {})

    assert difference(replace(FULL, resources={**FULL.resources, begun.address: begun}), known).intents == ()


@pytest.mark.parametrize(
    ("pushed", "seen", "says"),
    [
        (replace(FULL, serial=4), 4, []),
        (replace(FULL, serial=9), 4, []),
        (replace(FULL, serial=3), 0, ["it is older"]),
        (replace(FULL, serial=5), 6, ["this machine has seen 6"]),
        (replace(FULL, lineage="x", serial=9), 0, ["another lineage"]),
    ],
)
def test_what_does_not_continue_a_state_is_objected_to(pushed: State, seen: int, says: list[str]) -> None:
    found = objections(FULL, pushed, seen=seen)

    assert len(found) == len(says)
    assert all(word in line for word, line in zip(says, found, strict=True))


def test_outputs_are_covered_by_the_checksum_and_older_states_have_none() -> None:
    state = replace(FULL, outputs={"url": Output("https://x"), "key": Output({"a": [1]}, sensitive=True)})
    text = render_state(state)

    assert parse_state(text, "here") == state
    assert "outputs" not in json.loads(render_state(FULL))
    with pytest.raises(StateUnreadable):
        parse_state(text.replace("https://x", "https://y"), "here")


# Mending


def with_checksum(body: dict[str, Any]) -> str:
    body.pop("checksum", None)
    return json.dumps({**body, "checksum": "sha256:" + digest(body)})


VALUES = st.one_of(
    st.none(),
    st.integers(-3, 9),
    st.text(max_size=5),
    st.sampled_from(ADDRESSES),
    st.lists(st.integers(), max_size=2),
    st.just({}),
)


@st.composite
def mangled(draw: st.DrawFn) -> str:
    """A state's text with anything in it changed, taken out or doubled; its checksum may match or not."""
    body = json.loads(render_state(FULL))
    for _ in range(draw(st.integers(0, 4))):
        holder: Any = draw(st.sampled_from([body, *[r for r in body.get("resources") or [] if isinstance(r, dict)]]))
        key = draw(st.sampled_from(sorted(holder)))
        match draw(st.sampled_from(["change", "drop", "double"])):
            case "change":
                holder[key] = draw(VALUES)
            case "drop":
                del holder[key]
            case _ if isinstance(body.get("resources"), list) and body["resources"]:
                body["resources"].append(
                    dict(draw(st.sampled_from(body["resources"])) or {})
                    if all(isinstance(r, dict) for r in body["resources"])
                    else {}
                )
        if not holder or not isinstance(body.get("resources", []), list | type(None)):
            break
    text = with_checksum(body) if draw(st.booleans()) else json.dumps(body)
    return text[: draw(st.integers(0, len(text)))] if draw(st.integers(0, 9)) == 0 else text


BACKUPS = [Backup("state.00000003.json", replace(FULL, serial=3)), Backup("state.00000002.json", None, "damaged")]
BEGUN = replace(FULL.resources["gateway"], intent=Intent("update", "op", 2, "x"))
ADRIFT = Recorded("app.main.new", "app", {}, {}, ("build.main.gone",), 1)
JOURNAL = Log(
    LINEAGE,
    4,
    (
        Entry("begin", "gateway", 2, BEGUN),
        Entry("done", "app.main.two", 2, None),
        Entry("done", ADRIFT.address, 1, ADRIFT),
    ),
    damaged=(3,),
)


@given(
    mangled(),
    st.sampled_from([None, JOURNAL, replace(JOURNAL, lineage="x"), replace(JOURNAL, serial=9)]),
    st.booleans(),
    st.integers(0, 12),
)
def test_whatever_is_mended_is_sound_and_newer_than_all_that_was(
    text: str, journal: Log | None, stands: bool, seen: int
) -> None:
    """Seen red without the pass over what the journal adds, and with a serial that was the backup's."""
    found = diagnose(
        Remains(text, journal, lineage=LINEAGE), BACKUPS, project="demo", seen=seen, wish=Wish(as_it_stands=stands)
    )
    if found.mended is None:
        assert found.advice or not found.findings
        return

    assert found.findings
    assert problems(found.mended) == []
    assert found.mended.serial >= seen
    assert parse_state(render_state(found.mended), "mended") == found.mended


@pytest.mark.parametrize("lacks", ["lineage", "project"])
@pytest.mark.parametrize("backups", [BACKUPS, []])
def test_a_snapshot_that_names_no_project_or_no_lineage_is_not_built_on(lacks: str, backups: list[Backup]) -> None:
    """Seen red: what was put in its place named none either, and no command read it."""
    text = with_checksum({**json.loads(render_state(FULL)), lacks: ""})
    found = diagnose(Remains(text), backups, project="demo", seen=4)
    assert any("nobody can tell whose state it is" in finding for finding in found.findings)
    assert found.mended is None or problems(found.mended) == []
    assert found.mended is not None or found.advice


def test_a_sound_state_needs_nothing() -> None:
    assert diagnose(Remains(render_state(FULL)), BACKUPS, project="demo", seen=4).mended is None


def test_a_backup_of_another_lineage_is_never_built_on() -> None:
    foreign = [Backup("state.00000009.json", replace(FULL, lineage="another", serial=9))]
    found = diagnose(Remains("{", JOURNAL), foreign, project="demo", seen=0)

    assert found.mended is None
    assert "There is no good backup" in found.advice


def test_what_is_locked_away_is_left_alone() -> None:
    found = diagnose(Remains(None, locked_away="It needs a key."), BACKUPS, project="demo", seen=9)

    assert (found.findings, found.mended) == (("It needs a key.",), None)


def test_the_journal_does_not_go_back_behind_what_is_known() -> None:
    old = Log(LINEAGE, 4, (Entry("done", "gateway", 0, None),))
    found = diagnose(Remains("{", old), BACKUPS, project="demo", seen=0)

    assert found.mended is not None
    assert isinstance(found.mended.resources["gateway"], Recorded)
