"""Machines that come to nothing, one after the other, are bought ever more slowly: each of them was paid for."""

from __future__ import annotations

import pytest

from falplan.core.brake import Dud, brake

NOW = 100_000.0


def duds(number: int, ago: float = 0.0) -> list[Dud]:
    return [Dud(NOW - ago - n, "it took no runners within 900 s") for n in range(number)]


@pytest.mark.parametrize(("number", "pause"), [(0, 0), (1, 0), (2, 120), (3, 240), (4, 480), (7, 3600), (50, 3600)])
def test_the_pause_grows_with_each_in_a_row_and_ends(number: int, pause: float) -> None:
    assert bool(brake(duds(number), now=NOW)) is (pause > 0)
    if pause:
        assert brake(duds(number, pause - 1), now=NOW)
    assert not brake(duds(number, pause), now=NOW)


def test_it_says_why_and_when_it_goes_on() -> None:
    assert brake(duds(3), now=NOW) == (
        "3 machines in a row came to nothing, the last one as it took no runners within 900 s; another one is bought in 4 min, "
        "or once the region is changed in the spec"
    )


def test_a_storm_of_failures_buys_fewer_than_ten_machines_an_hour() -> None:
    found: list[Dud] = []
    now, bought = 0.0, 0
    while now < 6 * 3600:
        if not brake(found, now=now):
            bought += 1
            found.insert(0, Dud(now + 60, "it ended"))
            now += 60
        now += 5
    assert bought < 15, "in six hours"
