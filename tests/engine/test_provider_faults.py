"""Every call of a provider that changes something, with everything that may go wrong in it: one more apply converges.

Each case is an apply with one fault, then one without. State loads and nothing is lost or made twice in between (the machine's checks).
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from falplan.core.state import State
from falplan.core.values import Json, JsonObject
from falplan.sdk.testing.rules import Fault, Moment, Rule
from tests.core.builders import LINEAGE
from tests.engine.machine import Machine

HOST: JsonObject = {"size": "small", "disk": 1}
FIRST: JsonObject = {**HOST, "create_first": True}
NETWORK: JsonObject = {"cidr": "10.1.0.0/16"}


@dataclass(frozen=True, slots=True)
class Way:
    """From one wish to another, and the calls on that way."""

    name: str
    before: JsonObject | None
    after: JsonObject | None
    verbs: tuple[str, ...]


WAYS = (
    Way("a host is made", None, {"hosts": {"a": HOST}}, ("create",)),
    Way("a host is updated", {"hosts": {"a": HOST}}, {"hosts": {"a": {**HOST, "disk": 2}}}, ("update",)),
    Way(
        "a host is replaced", {"hosts": {"a": HOST}}, {"hosts": {"a": {**HOST, "size": "large"}}}, ("delete", "create")
    ),
    Way(
        "a host is replaced, the new one first",
        {"hosts": {"a": FIRST}},
        {"hosts": {"a": {**FIRST, "size": "large"}}},
        ("create", "delete"),
    ),
    Way("a host is removed", {"hosts": {"a": HOST, "b": HOST}}, {"hosts": {"b": HOST}}, ("delete",)),
    Way("a network is made", None, {"hosts": {}, "network": NETWORK}, ("create",)),
    Way(
        "a network is updated",
        {"hosts": {}, "network": NETWORK},
        {"hosts": {}, "network": {**NETWORK, "tags": {"team": "red"}}},
        ("update",),
    ),
    Way(
        "a network is replaced below its host",
        {"hosts": {"a": HOST}, "network": NETWORK},
        {"hosts": {"a": HOST}, "network": {"cidr": "10.2.0.0/16"}},
        ("delete", "create"),
    ),
    Way("a network is removed", {"hosts": {"a": HOST}, "network": NETWORK}, {"hosts": {"a": HOST}}, ("delete",)),
    Way("a region is removed", {"hosts": {"a": HOST}, "network": NETWORK}, None, ("delete",)),
)
EVERYWHERE = (Fault.FAIL, Fault.LOSE, Fault.HANG, Fault.DIE)
STRIKES = (
    *((fault, moment) for fault in EVERYWHERE for moment in Moment),
    (Fault.UNREACHABLE, Moment.BEFORE),
    (Fault.DENY, Moment.BEFORE),
    (Fault.LAG, Moment.BEFORE),
    (Fault.DIFFER, Moment.BEFORE),
)
CASES = [(way, verb, *strike) for way in WAYS for verb in way.verbs for strike in STRIKES]


@pytest.mark.parametrize(("way", "verb", "fault", "moment"), CASES, ids=lambda x: getattr(x, "name", str(x)).lower())
def test_one_more_apply_converges(way: Way, verb: str, fault: Fault, moment: Moment) -> None:
    machine = Machine()
    try:
        _want(machine, way.before)
        machine.apply_once()
        _want(machine, way.after)
        machine.apply([Rule(fault, moment, verb)], None)
        machine.nothing_is_lost()
        struck = [n for n in machine.world.notes() if n["event"] == "fault"]
        machine.apply_once()

        assert [n["verb"] for n in struck] == [verb]
        _check_converged(machine)
    finally:
        machine.teardown()


def _want(machine: Machine, wish: JsonObject | None) -> None:
    if wish is None:
        machine.leave()
    else:
        options: dict[str, Json] = {**wish, "world": "/nowhere"}
        machine.options = options


def _check_converged(machine: Machine) -> None:
    state = machine.state() or State("demo", LINEAGE, 0)
    plan, state = machine.plan_of(state)

    assert plan.is_empty, {a: c.because for a, c in plan.changes.items() if c.action.acts}
    machine._check_world(state)
