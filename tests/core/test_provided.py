"""Resources that providers own: which of what was found is which, and what a plan makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from falplan.core.plan import Action, Change, Presence, Reason, Seen
from falplan.core.plan_json import report_to_json
from falplan.core.plan_parse import report_from_json
from falplan.core.planner import make_plan
from falplan.core.provided import (
    Declared,
    Found,
    ResourceKind,
    Sighted,
    Standing,
    differing,
    imported_as,
    resource_of,
    sight,
    unmanaged_gone,
    with_strays,
)
from falplan.core.report import Report
from falplan.core.resources import GATEWAY, ByProviders, Resource, desired_resources
from falplan.core.spec.resolved import Origin
from falplan.core.state import Intent, Recorded, State, Status
from falplan.core.values import JsonObject
from falplan.stores.spec.load import load_spec
from tests.core.builders import LINEAGE, a_gateway, a_state, wanted

HOME: JsonObject = {"account": "1"}
NOTHING = Sighted()
NO_IMPORTS: Mapping[str, str] = {}


def declared(name: str = "a", **more: Any) -> Declared:
    rules = {n: more.pop(n) for n in ("managed", "create_first", "protect", "depends_on", "defaults") if n in more}
    inputs: JsonObject = {"size": "small", "net": {"range": "10/8", "name": "n"}, **more}
    return Declared(
        ResourceKind.HOST,
        name,
        inputs,
        dict(HOME),
        immutable=frozenset({"size", "net.range"}),
        known_after=("id",),
        **rules,
    )


def host(name: str = "a", **more: Any) -> Resource:
    return resource_of("lab", "fake", declared(name, **more))


def found(name: str = "a", identity: str = "h-1", **more: Any) -> Found:
    return Found(f"host.lab.{name}" if name else "", identity, {"size": "small"}, **more)


def recorded(resource: Resource, identity: str = "h-1", **more: Any) -> Recorded:
    outputs: JsonObject = {"id": identity} if identity else {}
    return Recorded(
        resource.address, "host", resource.inputs, outputs, resource.dependencies, **{"generation": 1, **more}
    )


def knowing(*resources: Recorded, **more: Any) -> State:
    state = a_state(a_gateway(), **more)
    return replace(state, resources={**state.resources, **{r.address: r for r in resources}})


def looked(
    state: State, *seen: Found, wants: tuple[Resource, ...] = (), imports: Mapping[str, str] = NO_IMPORTS
) -> Sighted:
    known = {a: r for a, r in state.resources.items() if a != GATEWAY}
    return sight(known, [r.address for r in wants], seen, state, imports)


def planned(state: State, *wants: Resource, seen: Sighted = NOTHING) -> dict[str, Change]:
    return dict(make_plan(wanted(a_gateway(), *wants), with_strays(state, strays(seen)), seen.seen).changes)


def strays(seen: Sighted) -> dict[str, tuple[Found, JsonObject]]:
    return {a: (f, {"provider": "fake", "home": HOME}) for a, f in seen.strays.items()}


INTERRUPTED = Intent("create", "op", 1, "")


def test_a_record_counts_more_than_a_mark() -> None:
    """Seen red with marks looked at first."""
    state = knowing(recorded(host("new"), "h-1"))
    seen = looked(state, found("old", "h-1"), wants=(host("new"),))

    assert set(seen.seen) == {"host.lab.new"}
    change = planned(state, host("new"), seen=seen)["host.lab.new"]
    assert (change.action, change.because) == (
        Action.UPDATE,
        "it carries the mark of host.lab.old: it is marked anew",
    )


def test_what_is_not_found_is_made_again_and_what_stopped_is_brought_up() -> None:
    state = knowing(recorded(host()), recorded(host("b"), "h-2"))
    seen = looked(state, found("b", "h-2", standing=Standing.STOPPED, because="it is stopped"))
    changes = planned(state, host(), host("b"), seen=seen)

    assert changes["host.lab.a"].action is Action.CREATE
    assert changes["host.lab.b"].because == "it is stopped: it is started again"


@pytest.mark.parametrize(
    ("path", "action"),
    [
        ({"size": "large"}, Action.REPLACE),
        ({"net": {"range": "10/9", "name": "n"}}, Action.REPLACE),
        ({"net": None}, Action.REPLACE),
        ({"net": {"range": "10/8", "name": "m"}}, Action.UPDATE),
        ({"disk": 20}, Action.UPDATE),
    ],
)
def test_what_the_provider_calls_immutable_makes_another_one(path: dict[str, Any], action: Action) -> None:
    """A part of something immutable counts, and so does what has an immutable part. Seen red with equal paths alone compared."""
    change = planned(knowing(recorded(host())), host(**path))["host.lab.a"]

    assert change.action is action
    assert change.unknown == (("id",) if action is Action.REPLACE else ())


def test_create_first_is_the_providers_to_say() -> None:
    change = planned(knowing(recorded(host())), host(size="large", create_first=True))["host.lab.a"]

    assert change.action is Action.REPLACE_CREATE_FIRST
    assert change.reason is Reason.CANNOT_UPDATE


def test_a_new_one_forces_nothing() -> None:
    change = planned(knowing(), host())["host.lab.a"]

    assert change.action is Action.CREATE
    assert not any(a.forces_replacement for a in change.attributes)


@pytest.mark.parametrize("known", [None, recorded(host(), "", generation=0, intent=INTERRUPTED)])
def test_what_carries_the_mark_and_no_record_is_taken(known: Recorded | None) -> None:
    """Made by somebody who died before it was recorded, or recorded in a state that was lost."""
    state = knowing(*([known] if known else []))
    seen = looked(state, found(), wants=(host(),))
    change = planned(state, host(), seen=seen)["host.lab.a"]

    assert seen.strays == {}
    assert change.action is (Action.UPDATE if known else Action.CREATE)
    assert "taken" in change.because or "interrupted" in change.because


def test_what_carries_the_mark_and_nobody_wants_is_removed() -> None:
    """Seen red with strays left out of the plan: they would be paid for for ever."""
    state = knowing()
    seen = looked(state, found("ghost", "h-8"), found("ghost", "h-9"))
    change = planned(state, seen=seen)["host.lab.ghost"]

    assert change.action is Action.DELETE
    assert (change.outputs["id"], change.leftovers) == ("h-8", ("h-9",))
    assert (change.before or {})["home"] == HOME


def test_what_was_forgotten_stays_until_it_is_wanted_again() -> None:
    state = knowing(forgotten=frozenset({"host.lab.a"}))

    assert looked(state, found()).strays == {}
    assert looked(state, found()).seen == {}
    assert "taken" in planned(state, host(), seen=looked(state, found(), wants=(host(),)))["host.lab.a"].because


def test_leftovers_of_an_interrupted_replacement_go_with_the_next_operation() -> None:
    """Seen red with leftovers ignored where nothing else differs: two hosts were paid for."""
    state = knowing(recorded(host()))
    change = planned(state, host(), seen=looked(state, found(), found(identity="h-2")))["host.lab.a"]

    assert (change.action, change.leftovers) == (Action.UPDATE, ("h-2",))
    assert change.because == "h-2 also carries its mark"


def test_the_new_half_of_a_replacement_is_taken_when_the_old_one_is_gone() -> None:
    state = knowing(recorded(host(), "h-1", intent=INTERRUPTED))
    change = planned(state, host(), seen=looked(state, found(identity="h-2")))["host.lab.a"]

    assert change.action is Action.CREATE
    assert "h-2 carries its mark and is taken in its place" in change.because


def test_something_unmanaged_is_read_and_forgotten_but_never_changed() -> None:
    state = knowing(recorded(host("old", managed=False), "h-3"))
    changes = planned(state, host(), host("x", managed=False, depends_on=((ResourceKind.HOST, "a"),)))

    assert changes["host.lab.x"].action is Action.READ
    assert changes["host.lab.x"].reason is Reason.DEPENDENCY_PENDING
    assert set(unmanaged_gone(state, {"host.lab.x"})) == {"host.lab.old"}


@pytest.mark.parametrize("seen", [Seen(Presence.ABSENT, because="gone"), Seen(Presence.PRESENT, {"size": "huge"})])
def test_something_unmanaged_that_differs_is_looked_at_again(seen: Seen) -> None:
    state = knowing(recorded(host(managed=False)))
    change = make_plan(wanted(a_gateway(), host(managed=False)), state, {"host.lab.a": seen}).changes["host.lab.a"]

    assert change.action in (Action.READ, Action.NOOP)


def test_taint_and_replace_make_another_one() -> None:
    state = knowing(recorded(host(), status=Status.REMAKE), recorded(host("b"), "h-2"))
    changes = make_plan(wanted(a_gateway(), host(), host("b")), state, {}, renewed=["host.lab.b"]).changes

    assert changes["host.lab.a"].reason is Reason.TAINTED
    assert changes["host.lab.b"].reason is Reason.REQUESTED
    assert {changes[a].action for a in ("host.lab.a", "host.lab.b")} == {Action.REPLACE}


def test_an_import_is_marked_by_the_apply_that_takes_it() -> None:
    """Seen red with what can't be read back taken for absent: what was just imported was to be replaced."""
    state = knowing()
    seen = looked(state, found("", "i-7"), imports={"host.lab.a": "i-7"})
    own: JsonObject = {"provider": "fake", "home": HOME}
    record, look = imported_as("host.lab.a", seen.imported["host.lab.a"], declared().inputs, own, state)
    change = make_plan(wanted(a_gateway(), host()), knowing(record), {"host.lab.a": look}).changes["host.lab.a"]

    assert record.outputs["id"] == "i-7"
    assert change.because == "it carries no mark of this project: it is marked"


@pytest.mark.parametrize(
    ("mark", "action", "because"),
    [
        ("host.lab.a", Action.NOOP, ""),
        ("host.lab.old", Action.UPDATE, "it carries the mark of host.lab.old: it is marked anew"),
    ],
    ids=["its own", "another"],
)
def test_an_import_of_what_was_forgotten_says_whose_mark_it_carries(mark: str, action: Action, because: str) -> None:
    """Seen red with every import said to carry no mark, and updated for it."""
    state = knowing()
    marked = replace(found("", "i-7"), address=mark)
    record, look = imported_as("host.lab.a", marked, declared().inputs, {"provider": "fake", "home": HOME}, state)
    change = make_plan(wanted(a_gateway(), host()), knowing(record), {"host.lab.a": look}).changes["host.lab.a"]

    assert (change.action, change.because) == (action, because)


SPEC = """\
version: 1
project: demo
owner: acme
regions: {lab: {provider: fake, hosts: {a: {}}, speed: 1}}
apps: {hello: {command: sleep 1}}
"""


def test_hosts_are_no_settings_of_the_gateway_and_apps_wait_for_them(tmp_path: Path) -> None:
    """Seen red with the regions' options given to the gateway whole: a new host changed it."""
    (tmp_path / "falplan.yaml").write_text(SPEC)
    spec = load_spec(tmp_path, providers=["fake"])
    by = ByProviders({"lab": (host(),)}, {"lab": frozenset({"hosts"})})
    made = desired_resources(spec, provided=by)

    assert made[GATEWAY].inputs["regions"] == {"lab": {"provider": "fake", "speed": 1}}
    assert "host.lab.a" in made["app.main.hello"].dependencies
    assert made["host.lab.a"].dependencies == (GATEWAY,)


def test_what_was_read_back_otherwise_is_named() -> None:
    assert differing({"size": "large", "disk": 3}, found()) == ["size"]


def test_nothing_is_made_twice_under_one_operation() -> None:
    state = State("demo", LINEAGE, 3)
    one = make_plan(wanted(a_gateway(), host()), state, {}).changes["host.lab.a"]
    two = make_plan(wanted(a_gateway(), host()), state, {}).changes["host.lab.a"]

    assert one.operation == two.operation != ""


def test_what_is_only_looked_at_is_data_as_terraform_has_it() -> None:
    plan = make_plan(wanted(a_gateway(), host(), host("x", managed=False)), State("demo", LINEAGE, 3), {})
    shown: Any = report_to_json(Report(plan))
    modes = {r["address"]: (r["mode"], r["change"]["actions"]) for r in shown["resource_changes"]}

    assert modes["host.lab.x"] == ("data", ["read"])
    assert modes["host.lab.a"] == ("managed", ["create"])
    assert report_from_json(shown).plan == plan


def test_what_the_spec_leaves_to_the_provider_is_told_from_what_it_says() -> None:
    wants = resource_of("lab", "fake", declared(disk=10, defaults=frozenset({"disk", "net.range"})))
    plan = make_plan({wants.address: wants}, a_state(), {})
    origins = {".".join(a.path): a.origin for a in plan.changes[wants.address].attributes}

    assert (origins["disk"], origins["net.range"]) == (Origin.DEFAULT, Origin.DEFAULT)
    assert (origins["size"], origins["net.name"], origins["provider"]) == (Origin.SPEC,) * 3
