"""What runners cost while they run, and the budgets that keep the controller from launching more. Asks nobody for a price."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeAlias, cast

from falplan.core.plural import count
from falplan.core.values import JsonObject

ZERO = Decimal(0)
MICRO = Decimal("0.000001")

Prices: TypeAlias = Mapping[str, Mapping[str, Decimal]]
"""Region -> machine type -> USD an hour of one runner with the type's own number of GPUs."""


@dataclass(frozen=True, slots=True)
class Budgets:
    """Most that runners may cost, in USD an hour: of the project (None: no limit), of environments, of regions."""

    project: Decimal | None = None
    environments: Mapping[str, Decimal] = field(default_factory=dict)
    regions: Mapping[str, Decimal] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.project is not None or bool(self.environments) or bool(self.regions)


@dataclass(frozen=True, slots=True)
class Spending:
    """Prices and budgets, as a control plane is told them."""

    prices: Prices = field(default_factory=dict)
    budgets: Budgets = field(default_factory=Budgets)


@dataclass(frozen=True, slots=True)
class Running:
    """A runner that costs money, in whatever state it is. `gpus` are those it has, `own_gpus` those of its machine type."""

    environment: str
    region: str
    machine_type: str
    gpus: int = 0
    own_gpus: int = 0


def runner_price(prices: Prices, region: str, machine_type: str, *, gpus: int = 0, own_gpus: int = 0) -> Decimal | None:
    """USD an hour of one runner, to the millionth; None if nobody said what it costs. Twice the GPUs cost twice as much."""
    price = prices.get(region, {}).get(machine_type)
    if price is None:
        return None
    if gpus and gpus != max(1, own_gpus):
        price = price * gpus / max(1, own_gpus)
    return price.quantize(MICRO)


def over_budget(spending: Spending, running: Iterable[Running], new: Running) -> str:
    """Why this runner may not be launched beside those that run, or an empty string.

    A runner without a price counts for nothing: no budget holds it, and the plan says so.
    """
    price = _price(spending, new)
    if price is None:
        return ""
    there = list(running)
    for limit, what, counts in _limits(spending.budgets, new, there):
        spent = sum((_price(spending, r) or ZERO for r in counts), ZERO)
        if spent + price > limit:
            there_are = (
                f"{count(len(counts), 'runner')} there {'costs' if len(counts) == 1 else 'cost'} {dollars(spent)}"
            )
            one_more = f"one more on {new.machine_type} in {new.region} {dollars(price)}"
            return f"the budget of {what} is {dollars(limit)} an hour: {there_are}, and {one_more}"
    return ""


def _limits(budgets: Budgets, new: Running, running: list[Running]) -> Iterable[tuple[Decimal, str, list[Running]]]:
    if new.region in budgets.regions:
        here = [r for r in running if r.region == new.region]
        yield budgets.regions[new.region], f"region {new.region}", here
    if new.environment in budgets.environments:
        beside = [r for r in running if r.environment == new.environment]
        yield budgets.environments[new.environment], f"environment {new.environment}", beside
    if budgets.project is not None:
        yield budgets.project, "the project", running


def _price(spending: Spending, runner: Running) -> Decimal | None:
    return runner_price(spending.prices, runner.region, runner.machine_type, gpus=runner.gpus, own_gpus=runner.own_gpus)


def dollars(amount: Decimal) -> str:
    """`$1,752.00`; more than two digits behind the point only where they are needed."""
    spelt = f"{amount:,f}"
    whole, _, rest = spelt.partition(".")
    return f"${whole}.{rest.rstrip('0').ljust(2, '0')}"


def spelt(amount: Decimal) -> str:
    """The amount as JSON carries it: exact, in the same way each time."""
    whole, _, rest = f"{amount:f}".partition(".")
    rest = rest.rstrip("0")
    return f"{whole}.{rest}" if rest else whole


def prices_to_json(prices: Prices) -> JsonObject:
    """Prices as text, region by region; regions without any are left out."""
    return {
        region: {name: spelt(price) for name, price in sorted(table.items())}
        for region, table in sorted(prices.items())
        if table
    }


def budgets_to_json(budgets: Budgets) -> JsonObject:
    """Budgets as text; those that are not set are left out."""
    body: JsonObject = {}
    if budgets.project is not None:
        body["project"] = spelt(budgets.project)
    for name, limits in (("environments", budgets.environments), ("regions", budgets.regions)):
        if limits:
            body[name] = {key: spelt(limit) for key, limit in sorted(limits.items())}
    return body


def spending_from_json(prices: object, budgets: object) -> Spending:
    """The inverse of the two; nothing where there is nothing.

    Raises:
        TypeError, ValueError, ArithmeticError: they have another shape.
    """
    table = {r: _amounts(body) for r, body in cast("dict[str, object]", prices or {}).items()}
    body = cast("dict[str, object]", budgets or {})
    project = body.get("project")
    return Spending(
        table,
        Budgets(
            None if project is None else Decimal(str(project)),
            _amounts(body.get("environments")),
            _amounts(body.get("regions")),
        ),
    )


def _amounts(body: object) -> dict[str, Decimal]:
    return {str(name): Decimal(str(amount)) for name, amount in cast("dict[str, object]", body or {}).items()}
