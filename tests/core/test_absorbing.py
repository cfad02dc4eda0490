"""What was changed on the control plane, and what the spec says by now, or what state was told to take: it ends as applied."""

from __future__ import annotations

from dataclasses import replace

from falplan.core.compare import ABSORBED, AS_WANTED
from falplan.core.consequences import rolls
from falplan.core.drift import find_drift
from falplan.core.plan import Action, Change, Override, Presence, Seen
from falplan.core.planner import make_plan
from falplan.core.resources import Resource
from falplan.core.state import Recorded, State, Status
from falplan.views.plan_changes import change_lines
from falplan.views.screen import Screen
from tests.core.builders import LINEAGE, a_build, a_gateway, a_state, an_app, wanted

PATH = "settings.max_concurrency"


def settled(most: int) -> State:
    """State as it was applied with this setting."""
    return a_state(an_app(max_concurrency=most), a_build(), a_gateway())


def planned(state: State, app: Resource, seen: Seen) -> Change:
    return make_plan(wanted(app, a_build(), a_gateway()), state, {app.address: seen}).changes[app.address]


def override(value: int, applied: int) -> dict[str, Override]:
    return {PATH: Override(value, applied, "2026-11-21T10:00:00Z", "ana")}


def test_an_override_that_the_spec_says_by_now_becomes_what_is_applied() -> None:
    """Seen red with a plan that found nothing to do: drift stayed for ever, and `apps reset` took back what the spec said."""
    app = an_app(max_concurrency=5)
    change = planned(settled(2), app, Seen(Presence.PRESENT, app.inputs, overrides=override(5, 2)))

    assert (change.action, change.because, change.attributes, change.unknown) == (Action.UPDATE, ABSORBED, (), ())
    assert not rolls(change)


def test_a_change_to_what_the_spec_says_is_recorded_too() -> None:
    state, app = settled(9), an_app(max_concurrency=2)
    change = planned(state, app, Seen(Presence.PRESENT, app.inputs))
    tainted = {**state.resources, app.address: replace(state.resources[app.address], status=Status.TAINTED)}
    again = planned(replace(state, resources=tainted), app, Seen(Presence.PRESENT, app.inputs))

    assert (change.action, change.because, rolls(change)) == (Action.UPDATE, AS_WANTED, False)
    assert rolls(again)


def test_an_override_that_was_recorded_is_no_drift() -> None:
    """Seen red with overrides compared with what the control plane took for applied."""
    app, other = an_app(max_concurrency=9), an_app(max_concurrency=7)
    recorded = find_drift(settled(9), {app.address: Seen(Presence.PRESENT, app.inputs, overrides=override(9, 2))})
    differs = find_drift(settled(9), {app.address: Seen(Presence.PRESENT, other.inputs, overrides=override(7, 2))})
    (attribute,) = differs.drift[app.address].attributes

    assert recorded.drift == {}
    assert (attribute.path, attribute.before, attribute.after) == (("settings", "max_concurrency"), 9, 7)


def test_what_no_apply_ever_made_is_no_drift() -> None:
    """A creation that failed for certain. Seen red as `has been deleted`."""
    state = State(
        "demo", LINEAGE, 1, {"host.lab.a": Recorded("host.lab.a", "host", {}, {}, status=Status.TAINTED, generation=1)}
    )
    gone = {"host.lab.a": Seen(Presence.ABSENT, because="an earlier attempt made nothing")}
    made = replace(state, resources={"host.lab.a": replace(state.resources["host.lab.a"], outputs={"id": "h-1"})})

    assert find_drift(state, gone).drift == {}
    assert list(find_drift(made, gone).drift) == ["host.lab.a"]


def test_the_reason_of_an_update_says_what_of_it_differs() -> None:
    """Seen red with `its settings differ` for all of them."""
    app = an_app(max_concurrency=2)
    coded = replace(app, inputs={**app.inputs, "files": {"app.py": "bb"}})
    both = replace(coded, inputs={**coded.inputs, "settings": an_app(max_concurrency=3).inputs["settings"]})
    kept = replace(app, inputs={**app.inputs, "protect": True}, protected=True)
    scaled = Seen(Presence.PRESENT, an_app(max_concurrency=9).inputs)

    def why(wants: Resource, seen: Seen) -> str:
        return planned(settled(2), wants, seen).because

    seen = Seen(Presence.PRESENT, app.inputs)
    assert why(coded, seen) == "its files differ"
    assert why(kept, seen) == "its protection differs"
    assert why(both, seen) == "its settings differ"
    assert why(app, scaled) == "it was changed since it was applied, and is set back"
    assert why(an_app(max_concurrency=3), scaled) == "its settings differ"


def test_a_chosen_revision_is_where_the_change_of_the_revision_begins() -> None:
    """Seen red with the recorded revision in its place, which does not serve."""
    app = an_app(max_concurrency=2)
    made = Override("r-old", "r-1", "2026-11-21T10:00:00Z", "ana")
    change = planned(settled(2), app, Seen(Presence.PRESENT, app.inputs, overrides={"revision": made}))
    text = "\n".join(line.text for line in change_lines(change, Screen()))

    assert 'revision = "r-old" -> (known after apply)' in text
    assert "its settings differ" not in text
