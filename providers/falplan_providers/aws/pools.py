"""Which pool is asked next, and why others are not. Decides alone: the time and all that was tried come in as arguments."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from falplan.sdk.launches import Attempt, Pool, Verdict

from .quotas import family_of

FIRST_PAUSE = 180.0
"""Seconds for which a pool without capacity is not asked again; twice as long after each further refusal in a row."""
LONGEST_PAUSE = 600.0
QUOTA_PAUSE = 900.0
"""Seconds after which a quota may have been raised."""
REMEMBERED = 7_200.0
"""Seconds for which attempts count."""
ALWAYS = 86_400.0
"""Seconds for which a type that a zone does not offer is taken not to be offered there."""
ON_DEMAND, SPOT = "on-demand", "spot"


@dataclass(frozen=True, slots=True)
class Way:
    """A pool that may be asked, and where a machine of it would stand. `price` in USD an hour, None if nobody knows it."""

    pool: Pool
    subnet: str
    price: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """Why pools are not asked now, and until when. `at` is when they last were; `verdict` what was answered."""

    verdict: Verdict
    at: float
    until: float
    because: str


@dataclass(frozen=True, slots=True)
class Resolve:
    """Find out first what became of this attempt: it may have made a machine."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Follow:
    """This attempt made a machine."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Try:
    """Ask this pool, as the launch's attempt of this number."""

    way: Way
    number: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Nothing else is tried: other pools would answer the same."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Every pool was asked, or has to wait: each with its pause. `again_at` is when the first of them may be asked again."""

    pauses: tuple[tuple[Way, Pause], ...]
    again_at: float


Move = Resolve | Follow | Try | Stop | Exhausted


def next_move(
    ways: Sequence[Way], tried: Sequence[Attempt], others: Iterable[Attempt], *, now: float, told: Collection[int]
) -> Move:
    """What a launch does next.

    `ways` are in order of preference; `tried` are the launch's own attempts, `others` those of all launches in the region; `told` are the
    numbers of those that were answered since somebody asked for the machine this time: what was refused before that may be asked again.
    """
    last = tried[-1] if tried else None
    if last is not None:
        if last.verdict is Verdict.UNKNOWN:
            return Resolve(last)
        if last.verdict in (Verdict.MADE, Verdict.ENDED):
            return Follow(last)
        if last.verdict in (Verdict.PERMISSION, Verdict.PARAMETER) and last.number in told:
            return Stop(last)
    known = list(others)
    waiting = []
    for way in ways:
        pause = pause_of(way.pool, known, now)
        if pause is None:
            return Try(way, last.number + 1 if last else 1)
        waiting.append((way, pause))
    return Exhausted(tuple(waiting), min((p.until for _, p in waiting), default=now))


def pause_of(pool: Pool, attempts: Iterable[Attempt], now: float) -> Pause | None:
    """Why a pool is not asked now; None if it is."""
    told = sorted(
        (a for a in attempts if a.told_at and now - a.told_at < ALWAYS), key=lambda a: (a.told_at, a.launch, a.number)
    )
    pauses = [p for p in (_offered(pool, told), _quota(pool, told), _capacity(pool, told, now)) if p and p.until > now]
    return max(pauses, key=lambda p: p.until, default=None)


def _offered(pool: Pool, told: Sequence[Attempt]) -> Pause | None:
    for attempt in reversed(told):
        if attempt.pool == pool and attempt.verdict is Verdict.NOT_OFFERED:
            return Pause(attempt.verdict, attempt.told_at, attempt.told_at + ALWAYS, attempt.because)
    return None


def _quota(pool: Pool, told: Sequence[Attempt]) -> Pause | None:
    """A quota is of a family and a market: what one of its pools was refused, the others are refused, too. A later launch ends it."""
    family = family_of(pool.offer, pool.market)
    for attempt in reversed(told):
        if attempt.pool.market == pool.market and family_of(attempt.pool.offer, attempt.pool.market) == family:
            if attempt.verdict is Verdict.QUOTA:
                return Pause(attempt.verdict, attempt.told_at, attempt.told_at + QUOTA_PAUSE, attempt.because)
            if attempt.verdict is Verdict.MADE:
                return None
    return None


def _capacity(pool: Pool, told: Sequence[Attempt], now: float) -> Pause | None:
    """Refusals in a row, the last ones, make the pause longer."""
    row = 0
    latest: Attempt | None = None
    for attempt in _recent(reversed(told), now):
        if attempt.pool != pool:
            continue
        if attempt.verdict is not Verdict.CAPACITY:
            break
        latest = latest or attempt
        row += 1
    if latest is None:
        return None
    pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (row - 1))
    return Pause(latest.verdict, latest.told_at, latest.told_at + pause, latest.because)


def _recent(told: Iterable[Attempt], now: float) -> Iterator[Attempt]:
    return (a for a in told if now - a.told_at < REMEMBERED)


def in_order(ways: Iterable[Way], offers: Sequence[str], *, spot_first: bool) -> list[Way]:
    """Ways by preference: spot before the others if it is wanted and cheaper than they are; kinds as they were ordered; then by price.

    A spot price as high as on demand is that of an exhausted pool: it comes last.
    """
    rank = {name: n for n, name in enumerate(offers)}
    found = list(ways)
    demand = {w.pool.offer: w.price for w in found if w.pool.market == ON_DEMAND and w.price is not None}

    def key(way: Way) -> tuple[int, int, Decimal, str]:
        price = way.price if way.price is not None else Decimal("Infinity")
        spot = way.pool.market == SPOT
        dear = spot and price >= demand.get(way.pool.offer, Decimal("Infinity"))
        market = 2 if dear else 0 if spot == spot_first else 1
        return market, rank[way.pool.offer], price, way.pool.zone

    return sorted(found, key=key)
