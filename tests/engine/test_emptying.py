"""Machines are seen to be gone before what they stand in is removed."""

from __future__ import annotations

import pytest

from falplan.core.errors import FalplanError
from falplan.engine.emptying import end_all
from falplan.sdk.launches import Intent, Stage
from falplan.sdk.testing.journals import MemoryJournal
from falplan.sdk.testing.sellers import MemorySeller


def a_seller(machines: int) -> MemorySeller:
    seller = MemorySeller()
    for number in range(machines):
        seller.buy(["large"], Intent(f"fake/m-{number}", "mine", "plane-1"), MemoryJournal())
    seller.buy(["large"], Intent("fake/other", "theirs", "plane-9"), MemoryJournal())
    seller.ready()
    return seller


def test_machines_that_nobody_gave_back_are_ended_and_seen_to_be_gone() -> None:
    seller, said = a_seller(2), list[str]()
    end_all(seller, "mine", said.append, pause=lambda seconds: seller.ready())

    stages = {i: b.stage for i, (_, b) in seller.made.items()}
    assert stages == {"fake-1": Stage.GONE, "fake-2": Stage.GONE, "fake-3": Stage.UP}
    assert said == ["ending 2 machines: fake-1 (large), fake-2 (large)"]
    end_all(seller, "mine", said.append, pause=lambda seconds: seller.ready())
    assert len(said) == 1


def test_machines_that_do_not_end_are_named() -> None:
    """Seen red with a state that forgot what still cost money."""
    with pytest.raises(FalplanError, match="fake-1: they do not end"):
        end_all(a_seller(1), "mine", lambda line: None, pause=lambda seconds: None)
