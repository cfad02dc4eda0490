"""What apps cost an hour, from the fewest runners to the most, before and after a plan. Exact to the millionth of a dollar."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeAlias, cast

from falplan.core.plural import count
from falplan.core.report import Row, Section, Tone
from falplan.core.spending import ZERO, Prices, dollars, runner_price, spelt
from falplan.core.values import Json, JsonObject

HOURS = 730
"""Hours of a month, as cloud providers count them."""


@dataclass(frozen=True, slots=True)
class Cost:
    """USD an hour of some apps: with `min_concurrency` runners each, and with `max_concurrency`.

    `unpriced` holds the addresses of apps of which some price is not known. They count for nothing, so that both amounts are lower bounds.
    """

    least: Decimal = ZERO
    most: Decimal = ZERO
    unpriced: frozenset[str] = frozenset()

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.least + other.least, self.most + other.most, self.unpriced | other.unpriced)


NOTHING = Cost()


def total(costs: Iterable[Cost]) -> Cost:
    """The sum, whatever the order."""
    least, most, unpriced = ZERO, ZERO, set[str]()
    for cost in costs:  # not `+`: a union for each of many apps without a price takes the square of their number
        least, most = least + cost.least, most + cost.most
        unpriced |= cost.unpriced
    return Cost(least, most, frozenset(unpriced))


@dataclass(frozen=True, slots=True)
class AppCost:
    """One app's cost, and the part of it that each region may have. `because` says which price is not known.

    Where an app may be put in several regions, each region has from none to all of its runners.
    """

    address: str
    environment: str
    cost: Cost = NOTHING
    regions: Mapping[str, Cost] = field(default_factory=dict)
    because: str = ""


NONE_KNOWN: Mapping[str, AppCost] = {}


@dataclass(frozen=True, slots=True)
class Costs:
    """Every app's cost, by address."""

    apps: Mapping[str, AppCost] = field(default_factory=dict)

    @property
    def total(self) -> Cost:
        return total(app.cost for app in self.apps.values())

    def environments(self) -> dict[str, Cost]:
        """Sums by environment, sorted."""
        return self._sums(lambda app: {app.environment: app.cost})

    def regions(self) -> dict[str, Cost]:
        """Sums by region, sorted. The most of all regions together may be more than the most of all apps."""
        return self._sums(lambda app: app.regions)

    def _sums(self, parts: Callable[[AppCost], Mapping[str, Cost]]) -> dict[str, Cost]:
        grouped: dict[str, list[Cost]] = {}
        for app in self.apps.values():
            for name, cost in parts(app).items():
                grouped.setdefault(name, []).append(cost)
        return {name: total(grouped[name]) for name in sorted(grouped)}


def costs_of(
    apps: Mapping[str, JsonObject], prices: Prices, regions: Iterable[str], known: Mapping[str, AppCost] = NONE_KNOWN
) -> Costs:
    """What apps cost. `apps` holds their inputs by address; `regions` are all that there are, for apps that name none.

    `known` are costs of apps with the same inputs, by the same prices and regions.
    """
    every, tables = tuple(regions), dict[object, _Table]()
    return Costs(
        {
            address: known.get(address) or app_cost(address, inputs, prices, every, tables)
            for address, inputs in sorted(apps.items())
        }
    )


_Table: TypeAlias = "dict[str, dict[str, Decimal | None]]"
"""Region -> machine type -> price of one runner of an app; None where nobody said it."""


def app_cost(
    address: str, inputs: JsonObject, prices: Prices, regions: tuple[str, ...], tables: dict[object, _Table]
) -> AppCost:
    """One app: its cheapest runner times the fewest, its dearest times the most. `tables` remembers those of apps that are placed alike."""
    settings = cast("JsonObject", inputs["settings"])
    environment = address.split(".")[1]
    least, most = _runners(settings)
    named = cast("list[str] | None", settings.get("regions"))
    where = regions if named is None else tuple(named)
    wanted = _wanted(inputs, settings)
    alike = (where, *wanted)
    table = tables.get(alike)
    if table is None:
        table = tables[alike] = {region: _prices_there(wanted, prices, region) for region in where}
    missing = [
        f"{name} in {region}" for region, found in table.items() for name, price in found.items() if price is None
    ]
    known = [price for found in table.values() for price in found.values() if price is not None]
    alone = len(where) == 1
    parts = {region: _part(address, found, least if alone else 0, most) for region, found in table.items()}
    if missing or not known:
        because = f"no price of {', '.join(missing)}" if missing else "there is no region for it"
        return AppCost(address, environment, Cost(unpriced=frozenset({address})), parts, because)
    return AppCost(address, environment, Cost(min(known) * least, max(known) * most), parts)


def _runners(settings: JsonObject) -> tuple[int, int]:
    least = int(cast("int", settings.get("min_concurrency") or 0))
    return least, max(least, int(cast("int", settings.get("max_concurrency") or 0)))


def _wanted(inputs: JsonObject, settings: JsonObject) -> tuple[tuple[str, int, int], ...]:
    """What one runner of the app takes, by machine type: its name, the GPUs that the runner gets, and those of the type."""
    sizes = cast("dict[str, JsonObject]", inputs.get("machine_types", {}))
    asked = int(cast("int", settings.get("num_gpus") or 0))
    found = []
    for name in cast("list[str]", settings["machine_type"]):
        size = sizes.get(name, {})
        own = int(cast("int", size.get("gpus") or 0))
        found.append((name, (asked or max(1, own)) if size.get("gpu") else 0, own))
    return tuple(found)


def _prices_there(wanted: tuple[tuple[str, int, int], ...], prices: Prices, region: str) -> dict[str, Decimal | None]:
    return {name: runner_price(prices, region, name, gpus=gpus, own_gpus=own) for name, gpus, own in wanted}


def _part(address: str, found: Mapping[str, Decimal | None], least: int, most: int) -> Cost:
    known = [price for price in found.values() if price is not None]
    if len(known) < len(found) or not known:
        return Cost(unpriced=frozenset({address}))
    return Cost(min(known) * least, max(known) * most)


def shown(cost: Cost) -> str:
    """`$1.20/h to $4.80/h`, `at least $1.20/h, 2 apps without a price`, or `unknown`."""
    if not cost.unpriced:
        return _range(cost, 1, "/h")
    if not cost.most:
        return "unknown" if len(cost.unpriced) == 1 else f"unknown, {count(len(cost.unpriced), 'app')} without a price"
    return f"at least {_range(cost, 1, '/h')}, {count(len(cost.unpriced), 'app')} without a price"


def a_month(cost: Cost) -> str:
    """The same for 730 hours."""
    if cost.unpriced and not cost.most:
        return ""
    return f"{'at least ' if cost.unpriced else ''}{_range(cost, HOURS, '')} a month"


def _range(cost: Cost, times: int, unit: str) -> str:
    low, high = dollars(cost.least * times) + unit, dollars(cost.most * times) + unit
    return low if low == high else f"{low} to {high}"


def cost_section(before: Costs, after: Costs, *, rows: bool = True) -> Section:
    """Costs before and after the plan. Without a single known price there is nothing to show people."""
    told = rows and any(c.total.most for c in (before, after))
    return Section("cost", TITLE, tuple(_rows(before, after)) if told else (), _body(before, after))


TITLE = "Cost an hour, from min_concurrency to max_concurrency"


def _rows(before: Costs, after: Costs) -> Iterable[Row]:
    month = a_month(after.total)
    yield _row("all", _change(before.total, after.total) + (f" ({month})" if month else ""))
    for word, old, new in (
        ("environment", before.environments(), after.environments()),
        ("region", before.regions(), after.regions()),
    ):
        for name in sorted(old.keys() | new.keys()):
            yield _row(f"{word} {name}", _change(old.get(name, NOTHING), new.get(name, NOTHING)))
    for address in sorted(before.apps.keys() | after.apps.keys()):
        one, two = before.apps.get(address), after.apps.get(address)
        detail = (two.because,) if two and two.because else ()
        text = _change(one.cost if one else NOTHING, two.cost if two else NOTHING)
        yield _row(address, text, detail)


def _row(label: str, text: str, detail: tuple[str, ...] = ()) -> Row:
    return Row(f"{label}: {text}", Tone.WARNING if detail else Tone.PLAIN, detail, label)


def _change(before: Cost, after: Cost) -> str:
    return shown(after) if before == after else f"{shown(before)} -> {shown(after)}"


def _body(before: Costs, after: Costs) -> JsonObject:
    addresses = sorted(before.apps.keys() | after.apps.keys())
    return {
        "currency": "USD",
        "per": "hour",
        "hours_a_month": HOURS,
        "before": cost_to_json(before.total),
        "after": cost_to_json(after.total),
        "environments": _both(before.environments(), after.environments()),
        "regions": _both(before.regions(), after.regions()),
        "apps": {
            address: {
                "before": cost_to_json(before.apps[address].cost) if address in before.apps else None,
                "after": cost_to_json(after.apps[address].cost) if address in after.apps else None,
                "because": after.apps[address].because if address in after.apps else "",
            }
            for address in addresses
        },
    }


def _both(before: Mapping[str, Cost], after: Mapping[str, Cost]) -> JsonObject:
    return {
        name: {"before": cost_to_json(before.get(name, NOTHING)), "after": cost_to_json(after.get(name, NOTHING))}
        for name in sorted(before.keys() | after.keys())
    }


def cost_to_json(cost: Cost) -> JsonObject:
    """Amounts as text, exact."""
    return {"min": spelt(cost.least), "max": spelt(cost.most), "unpriced": list[Json](sorted(cost.unpriced))}


def cost_scope(cost: Cost) -> JsonObject:
    """A cost as expressions see it: numbers, and how many apps have no price."""
    return {"min": float(cost.least), "max": float(cost.most), "unpriced": len(cost.unpriced)}
