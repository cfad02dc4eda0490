"""What things cost: by the second, and reserved capacity only for what no instance uses of it."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from falplan.sdk.testing.fakeec2.things import Address, Instance, Reservation, Thing

ADDRESS = Decimal("0.005")
"""USD an hour of a public address, whether or not somebody has it."""


def cost(thing: Thing, now: float, instances: Iterable[Instance]) -> Decimal:
    """USD that a thing has cost so far. An instance in reserved capacity costs its own price, which the reservation then does not."""
    match thing:
        case Instance():
            return _seconds(thing.paid(now)) * thing.price / 3600
        case Address():
            return _seconds(thing.paid(now)) * ADDRESS / 3600
        case Reservation():
            held = thing.paid(now)
            used = [_seconds(_both(held, i.paid(now))) for i in instances if i.reservation == thing.id]
            return (thing.count * _seconds(held) - sum(used, Decimal(0))) * thing.kind.price / 3600
        case _:
            return Decimal(0)


def _seconds(span: tuple[float, float]) -> Decimal:
    return Decimal(str(max(0.0, span[1] - span[0])))


def _both(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return max(one[0], other[0]), min(one[1], other[1])
