"""Random wishes, records, worlds and faults: state loads, nothing is lost or made twice, and two applies converge.

The same few here each time; 300 others in `make faults`, 10,000 in `make torture SUITE=machine`. Seen red with a `create` that ignores
marks, an outcome that is recorded before the call, an order without dependencies, an exit code that takes unknown for no difference, an
apply that begins a journal on top of an old one; and, in the 300, with intents that are not written before the call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from falplan.core.values import JsonObject
from falplan.sdk.testing.rules import Fault, Moment, Rule
from tests.engine.faulty_files import Mishap, Trouble
from tests.engine.machine import Machine, run


def test_random_histories_converge() -> None:
    run(Machine, examples=60, steps=10)


@contextmanager
def a_history(**hosts: JsonObject) -> Iterator[Machine]:
    """A machine that is led by hand, and checked as always."""
    machine = Machine()
    try:
        machine.want({"hosts": {**hosts}})
        yield machine
    finally:
        machine.teardown()


def test_a_replacement_whose_end_was_never_recorded_goes_with_its_region() -> None:
    """State knows the old one, which is gone, and the region is no longer looked at once nothing of it is recorded.

    Seen red with a delete of what state knows alone: the new one stayed for ever.
    """
    with a_history(a={"size": "small", "create_first": True}) as machine:
        machine.apply([], None)
        machine.want({"hosts": {"a": {"size": "large", "create_first": True}}})
        machine.apply([Rule(Fault.DIE, Moment.AFTER, "delete")], None)
        machine.leave()


def test_all_of_an_address_goes_where_state_knows_none_of_them() -> None:
    """Seen red with a delete that removed the leftovers, and not the one that they were left over beside."""
    with a_history(a={}) as machine:
        machine.apply([], Trouble(Mishap.TAKEN, write=5))
        machine.meddle(0, "copy")
        assert len(machine.world.things("lab")) == 2
        machine.leave()


def test_what_was_made_and_taken_away_by_hand_is_made_again_under_its_operation() -> None:
    """Two of 10,000 histories came to it. The world's history has to say that the first one is gone: seen red without that."""
    with a_history(a={}) as machine:
        machine.apply([Rule(Fault.LOSE, Moment.BETWEEN, "create")], None)
        machine.meddle(0, "remove")
        machine.apply([], None)
        assert len(machine.world.things("lab")) == 1


def test_a_journal_that_was_torn_in_its_first_line_is_begun_anew() -> None:
    """Seen red with an append that took a file without a head for a journal: the state was refused from then on."""
    for share in (0.0, 0.05):
        with a_history(a={}) as machine:
            machine.apply([], None)
            machine.want({"hosts": {"a": {"disk": 2}}})
            machine.apply([], Trouble(Mishap.TORN, write=1, share=share))
            machine.apply([Rule(Fault.DIE, Moment.AFTER, "update")], None)
            machine.nothing_is_lost()
