"""Prices, budgets of what runs, costs of what is planned: amounts are exact, and the order of a sum does not matter."""

from __future__ import annotations

from decimal import Decimal
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falplan.core.budgets import judge_budgets
from falplan.core.cost import NOTHING, Cost, Costs, a_month, app_cost, cost_section, costs_of, shown, total
from falplan.core.errors import Position
from falplan.core.spending import (
    Budgets,
    Running,
    Spending,
    budgets_to_json,
    dollars,
    over_budget,
    prices_to_json,
    runner_price,
    spelt,
    spending_from_json,
)
from falplan.core.values import Json, JsonObject

from .builders import settings

PRICES = {
    "dc1": {"XS": Decimal("0.1"), "GPU-A100": Decimal("2.5"), "pair": Decimal(5)},
    "us": {"XS": Decimal("0.2")},
}
SIZES: JsonObject = {
    "XS": {"gpu": None, "gpus": 0},
    "GPU-A100": {"gpu": "A100", "gpus": 1},
    "pair": {"gpu": "A100", "gpus": 2},
}
AMOUNTS = st.decimals(0, 10_000, places=6)
COSTS = st.builds(
    lambda least, more, unpriced: Cost(least, least + more, frozenset(unpriced)),
    AMOUNTS,
    AMOUNTS,
    st.sets(st.sampled_from(["app.main.a", "app.main.b", "app.main.c"])),
)


def inputs(**changed: Json) -> JsonObject:
    return {"settings": settings(**changed), "machine_types": SIZES}


def cost(**changed: Json) -> Cost:
    return app_cost("app.main.x", inputs(**changed), PRICES, ("dc1", "us"), {}).cost


@pytest.mark.parametrize(
    ("changed", "least", "most"),
    [
        ({"machine_type": ["XS"], "regions": ["dc1"], "min_concurrency": 1, "max_concurrency": 4}, "0.1", "0.4"),
        ({"machine_type": ["XS"], "min_concurrency": 1, "max_concurrency": 4}, "0.1", "0.8"),
        ({"machine_type": ["GPU-A100", "XS"], "regions": ["dc1"], "min_concurrency": 2}, "0.2", "5"),
        ({"machine_type": ["GPU-A100"], "num_gpus": 4, "regions": ["dc1"]}, "0", "20"),
        ({"machine_type": ["pair"], "regions": ["dc1"], "max_concurrency": 1}, "0", "5"),
        ({"machine_type": ["pair"], "num_gpus": 1, "regions": ["dc1"], "max_concurrency": 1}, "0", "2.5"),
        ({"machine_type": ["XS"], "num_gpus": 4, "regions": ["dc1"], "max_concurrency": 1}, "0", "0.1"),
    ],
)
def test_an_app_costs_its_cheapest_runner_least_and_its_dearest_most(
    changed: dict[str, Json], least: str, most: str
) -> None:
    """Seen red with `num_gpus` left out of the price, and with the first machine type's price for both ends."""
    assert cost(**changed) == Cost(Decimal(least), Decimal(most))


def test_a_price_that_nobody_said_is_unknown_and_never_nothing() -> None:
    """Seen red with a missing price taken for 0."""
    found = app_cost(
        "app.main.x", inputs(machine_type=["XS", "GPU-A100"], min_concurrency=1), PRICES, ("dc1", "us"), {}
    )

    assert found.cost == Cost(unpriced=frozenset({"app.main.x"}))
    assert found.because == "no price of GPU-A100 in us"
    assert found.regions["dc1"] == Cost(Decimal(0), Decimal(5))
    assert found.regions["us"].unpriced
    assert runner_price({"dc1": {"XS": Decimal(0)}}, "dc1", "XS") == 0
    assert runner_price({}, "dc1", "XS") is None


@pytest.mark.parametrize(
    ("found", "text", "month"),
    [
        (NOTHING, "$0.00/h", "$0.00 a month"),
        (Cost(Decimal("1.2"), Decimal("4.8")), "$1.20/h to $4.80/h", "$876.00 to $3,504.00 a month"),
        (Cost(Decimal("0.125"), Decimal("0.125")), "$0.125/h", "$91.25 a month"),
        (
            Cost(Decimal("1.2"), Decimal("4.8"), frozenset({"a", "b"})),
            "at least $1.20/h to $4.80/h, 2 apps without a price",
            "at least $876.00 to $3,504.00 a month",
        ),
        (Cost(unpriced=frozenset({"a"})), "unknown", ""),
        (Cost(unpriced=frozenset({"a", "b"})), "unknown, 2 apps without a price", ""),
    ],
)
def test_how_a_cost_is_shown(found: Cost, text: str, month: str) -> None:
    assert (shown(found), a_month(found)) == (text, month)


@given(st.lists(COSTS, max_size=8), st.lists(COSTS, max_size=8))
def test_the_cost_of_a_sum_is_the_sum_of_the_costs(some: list[Cost], others: list[Cost]) -> None:
    """Seen red with amounts as floats."""
    assert total(some) + total(others) == total([*some, *others]) == total([*others, *reversed(some)])
    assert [*accumulate(some, initial=NOTHING)][-1] == total(some)


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(["XS", "GPU-A100", "pair"]), min_size=1, max_size=3, unique=True),
            st.sampled_from([None, ["dc1"], ["us"], ["dc1", "us"]]),
            st.integers(0, 5),
            st.integers(0, 5),
            st.sampled_from([None, 1, 3, 8]),
        ),
        max_size=5,
    )
)
def test_the_least_is_never_above_the_most_and_parts_add_up(
    drawn: list[tuple[list[str], list[str] | None, int, int, int | None]],
) -> None:
    apps = {
        f"app.{'main' if n % 2 else 'staging'}.a{n}": inputs(
            machine_type=list[Json](types),
            regions=None if where is None else list[Json](where),
            min_concurrency=least,
            max_concurrency=least + more,
            num_gpus=gpus,
        )
        for n, (types, where, least, more, gpus) in enumerate(drawn)
    }
    found = costs_of(apps, PRICES, ["dc1", "us"])

    assert found.total.least <= found.total.most
    assert total(found.environments().values()) == found.total
    assert sum((c.least for c in found.regions().values()), Decimal(0)) <= found.total.least
    for app in found.apps.values():
        assert app.cost.least <= app.cost.most
        assert bool(app.cost.unpriced) == bool(app.because)


@given(AMOUNTS)
def test_an_amount_is_spelt_so_that_it_can_be_read_back(amount: Decimal) -> None:
    assert Decimal(spelt(amount)) == amount
    assert Decimal(dollars(amount).removeprefix("$").replace(",", "")) == amount
    assert "e" not in spelt(amount).lower()


def test_prices_and_budgets_survive_the_way_to_the_control_plane() -> None:
    budgets = Budgets(Decimal("1.5"), {"main": Decimal(2)}, {"dc1": Decimal("0.000001")})
    told = spending_from_json(prices_to_json(PRICES), budgets_to_json(budgets))

    assert told == Spending(PRICES, budgets)
    assert spending_from_json(None, None) == Spending()
    assert budgets_to_json(Budgets()) == {}
    assert not Budgets()


def runs(number: int, environment: str = "main", region: str = "dc1", machine_type: str = "XS") -> list[Running]:
    return [Running(environment, region, machine_type)] * number


@pytest.mark.parametrize(
    ("budgets", "running", "held_by"),
    [
        (Budgets(Decimal("0.3")), runs(2), ""),
        (Budgets(Decimal("0.3")), runs(3), "the project"),
        (Budgets(Decimal("0.3")), runs(3, environment="staging"), "the project"),
        (Budgets(environments={"main": Decimal("0.3")}), runs(3, environment="staging"), ""),
        (Budgets(environments={"main": Decimal("0.3")}), runs(3, region="us"), "environment main"),
        (Budgets(regions={"dc1": Decimal("0.3")}), runs(3, region="us"), ""),
        (Budgets(regions={"dc1": Decimal("0.3")}), runs(3, environment="staging"), "region dc1"),
        (Budgets(Decimal("0.3")), runs(9, machine_type="unheard-of"), ""),
        (Budgets(Decimal(0)), [], "the project"),
    ],
)
def test_one_more_runner_is_held_by_the_budget_that_it_would_exceed(
    budgets: Budgets, running: list[Running], held_by: str
) -> None:
    """Seen red with `>=`, which holds the last runner that a budget allows; and with environments counted together."""
    because = over_budget(Spending(PRICES, budgets), running, *runs(1))

    assert because.startswith(f"the budget of {held_by} is " if held_by else "")
    assert bool(because) == bool(held_by)


def test_a_budget_says_what_runs_and_what_one_more_costs() -> None:
    because = over_budget(Spending(PRICES, Budgets(Decimal("0.15"))), runs(1), *runs(1))

    assert because == (
        "the budget of the project is $0.15 an hour: 1 runner there costs $0.10, and one more on XS in dc1 $0.10"
    )


def two_apps() -> Costs:
    apps = {
        "app.main.dear": inputs(machine_type=["GPU-A100"], regions=["dc1"], min_concurrency=2, max_concurrency=2),
        "app.main.cheap": inputs(machine_type=["XS"], regions=["dc1"], min_concurrency=1, max_concurrency=10),
    }
    return costs_of(apps, PRICES, ["dc1", "us"])


def test_an_exceeded_budget_names_its_apps_in_the_order_of_their_cost() -> None:
    """Seen red with apps in the order of their names."""
    place = Position("falplan.yaml", 3, 1)
    (found,) = judge_budgets(two_apps(), Budgets(Decimal(5)), {"budget_per_hour": place})

    assert found.refuses
    assert found.line == (
        "falplan.yaml:3:1: the budget of the project is $5.00 an hour, and min_concurrency alone costs $5.10"
    )
    assert found.detail == (
        "app.main.dear: $5.00 an hour",
        "app.main.cheap: $0.10 an hour",
        "Lower min_concurrency, choose cheaper machine types, or raise the budget.",
    )


@pytest.mark.parametrize(
    ("budgets", "refusals", "warnings"),
    [
        (Budgets(Decimal("6")), 0, 0),
        (Budgets(Decimal("5.99")), 0, 1),
        (Budgets(Decimal("5.1")), 0, 1),
        (Budgets(Decimal("5.09")), 1, 0),
        (Budgets(environments={"main": Decimal("5.09"), "staging": Decimal(0)}), 1, 0),
        (Budgets(regions={"dc1": Decimal("5.09"), "us": Decimal(0)}), 1, 0),
        (Budgets(Decimal(1), {"main": Decimal(1)}, {"dc1": Decimal(1)}), 3, 0),
    ],
)
def test_the_fewest_runners_refuse_and_the_most_warn(budgets: Budgets, refusals: int, warnings: int) -> None:
    found = judge_budgets(two_apps(), budgets)

    assert (sum(f.refuses for f in found), sum(not f.refuses for f in found)) == (refusals, warnings)


def test_an_app_without_a_price_is_told_to_be_outside_the_budget() -> None:
    costs = costs_of({"app.main.x": inputs(machine_type=["GPU-A100"], regions=["us"])}, PRICES, ["us"])
    (found,) = judge_budgets(costs, Budgets(Decimal(5)))

    assert not found.refuses
    assert found.message.endswith("and 1 app without a price is not held by it")
    assert found.detail[0] == "app.main.x: no price of GPU-A100 in us"


def test_without_any_price_there_is_nothing_to_show_people_and_json_says_so() -> None:
    costs = costs_of({"app.main.x": inputs()}, {}, ["local"])
    section = cost_section(Costs(), costs)

    assert section.rows == ()
    assert section.body["after"] == {"min": "0", "max": "0", "unpriced": ["app.main.x"]}
