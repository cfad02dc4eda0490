"""What people read while an apply goes on, and at its end."""

from __future__ import annotations

import pytest

from falplan.core.outcome import Fate, Outcome
from falplan.core.plan import Action
from falplan.views import progress
from tests.views.plans import DRIFTED, change
from tests.views.plans import plan as a_plan

MADE = (Action.CREATE, Action.UPDATE, Action.REPLACE, Action.DELETE)

ENDED = (
    Outcome("app.main.a", Action.UPDATE, Fate.SKIPPED, blamed=("build.main.a", "secret.main.KEY")),
    Outcome("app.main.b", Action.CREATE, Fate.NOT_BEGUN),
    Outcome("build.main.a", Action.REPLACE, Fate.FAILED, "It broke\x1b[2J"),
    Outcome("build.main.b", Action.CREATE, Fate.UNDER_WAY),
    Outcome("gateway", Action.DELETE, Fate.DONE),
    Outcome("secret.main.KEY", Action.CREATE, Fate.FAILED, "No"),
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (9.99, "9s"), (59.9, "59s"), (60, "1m00s"), (3599, "59m59s"), (7210, "2h00m10s")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_a_sign_of_life_says_what_goes_on_and_how_long() -> None:
    assert progress.still("gateway", Action.CREATE, 30.2) == "gateway: Still creating... [30s elapsed]"
    assert progress.still("gateway", Action.REPLACE_CREATE_FIRST, 90) == "gateway: Still replacing... [1m30s elapsed]"


def test_every_action_has_its_words() -> None:
    assert set(progress.VERBS) == set(Action)
    assert set(progress.WORDS) == set(Fate)


def test_what_did_not_finish_is_listed_with_its_reason() -> None:
    """Seen red with a summary that named only the first failure upstream; and with one that let a message drive the terminal."""
    assert progress.incomplete("Apply", ENDED).splitlines() == [
        "Apply did not finish: 1 done, 2 failed, 1 skipped, 1 left under way, 1 not begun.",
        "  failed          build.main.a: It broke\\x1b[2J",
        "  failed          secret.main.KEY: No",
        "  left under way  build.main.b",
        "  skipped         app.main.a, because build.main.a and secret.main.KEY failed",
        "  not begun       app.main.b",
    ]


def test_a_replacement_counts_as_one_added_and_one_destroyed() -> None:
    made = a_plan(*(change(a, f"app.main.a{n}") for n, a in enumerate(MADE)))

    assert progress.complete_line("Apply", made) == "Apply complete! 2 added, 1 changed, 2 destroyed."
    assert progress.complete_line("Destroy", made) == "Destroy complete! 1 destroyed."


def test_what_state_alone_sees_is_counted_at_the_end_as_in_the_plan() -> None:
    """Seen red with counts of what was done outside alone: an import ended with nothing but zeros."""
    taken = change(Action.NOOP, importing="acme/a")
    moved = change(Action.NOOP, "app.main.b", previous_address="app.main.was")
    left = change(Action.FORGET, "app.main.c")
    seen = change(Action.READ, "host.lab.d")
    end = progress.complete_line("Apply", a_plan(taken, moved, left, seen))

    assert end == "Apply complete! 1 imported, 0 added, 0 changed, 0 destroyed, 1 forgotten, 1 moved, 1 read."
    assert progress.complete_line("Destroy", a_plan(left)) == "Destroy complete! 0 destroyed, 1 forgotten."
    recorded = progress.complete_line("Apply", a_plan(drift=DRIFTED, refresh_only=True))
    assert recorded == "Apply complete! 3 differences recorded in state."
