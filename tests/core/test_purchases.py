"""A plan tells which machines its runners lead to, by the rules that the controller buys by."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

from falplan.core.consequences import Consequence, NoPlace, consequences
from falplan.core.fleet import Life, Region
from falplan.core.offers import Offered
from falplan.core.placement import GIB, Slots, slots_to_json
from falplan.core.planner import make_plan
from falplan.core.purchases import Shop, coming, owned_of, purchases_section
from falplan.core.report import Row, Section, Tone
from falplan.core.resources import Resource
from falplan.core.spec.machine_types import BUILT_IN
from falplan.core.state import State
from falplan.core.warm import Warm

from .builders import LINEAGE, an_app, wanted

MIB = 1024**2


def room(name: str, vcpu: int, gib: int, gpus: int, vram: int = 81559) -> Slots:
    ram = gib * GIB
    return Slots(
        name, "us-east", vcpu, ram, vcpu, ram, gpus, tuple(range(gpus)), "H100" if gpus else "", vram * MIB, strict=True
    )


ONE = Offered("p5.4xlarge", room("p5.4xlarge", 16, 240, 1), Decimal("6.88"))
EIGHT = Offered("p5.48xlarge", room("p5.48xlarge", 192, 1900, 8), Decimal("55.04"))
EAST = Region("us-east", 3, Decimal(70), offers=(ONE, EIGHT))


def h100(name: str = "flux", *, gpus: int = 1, least: int = 0, **more: Any) -> Resource:
    return an_app(name, machine_type=["GPU-H100"], num_gpus=gpus, min_concurrency=least, **more)


def planned(
    *apps: Resource, shop: Shop, machines: tuple[Slots, ...] = ()
) -> tuple[list[Consequence], list[NoPlace], Section]:
    plan = make_plan(wanted(*apps), State("demo", LINEAGE, 0), {})
    follow, missing = consequences(plan, (), machines, BUILT_IN, shop=shop)
    return follow, missing, purchases_section(shop.bought, follow, shop.owned, shop.regions)


def a_shop(*regions: Region, owned: list[Any] | None = None, **more: Any) -> Shop:
    return Shop(regions or (EAST,), owned_of(owned or []), BUILT_IN, **more)


def a_row(number: int = 1, life: Life = Life.READY, price: str = "55.04", **more: Any) -> dict[str, Any]:
    return {
        "machine": f"us-east/m-{number}",
        "region": "us-east",
        "kind": "p5.48xlarge",
        "life": life.value,
        "price": price,
        **more,
    }


def test_a_runner_without_room_is_put_on_a_machine_that_is_bought_for_it() -> None:
    shop = a_shop()
    follow, missing, section = planned(h100(), shop=shop)

    assert not missing
    [launch] = follow
    assert launch.where == "us-east/new-1 (GPU-H100)"
    [bought] = shop.bought
    assert (bought.kinds, bought.price) == (("p5.4xlarge", "p5.48xlarge"), Decimal("6.88"))
    assert section.rows[0].text == "us-east/new-1: p5.4xlarge, $6.88 an hour"
    assert "for app.main.flux" in section.rows[0].detail
    assert section.rows[-1].text == "us-east: 1 machine of 3, $0.00 -> $6.88 an hour of $70.00"


def test_what_is_there_is_filled_before_anything_is_bought() -> None:
    shop = a_shop()
    follow, missing, _ = planned(h100(), shop=shop, machines=(room("us-east/m-1", 16, 240, 1),))

    assert (shop.bought, missing) == ([], [])
    assert follow[0].where == "us-east/m-1 (GPU-H100)"


def test_gpus_without_a_runner_are_told_with_what_they_cost() -> None:
    shop = a_shop(Region("us-east", 3, Decimal(70), offers=(EIGHT,)))
    _, _, section = planned(h100(gpus=2), shop=shop)
    body: Any = section.body

    assert "6 of 8 GPUs without a runner: $41.28 an hour" in section.rows[0].detail
    assert body["machines"][0]["idle_gpus"] == 6 and body["machines"][0]["idle_per_hour"] == "41.28"


def test_the_second_runner_is_put_on_the_machine_that_was_bought_for_the_first() -> None:
    shop = a_shop(Region("us-east", 3, Decimal(70), offers=(EIGHT,)))
    follow, missing, _ = planned(h100("one", least=3), h100("two"), shop=shop)

    assert not missing and len(shop.bought) == 1
    assert {placed.machine_id for c in follow for placed in c.placed} == {"us-east/new-1"}


def test_limits_are_refused_in_the_plan_with_what_is_there_counted() -> None:
    shop = a_shop(owned=[a_row(1), a_row(2), a_row(3, Life.LEAVING)])
    _, [missing], _ = planned(h100(), shop=shop)

    assert not missing.unknown
    assert "3 machines of 3 (max_machines) are there or on their way" in missing.reasons[-1]


def test_a_budget_blocks_and_says_how_much_is_spent() -> None:
    shop = a_shop(Region("us-east", 3, Decimal(60), offers=(EIGHT,)), owned=[a_row(1)])
    _, [missing], _ = planned(h100(), shop=shop)

    assert "the budget is $60.00 an hour, of which $55.04 are spent" in missing.reasons[-1]


def test_a_region_that_could_not_be_asked_leaves_it_open() -> None:
    silent = Region("us-east", 3, Decimal(60), closed="AWS can't be reached", unsettled=True)
    _, [missing], _ = planned(h100(), shop=a_shop(silent, silent={"us-east": "AWS can't be reached"}))

    assert missing.unknown
    assert missing.reasons[-1].endswith("AWS can't be reached")


def test_an_app_of_other_regions_buys_nothing() -> None:
    shop = a_shop()
    _, [missing], _ = planned(h100(regions=["dc1"]), shop=shop)

    assert not shop.bought and not missing.unknown


def test_machines_on_their_way_are_room() -> None:
    rows = [a_row(1, Life.STARTING, room=slots_to_json(EIGHT.slots)), a_row(2, Life.LEAVING, room=None)]

    assert [m.machine_id for m in coming(rows)] == ["us-east/m-1"]


def test_when_a_machine_ends_itself_is_told_and_that_a_computer_sleeps() -> None:
    shop = a_shop(replace(EAST, ends_after=1800.0))
    follow, _, section = planned(h100(), shop=shop)
    text = "us-east: a machine that hears nothing of its control plane for 30 min ends itself"
    assert section.rows[-1] == Row(text)
    asleep = purchases_section(shop.bought, follow, shop.owned, shop.regions, sleeps=True).rows[-1]
    assert asleep.tone is Tone.WARNING
    assert asleep.text == f"{text}, and the control plane is on this computer: it must not sleep for that long"


def test_what_a_machine_costs_as_spot_is_told_from_the_cheapest_zone_to_the_dearest() -> None:
    zones = {"use1-az1": Decimal("4.10"), "use1-az2": Decimal("0.95"), "use1-az4": Decimal("2")}
    _, _, section = planned(h100(), shop=a_shop(replace(EAST, offers=(replace(ONE, spot=zones),))))
    assert "as spot $0.95 (use1-az2) to $4.10 (use1-az1) an hour now" in section.rows[0].detail
    machines: Any = section.body["machines"]
    assert machines[0]["spot_per_hour"] == {"use1-az1": "4.1", "use1-az2": "0.95", "use1-az4": "2"}
    alike = replace(ONE, spot=dict.fromkeys(("use1-az2", "use1-az1"), Decimal(1)))
    _, _, section = planned(h100(), shop=a_shop(replace(EAST, offers=(alike,))))
    assert "as spot $1.00 an hour now (use1-az1, use1-az2)" in section.rows[0].detail


WARM = Warm("us-east", BUILT_IN["GPU-H100"], 2)


def test_room_that_is_kept_free_is_bought_beside_what_runners_leave() -> None:
    """One GPU is left beside the runner that is launched: one machine more, for the other."""
    shop = a_shop(replace(EAST, offers=(EIGHT, ONE)))
    shop.keep_free([WARM], [room("gpu-01", 16, 240, 1)])
    [bought] = shop.bought
    assert (bought.kinds[0], bought.price) == ("p5.4xlarge", Decimal("6.88"))
    section = purchases_section(shop.bought, [], shop.owned, shop.regions)
    assert "for free room for 2 runners on GPU-H100 in us-east" in section.rows[0].detail
    assert "1 of 1 GPU without a runner: $6.88 an hour" in section.rows[0].detail


def test_where_room_is_left_nothing_is_bought_to_be_kept_free() -> None:
    shop = a_shop()
    shop.keep_free([WARM], [room("gpu-01", 192, 1900, 8)])
    assert not shop.bought and not shop.lacking


def test_why_room_can_not_be_kept_free_is_told() -> None:
    shop = a_shop(replace(EAST, budget=Decimal(10)))
    shop.keep_free([WARM], [])
    assert len(shop.bought) == 1
    section = purchases_section(shop.bought, [], shop.owned, shop.regions, lacking=shop.lacking)
    assert section.rows[-1].tone is Tone.WARNING
    assert section.rows[-1].text.startswith(
        "free room for 2 runners on GPU-H100 in us-east: nothing is bought: us-east: the budget is"
    )
