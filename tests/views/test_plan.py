"""The plan's text, compared with golden files. `GOLDEN=write pytest tests/views` writes them anew; review the diff like code."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falplan.core.consequences import LiveRunner, consequences
from falplan.core.placement import GIB, Placed, Slots
from falplan.core.plan import Plan, Presence, Seen
from falplan.core.planner import make_plan
from falplan.core.provided import Declared, ResourceKind, resource_of
from falplan.core.report import Report
from falplan.core.resources import Resource
from falplan.core.spec.resolved import MachineType, Origin
from falplan.core.state import Recorded, State
from falplan.views.plan import escape, render_plan, summary
from falplan.views.screen import Screen
from tests.core.builders import LINEAGE, a_build, a_gateway, a_state, an_app, wanted
from tests.views.golden import check_golden

EMPTY = State("demo", LINEAGE, 0)
LAPTOP = Slots("laptop", "local", 2, 8 * GIB, 2, 8 * GIB)
TYPES = {
    "XS": MachineType("XS", 0.5, 512 * 10**6),
    "GPU-H100": MachineType("GPU-H100", 12, 112 * 10**9, "H100", 1, 80 * 10**9),
}


def base(**changed: object) -> dict[str, Resource]:
    return wanted(a_gateway(), a_build(), an_app(**changed))  # type: ignore[arg-type]


def from_class(resource: Resource, name: str) -> Resource:
    return replace(resource, origins={**resource.origins, f"settings.{name}": Origin.CLASS})


APPLIED = a_state(*base().values())
WITH_OUTPUTS = replace(
    APPLIED,
    resources={
        **APPLIED.resources,
        "app.main.hello": replace(APPLIED.resources["app.main.hello"], outputs={"revision": "r-0123456789ab"}),
    },
)
MOVED = replace(an_app(), inputs={**an_app().inputs, "endpoint": "umbrella/hello"})


def a_host(name: str, depends_on: tuple[str, ...] = (), **more: Any) -> Resource:
    rules = {n: more.pop(n) for n in ("create_first", "managed") if n in more}
    inputs: dict[str, Any] = {"size": "small", "disk": 10, **more}
    others = tuple((ResourceKind.HOST, n) for n in depends_on)
    fixed, told = frozenset({"size"}), {"size": "a host keeps its size for life"}
    declared = Declared(
        ResourceKind.HOST,
        name,
        inputs,
        {"world": "/w"},
        others,
        immutable=fixed,
        known_after=("id",),
        because=told,
        **rules,
    )
    return resource_of("lab", "fake", declared)


def made(resource: Resource, identity: str) -> Recorded:
    return Recorded(resource.address, "host", resource.inputs, {"id": identity}, resource.dependencies, 1)


PROVIDED = wanted(
    a_gateway(),
    a_host("bigger", size="large"),
    a_host("first", size="large", create_first=True),
    a_host("grown", disk=20),
    a_host("half", ("grown",)),
    a_host("looked", ("grown",), managed=False),
    a_host("same"),
    a_host("taken"),
)
PROVIDED_STATE = a_state(a_gateway())
PROVIDED_STATE = replace(
    PROVIDED_STATE,
    resources={
        **PROVIDED_STATE.resources,
        "host.lab.bigger": made(a_host("bigger"), "h-1"),
        "host.lab.first": made(a_host("first"), "h-2"),
        "host.lab.gone": made(a_host("gone"), "h-3"),
        "host.lab.grown": made(a_host("grown"), "h-4"),
        "host.lab.half": made(a_host("half"), "h-5"),
        "host.lab.same": made(a_host("same"), "h-6"),
    },
)
PROVIDED_SEEN = {
    "host.lab.gone": Seen(Presence.PRESENT, leftovers=("h-33",)),
    "host.lab.half": Seen(Presence.PRESENT, unfinished="h-55 also carries its mark", leftovers=("h-55",)),
    "host.lab.taken": Seen(Presence.PRESENT, {"disk": 10}),
}

CASES: dict[str, tuple[dict[str, Resource], State, dict[str, Seen], list[LiveRunner]]] = {
    "create": (base(), EMPTY, {}, []),
    "nothing": (base(), APPLIED, {}, []),
    "settings_and_code": (
        {
            **base(),
            "app.main.hello": from_class(
                an_app(files={"app.py": "bb", "model.py": "cc"}, max_concurrency=4, keep_alive=60), "keep_alive"
            ),
        },
        WITH_OUTPUTS,
        {},
        [LiveRunner("app.main.hello", "r-0123456789ab")] * 2,
    ),
    "replace": ({**base(), "app.main.hello": MOVED}, WITH_OUTPUTS, {}, []),
    "destroy": ({}, WITH_OUTPUTS, {}, [LiveRunner("app.main.hello", "r-0123456789ab")]),
    "stopped": (base(), APPLIED, {"gateway": Seen(Presence.STOPPED, because="it is stopped")}, []),
    "unknown": (
        base(),
        APPLIED,
        dict.fromkeys(base(), Seen(Presence.UNKNOWN, because="the control plane does not answer")),
        [],
    ),
    "provided": (PROVIDED, PROVIDED_STATE, PROVIDED_SEEN, []),
    "rescale": (
        base(min_concurrency=3, max_concurrency=5),
        APPLIED,
        {},
        [LiveRunner("app.main.hello", "r-0123456789ab")],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_text_of_a_plan(name: str) -> None:
    spec, state, seen, runners = CASES[name]
    plan = make_plan(spec, state, seen)
    follow, missing = consequences(plan, runners, [LAPTOP], TYPES)
    text = render_plan(Report(plan, tuple(follow)), Screen(columns=None))

    assert missing == []
    check_golden(text, f"plan_{name}.txt")


def test_summary_stands_first_and_last_and_agrees_with_emptiness() -> None:
    plan = make_plan(base(), EMPTY, {})
    lines = render_plan(Report(plan)).strip().splitlines()

    assert lines[0] == lines[-1] == summary(plan) == "Plan: 3 to add, 0 to change, 0 to destroy."


def test_no_room_names_every_machine_and_what_would_help() -> None:
    gpu = base(machine_type=["GPU-H100"])
    _, (missing,) = consequences(make_plan(gpu, EMPTY, {}), [], [LAPTOP], TYPES)

    assert missing.reasons == ("laptop: GPU-H100 does not fit: it needs 1 GPU, the machine has none",)
    assert "ever large enough" in missing.advice


def test_no_room_to_verify_a_revision_does_not_advise_to_lower_what_is_zero() -> None:
    """Seen red with the advice to lower min_concurrency of an app that has none."""
    full = replace(LAPTOP, free_ram=0)
    _, (missing,) = consequences(make_plan(base(min_concurrency=0), EMPTY, {}), [], [full], TYPES)

    assert (
        missing.advice
        == "It is started to verify the revision: deploy fewer apps at a time (--target), or add a machine."
    )


def test_no_room_for_old_and_new_together_names_recreate() -> None:
    full = replace(LAPTOP, free_ram=0)
    plan = make_plan(base(files={"app.py": "bb"}), APPLIED, {})
    _, (missing,) = consequences(plan, [LiveRunner("app.main.hello", "r")], [full], TYPES)

    assert "`strategy: recreate`" in missing.advice


def test_recreate_uses_the_room_of_the_runners_that_it_stops() -> None:
    full = replace(LAPTOP, free_ram=0)
    plan = make_plan(base(files={"app.py": "bb"}, strategy="recreate", min_concurrency=1), APPLIED, {})
    leaving = LiveRunner("app.main.hello", "r", Placed("laptop", "local", "XS", 0.5, 512 * 10**6))

    assert consequences(plan, [], [full], TYPES)[1]
    assert consequences(plan, [leaving], [full], TYPES)[1] == []


@pytest.mark.parametrize("ending", [{"leaving": True}, {"serving": False}])
def test_room_of_runners_that_end_anyway_is_waited_for(ending: dict[str, bool]) -> None:
    full = replace(LAPTOP, free_ram=0)
    plan = make_plan(base(files={"app.py": "bb"}), APPLIED, {})
    there = Placed("laptop", "local", "XS", 0.5, 512 * 10**6)

    assert consequences(plan, [LiveRunner("app.main.hello", "r", there)], [full], TYPES)[1]
    assert consequences(plan, [LiveRunner("app.main.hello", "r", there, **ending)], [full], TYPES)[1] == []


@given(st.text())
def test_nothing_printed_drives_the_terminal(text: str) -> None:
    printed = escape(text)

    assert all(c.isprintable() for c in printed)


def test_colours_are_only_added_when_asked_for() -> None:
    plan: Plan = make_plan(base(), EMPTY, {})

    assert "\x1b" not in render_plan(Report(plan))
    assert "\x1b[32m" in render_plan(Report(plan), Screen(color=True))


def test_a_recorded_resource_without_inputs_is_still_shown() -> None:
    state = replace(EMPTY, resources={"app.main.x": Recorded("app.main.x", "app", {}, {})})

    assert "- app.main.x will be destroyed" in render_plan(Report(make_plan({}, state, {})))
