"""When so much seems to be gone that nobody acts on it, and when it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falplan.core.loss import FEW, PERCENT, vanished
from falplan.core.plan import Presence, Seen
from falplan.core.resources import GATEWAY
from falplan.core.state import Intent, State, Status
from tests.core.builders import a_build, a_gateway, a_state, an_app

GONE = Seen(Presence.ABSENT, because="the control plane does not know it")
HERE = Seen(Presence.PRESENT)
UNSEEN = Seen(Presence.UNKNOWN, because="no answer")


def a_world(here: int, gone: int, unseen: int = 0) -> tuple[State, dict[str, Seen]]:
    """A state, and what was seen of it, the gateway being one of those that are there."""
    looks = [HERE] * (here - 1) + [GONE] * gone + [UNSEEN] * unseen
    apps = [an_app(f"a{n}") for n in range(len(looks))]
    seen = {GATEWAY: HERE, **{app.address: look for app, look in zip(apps, looks, strict=True)}}
    return a_state(a_gateway(), *apps), seen


@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 20))
def test_it_fires_exactly_beyond_a_few_and_a_part(here: int, gone: int, unseen: int) -> None:
    """Never for max(3, 30 %) or fewer, whatever could not be looked at. Seen red with `>=`, and with a part of all that is recorded."""
    found = vanished(*a_world(here, gone, unseen))

    assert (found is not None) == (gone > max(FEW, (here + gone) * PERCENT / 100))


def test_it_says_what_is_gone_why_and_what_to_do() -> None:
    found = vanished(*a_world(4, 14))

    assert found is not None
    assert found.refuses
    assert found.message == "14 of 18 resources that were applied are said to be gone"
    assert found.detail[0] == "app.main.a10: the control plane does not know it"
    assert found.detail[10] == "and 4 more"
    assert "expired credentials" in found.detail[-2]
    assert "--accept-loss" in found.detail[-1]


def test_somebody_may_accept_it() -> None:
    found = vanished(*a_world(4, 14), accepted=True)

    assert found is not None
    assert not found.refuses


@pytest.mark.parametrize("presence", [p for p in Presence if p not in (Presence.PRESENT, Presence.UNKNOWN)])
def test_what_goes_with_the_gateway_is_one_loss(presence: Presence) -> None:
    """Seen red with apps that were counted although the control plane's folder is gone: nobody could apply again without asking."""
    state, seen = a_world(1, 9)

    assert vanished(state, seen) is not None
    assert vanished(state, {**seen, GATEWAY: Seen(presence, because="so it is")}) is None


def test_what_may_never_have_been_made_is_no_loss() -> None:
    """Seen red with a guard that stopped the apply after one that was killed, or failed, half-way."""
    state, seen = a_world(1, 9)
    begun, failed = {}, {}
    for address, recorded in state.resources.items():
        begun[address] = replace(recorded, intent=Intent("create", "x", 1, ""))
        failed[address] = replace(recorded, status=Status.TAINTED)

    assert vanished(replace(state, resources=begun), seen) is None
    assert vanished(replace(state, resources=failed), seen) is None


def test_what_was_not_looked_at_says_nothing() -> None:
    state = a_state(a_gateway(), *(a_build(f"b{n}") for n in range(9)))

    assert vanished(state, {}) is None
    assert vanished(state, dict.fromkeys(state.resources, UNSEEN)) is None
