"""What is done with a bought machine: nothing is forgotten that may cost money, and nothing of others is ended."""

from __future__ import annotations

import pytest

from falplan.core.fleet import Life
from falplan.core.tenure import BOOT, GRACE, Shown, Stage, Strays, Tenant, Verb, follow, strays

NOW = 1_000_000.0


def tenant(life: Life, seconds: float = 10, identity: str = "i-1", name: str = "us-east/m-1") -> Tenant:
    return Tenant(name, life, NOW - seconds, identity)


def shown(stage: Stage, identity: str = "i-1", launch: str = "us-east/m-1", plane: str = "plane-1") -> Shown:
    return Shown(identity, launch, plane, stage, "Server.SpotInstanceTermination" if stage is Stage.ENDING else "")


@pytest.mark.parametrize(
    ("life", "seconds", "seen", "verb"),
    [
        (Life.WANTED, 10, None, Verb.ASK),
        (Life.WANTED, 10_000, None, Verb.ASK),
        (Life.STARTING, 10, None, Verb.WAIT),
        (Life.STARTING, GRACE + 1, None, Verb.LOST),
        (Life.STARTING, 10, Stage.STARTING, Verb.WAIT),
        (Life.STARTING, 10, Stage.UP, Verb.JOIN),
        (Life.STARTING, BOOT + 1, Stage.STARTING, Verb.LEAVE),
        (Life.STARTING, BOOT + 1, Stage.UP, Verb.LEAVE),
        (Life.STARTING, 10, Stage.ENDING, Verb.LOST),
        (Life.READY, 10, Stage.UP, Verb.WAIT),
        (Life.READY, 10, Stage.ENDING, Verb.LOST),
        (Life.READY, 10, Stage.GONE, Verb.LOST),
        (Life.READY, 10, None, Verb.WAIT),
        (Life.READY, GRACE + 1, None, Verb.LOST),
        (Life.LEAVING, 10, Stage.UP, Verb.END),
        (Life.LEAVING, 10_000, Stage.UP, Verb.END),
        (Life.LEAVING, 10, Stage.STARTING, Verb.END),
        (Life.LEAVING, 10, Stage.ENDING, Verb.WAIT),
        (Life.LEAVING, 10, Stage.GONE, Verb.FORGET),
        (Life.LEAVING, 10, None, Verb.END),
        (Life.LEAVING, GRACE + 1, None, Verb.FORGET),
    ],
)
def test_each_state_and_what_is_seen_have_one_step(life: Life, seconds: float, seen: Stage | None, verb: Verb) -> None:
    found = follow(tenant(life, seconds), None if seen is None else shown(seen), now=NOW)
    assert found.verb is verb
    assert found.because or verb not in (Verb.LOST, Verb.LEAVE)


def test_one_that_was_given_up_before_it_had_a_name_is_never_forgotten_unseen() -> None:
    """Seen red with a record that was closed as nothing was shown: the purchase had been made, and nobody knew of it."""
    assert follow(tenant(Life.LEAVING, GRACE * 100, identity=""), None, now=NOW).verb is Verb.END


def test_the_reason_of_an_end_is_the_providers() -> None:
    assert follow(tenant(Life.READY), shown(Stage.ENDING), now=NOW).because == "Server.SpotInstanceTermination"
    assert follow(tenant(Life.READY), shown(Stage.GONE), now=NOW).because == "it was ended by somebody else"


def found(*seen: Shown, tenants: tuple[Tenant, ...] = (), retired: tuple[str, ...] = ()) -> Strays:
    return strays(seen, {t.machine_id: t for t in tenants}, control_plane="plane-1", retired=retired)


def test_what_is_recorded_or_ends_is_no_stray() -> None:
    assert found(shown(Stage.UP), tenants=(tenant(Life.READY),)) == Strays()
    assert found(shown(Stage.GONE), shown(Stage.ENDING)) == Strays()


def test_one_whose_purchase_is_under_way_is_no_stray() -> None:
    """Seen red with instances ended that were shown before their answer came: each purchase ended the machine that it made."""
    assert found(shown(Stage.STARTING), tenants=(tenant(Life.WANTED, identity=""),)) == Strays()
    assert found(shown(Stage.STARTING), tenants=(tenant(Life.LEAVING, identity=""),)) == Strays()


def test_one_that_nobody_recorded_is_taken_over() -> None:
    seen = shown(Stage.UP)
    assert found(seen).adopted == (seen,)


def test_one_that_was_given_up_or_made_twice_is_ended() -> None:
    seen = shown(Stage.UP, "i-2")
    gone = found(seen, tenants=(tenant(Life.GONE),))
    assert gone.ended == ((seen, "us-east/m-1 was given up"),) and not gone.adopted
    twice = found(shown(Stage.UP), seen, tenants=(tenant(Life.READY),))
    assert twice.ended == ((seen, "us-east/m-1 is i-1"),)


def test_one_of_another_control_plane_is_left_alone_until_that_is_no_more() -> None:
    seen = shown(Stage.UP, plane="plane-2")
    assert found(seen) == Strays(foreign=(seen,))
    assert found(seen, retired=("plane-2",)) == Strays(ended=((seen, "plane-2, whose it was, is no more"),))
