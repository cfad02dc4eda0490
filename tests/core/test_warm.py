"""Room that is kept free: what a spec asks for, how it is told to the control plane, and how much of it is lacking."""

from __future__ import annotations

from dataclasses import replace

from falplan.core.placement import GIB, Slots
from falplan.core.spec.machine_types import BUILT_IN
from falplan.core.warm import Warm, unmet, warm_from_json, warm_to_json

H100, L40 = BUILT_IN["GPU-H100"], BUILT_IN["GPU-L40"]
EIGHT = Slots("gpu-01", "east", 192, 1900 * GIB, 192, 1900 * GIB, 8, tuple(range(8)), "H100", 80 * GIB)


def test_what_is_told_is_read_as_it_was() -> None:
    warm = (Warm("east", H100, 2), Warm("east", L40, 1), Warm("west", H100, 1))
    assert warm_from_json(warm_to_json(warm)) == warm
    assert warm_from_json({}) == () and warm_to_json(()) == {}


def test_room_is_given_once_and_what_lacks_is_counted() -> None:
    two, nine = Warm("east", H100, 2), Warm("east", H100, 9)
    assert unmet([two], [EIGHT]) == []
    assert unmet([two, nine], [EIGHT]) == [(nine, 3)]
    assert unmet([two], []) == [(two, 2)]


def test_room_elsewhere_or_on_a_machine_that_is_closed_is_none() -> None:
    one = Warm("east", H100, 1)
    assert unmet([one], [replace(EIGHT, region="west")]) == [(one, 1)]
    assert unmet([one], [replace(EIGHT, closed="it is removed")]) == [(one, 1)]


def test_it_waits_for_a_machine_of_its_own_region_under_a_name_that_people_understand() -> None:
    waiting = Warm("east", H100, 2).waiting()
    assert waiting.who == "free room for 2 runners on GPU-H100 in east"
    assert (waiting.unplaced.count, waiting.unplaced.need.regions) == (2, ("east",))
