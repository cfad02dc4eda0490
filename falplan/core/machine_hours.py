"""What bought machines cost in a time that is over: their hours, by what they were. Decides alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from falplan.core.spending import ZERO, spelt
from falplan.core.values import JsonObject

CENT = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class Stay:
    """A machine that was bought. `begin` is since when it costs something, `end` when its end was seen, None if it is there.

    `price` in USD an hour, None if nobody knows it. Times in seconds since 1970.
    """

    region: str
    kind: str
    market: str
    begin: float
    end: float | None = None
    price: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Hours:
    """Machines of one kind, in one region and market. `alive` are there still; `unpriced` are those whose `seconds` are not in `cost`.

    `cost` is in USD, to the cent.
    """

    region: str
    kind: str
    market: str
    machines: int
    alive: int
    seconds: float
    cost: Decimal
    unpriced: int = 0


def machine_hours(stays: Iterable[Stay], *, since: float, now: float) -> list[Hours]:
    """What was used between `since` and `now`, by region, kind and market. What is there counts until now."""
    groups: dict[tuple[str, str, str], list[tuple[Stay, float]]] = {}
    for stay in stays:
        seconds = min(stay.end if stay.end is not None else now, now) - max(stay.begin, since)
        if seconds > 0:
            groups.setdefault((stay.region, stay.kind, stay.market), []).append((stay, seconds))
    return [_hours(key, used) for key, used in sorted(groups.items())]


def _hours(key: tuple[str, str, str], used: list[tuple[Stay, float]]) -> Hours:
    cost = sum((s.price * Decimal(repr(seconds)) / 3600 for s, seconds in used if s.price is not None), ZERO)
    return Hours(
        *key,
        len(used),
        sum(s.end is None for s, _ in used),
        sum(seconds for _, seconds in used),
        cost.quantize(CENT),
        sum(s.price is None for s, _ in used),
    )


def hours_to_json(hours: Hours) -> JsonObject:
    """As `falplan cost --json` prints it; hours to the thousandth, USD as text."""
    return {
        "region": hours.region,
        "kind": hours.kind,
        "market": hours.market,
        "machines": hours.machines,
        "alive": hours.alive,
        "hours": round(hours.seconds / 3600, 3),
        "usd": spelt(hours.cost),
        "unpriced": hours.unpriced,
    }
