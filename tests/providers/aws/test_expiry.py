"""Credentials that expire between any two calls: what was begun stops there, says so, and goes on with new ones as if nothing had been."""

from __future__ import annotations

import pytest

from falplan.sdk.launches import Intent
from falplan.sdk.resources import Denied, Mark
from falplan.sdk.testing import fakeec2
from falplan.sdk.testing.fakeec2 import FakeEc2, Fault, Strike
from falplan.sdk.testing.journals import MemoryJournal

from .scene import OWNER
from .test_policy import a_seller
from .test_support import silent, support


def live(fake: FakeEc2, journal: MemoryJournal) -> None:
    """Everything that a region is in its life: its resources, a machine, and the end of both. Each step may be done again."""
    region = support(fake, image="").resolved({}, ask=True)
    found = {f.address: f for f in region.look(OWNER, {})}
    for wanted in region.declared():
        mark = Mark(OWNER, f"{wanted.kind.value}.us-east", "op-1")
        if mark.address not in found:
            region.create(wanted, mark, besides="", say=silent)
    seller = a_seller(fake)
    machine = seller.buy(["g6.xlarge"], Intent("m-1", OWNER, "cp-1"), journal)
    fake.account.advance(60)
    assert [b.identity for b in seller.look(OWNER)] == [machine.identity]


def end(fake: FakeEc2) -> None:
    region, seller = support(fake), a_seller(fake)
    seller.end(OWNER, [b.identity for b in seller.look(OWNER)])
    fake.account.advance(600)
    found = {f.address: f for f in region.look(OWNER, {})}
    for wanted in reversed(region.declared()):
        mark = Mark(OWNER, f"{wanted.kind.value}.us-east", "op-1")
        if mark.address in found:
            region.delete(mark, found[mark.address].identity, say=silent)


def calls(fake: FakeEc2) -> int:
    return len(fake.account.calls)


def test_each_call_may_be_the_first_that_is_refused(fake: FakeEc2) -> None:
    """Nothing is made twice, and nothing is taken to be gone because nobody was let in to see it."""
    live(fake, MemoryJournal())
    making = calls(fake)
    end(fake)
    ending = calls(fake) - making
    assert making > 15 and ending > 5

    for number in range(1, making + 1):
        fake.account = fakeec2.Account()
        fake.account.faults.append(Fault("*", Strike.ERROR, number, 1, "RequestExpired", 400))
        journal = MemoryJournal()
        with pytest.raises(Denied):
            live(fake, journal)
        live(fake, journal)
        account = fake.account
        assert len(account.instances()) == 1, number
        assert sorted(i[:2] for i in account.things if i[:2] in ("sg", "lt")) == ["lt", "sg"], number

        fake.account.faults[:] = [Fault("*", Strike.ERROR, 1 + number % ending, 1, "RequestExpired", 400)]
        with pytest.raises(Denied):
            end(fake)
        end(fake)
        assert not [i for i in account.things if i[:2] in ("sg", "lt")], number
        assert [i.state(account.now) for i in account.instances()] == ["terminated"], number
