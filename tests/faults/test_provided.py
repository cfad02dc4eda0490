"""The checks of kill trials are checked: the fake provider passes where a naive twin of it is found out."""

from __future__ import annotations

import random
import signal

import pytest

from falplan.sdk.testing.rules import Fault, Moment, Rule
from falplan.sdk.testing.world import FACTORY
from tests.faults.provided import APPLY, Fleet, some_hosts
from tests.faults.sandbox import Broken

pytestmark = pytest.mark.faults


def _killed_in_a_create(factory: str) -> None:
    fleet = Fleet(factory=factory, hosts=some_hosts(12, random.Random(1)))
    try:
        fleet.world.set_faults([Rule(Fault.DIE, Moment.AFTER, "create", "host.*", nth=5)])
        killed = fleet.run(*APPLY)
        assert killed.code == -signal.SIGKILL, killed
        fleet.check_whole()
        fleet.world.set_faults([])
        fleet.apply()
        fleet.check_applied()
    finally:
        fleet.clean()


def test_what_was_made_and_never_answered_is_taken_by_the_next_apply() -> None:
    _killed_in_a_create(FACTORY)


def test_a_provider_that_ignores_marks_is_found_out() -> None:
    with pytest.raises(Broken, match=r"a second one is made|not as wanted|not empty"):
        _killed_in_a_create("tests.faults.twins:forgetful")
