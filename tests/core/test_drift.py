"""What differs from what was applied, and what the spec says about being alarmed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from falplan.core.drift import as_seen, drifted, find_drift, overridden
from falplan.core.plan import Override, Presence, Seen
from falplan.core.planner import make_plan
from falplan.core.spec.declared import IgnoreRule
from falplan.core.state import Intent
from tests.core.builders import a_build, a_gateway, a_state, an_app, settings, wanted

STATE = a_state(a_gateway(), a_build(), an_app())
SPEC = wanted(a_gateway(), a_build(), an_app())
APP = "app.main.hello"
PATH = "settings.max_concurrency"


def scaled(to: int = 8, overrides: Mapping[str, Override] = {}) -> dict[str, Seen]:
    return {APP: Seen(Presence.PRESENT, {"settings": settings(max_concurrency=to)}, overrides=overrides)}


def test_a_setting_made_elsewhere_is_drift_with_its_maker() -> None:
    made = Override(8, 2, "2026-11-20T08:00:00Z", "alice (key-1)")
    drift = find_drift(STATE, scaled(overrides={PATH: made})).drift[APP]

    assert [(a.path, a.before, a.after) for a in drift.attributes] == [(("settings", "max_concurrency"), 2, 8)]
    assert (drift.since, drift.by) == (made.since, made.by)
    assert drift.because == "it is overridden on the control plane"


def test_drift_and_overrides_of_one_resource_are_told_apart() -> None:
    """Seen red with every difference of an overridden resource taken for the override."""
    made = Override(8, 2, "2026-11-20T08:00:00Z", "alice (key-1)")
    seen = {
        APP: Seen(Presence.PRESENT, {"settings": settings(max_concurrency=8, keep_alive=99)}, overrides={PATH: made})
    }
    found = find_drift(STATE, seen).drift
    (changed,), (set_so,) = drifted(found.values()), overridden(found.values())

    assert [a.path[-1] for a in changed.attributes] == ["keep_alive"]
    assert (changed.because, changed.since, changed.by) == ("its settings were changed", "", "")
    assert [a.path[-1] for a in set_so.attributes] == ["max_concurrency"]
    assert (set_so.because, set_so.by) == ("it is overridden on the control plane", made.by)


def test_what_is_only_overridden_is_no_drift_and_the_other_way_round() -> None:
    made = Override(8, 2, "2026-11-20T08:00:00Z", "alice (key-1)")
    only = find_drift(STATE, scaled(overrides={PATH: made})).drift.values()
    gone = find_drift(STATE, {"gateway": Seen(Presence.ABSENT, because="gone")}).drift.values()

    assert (drifted(only), overridden(only)) == ([], [*only])
    assert (drifted(gone), overridden(gone)) == ([*gone], [])


def test_with_another_revision_come_all_its_settings() -> None:
    made = Override("r-1", "r-2", "2026-11-20T08:00:00Z", "alice (key-1)")
    seen = {APP: Seen(Presence.PRESENT, {"settings": settings(keep_alive=99)}, overrides={"revision": made})}
    found = find_drift(STATE, seen).drift.values()

    assert drifted(found) == []
    assert [a.path[-1] for a in overridden(found)[0].attributes] == ["keep_alive", "revision"]


def test_a_change_of_the_spec_alone_is_no_drift() -> None:
    assert find_drift(STATE, {APP: Seen(Presence.PRESENT, an_app().inputs)}).drift == {}


def test_what_is_gone_stopped_or_replaced_is_drift() -> None:
    for presence in (Presence.ABSENT, Presence.STOPPED, Presence.REPLACED, Presence.ROLLED_BACK):
        found = find_drift(STATE, {"gateway": Seen(presence, because="so it is")})
        assert (found.drift["gateway"].presence, found.drift["gateway"].because) == (presence, "so it is")


def test_what_could_not_be_looked_at_is_unknown_and_never_drift() -> None:
    """Seen red with an unknown resource that counted as gone."""
    found = find_drift(STATE, {APP: Seen(Presence.UNKNOWN, because="no answer")})

    assert (found.drift, found.unknown) == ({}, {APP: "no answer"})


def test_what_an_interrupted_apply_left_is_unknown() -> None:
    open_one = replace(STATE.resources[APP], intent=Intent("update", "x", 2, ""))
    state = replace(STATE, resources={**STATE.resources, APP: open_one})

    assert "interrupted" in find_drift(state, scaled()).unknown[APP]


def test_an_input_that_state_never_knew_is_no_drift() -> None:
    seen = {"gateway": Seen(Presence.PRESENT, {"falplan": "0.2.0"})}

    assert find_drift(STATE, seen).drift == {}


def test_a_revision_that_somebody_went_back_to_is_drift() -> None:
    made = Override("r-1", "r-2", "2026-11-20T08:00:00Z", "bob")
    drift = find_drift(STATE, {APP: Seen(Presence.PRESENT, {}, overrides={"revision": made})}).drift[APP]

    assert [(a.path, a.before, a.after) for a in drift.attributes] == [(("revision",), "r-2", "r-1")]


def test_a_rule_silences_only_what_it_covers() -> None:
    rule = IgnoreRule("app.*.hello", "settings.max_*", because="the autoscaler's")
    both = {APP: Seen(Presence.PRESENT, {"settings": settings(max_concurrency=8, keep_alive=1)})}

    assert (
        find_drift(STATE, scaled(), rules=[rule]).drift[APP].ignored == "app.*.hello settings.max_* (the autoscaler's)"
    )
    assert find_drift(STATE, scaled(), rules=[rule]).alarming == []
    assert [d.address for d in find_drift(STATE, both, rules=[rule]).alarming] == [APP]


def test_only_a_rule_for_the_whole_resource_silences_that_it_is_gone() -> None:
    gone = {APP: Seen(Presence.ABSENT, because="the control plane does not know it")}

    assert find_drift(STATE, gone, rules=[IgnoreRule(APP, "*")]).alarming
    assert not find_drift(STATE, gone, rules=[IgnoreRule(APP)]).alarming


def test_a_rule_ends_after_its_last_day() -> None:
    rule = IgnoreRule(APP, until="2026-11-21")

    assert not find_drift(STATE, scaled(), rules=[rule], today="2026-11-21").alarming
    assert find_drift(STATE, scaled(), rules=[rule], today="2026-11-22").alarming


def test_a_rule_changes_nothing_of_the_plan() -> None:
    plan = make_plan(SPEC, STATE, scaled())

    assert list(plan.after) == [APP]


SEEN = st.dictionaries(
    st.sampled_from(sorted(STATE.resources)),
    st.one_of(
        st.sampled_from([Seen(p, because="so") for p in Presence if p is not Presence.PRESENT]),
        st.integers(1, 3).map(lambda n: Seen(Presence.PRESENT, {"settings": settings(max_concurrency=n)})),
    ),
)


@given(SEEN)
def test_what_was_recorded_as_it_is_drifts_no_more(seen: dict[str, Seen]) -> None:
    """Seen red with a record that left what is gone in state."""
    again = find_drift(as_seen(STATE, seen), seen)

    assert all(d.presence not in (Presence.PRESENT, Presence.ABSENT) for d in again.drift.values())
    assert set(again.unknown) == {a for a, s in seen.items() if s.presence is Presence.UNKNOWN}
