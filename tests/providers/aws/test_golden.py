"""For each of fal's machine types, to the letter: what a plan says of the machine that is bought, and the request that buys it."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from falplan.core.consequences import Consequence, Effect
from falplan.core.fleet import Region
from falplan.core.placement import Need, Placed, Slots, place
from falplan.core.purchases import Shop, purchases_section
from falplan.core.report import Section
from falplan.core.spec.machine_types import BUILT_IN
from falplan.sdk.launches import Intent, Pool
from falplan_providers.aws.boot import cloud_config
from falplan_providers.aws.kinds import asked_for, offered
from falplan_providers.aws.options import SUBSTITUTES as OTHERWISE
from falplan_providers.aws.prices import Prices, current
from falplan_providers.aws.requests import Build, Disk, Image, run_instances
from tests.views.golden import check_golden

from .told import ec2s_types

SUBSTITUTES = {"GPU-A6000": ["L40S"], "GPU-RTX4090": ["L4"], "GPU-RTX5090": ["L40S"]}
"""What a spec may allow for GPUs that EC2 does not have."""
BUILD = Build(
    Image("ami-0123456789abcdef0", "/dev/sda1", 75),
    ("sg-0123456789abcdef0",),
    boot=cloud_config("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ6WrYfCd1m", 1800.0),
    tags={"team": "ml"},
)


@pytest.fixture
def bundled(tmp_path: Path) -> Prices:
    return current({"XDG_DATA_HOME": str(tmp_path)})


def shop(name: str, prices: Prices, *, allowed: bool) -> Shop:
    """A region that sells all that falplan knows of, for a runner on one machine type."""
    kind, substitutes = BUILT_IN[name], SUBSTITUTES if allowed else {}
    types = [ec2s_types()[n] for n in asked_for([kind], substitutes) if n in ec2s_types()]
    more = prices.more("us-east-1", Disk(), public=True)
    offers = offered("us-east", "us-east-1", types, [kind], substitutes, prices, more)
    return Shop(
        [Region("us-east", 4, Decimal(500), offers=tuple(offers), otherwise=OTHERWISE, ends_after=1800.0)], [], BUILT_IN
    )


def said(section: Section) -> str:
    lines = [section.title]
    for row in section.rows:
        lines += [f"  {row.text}", *(f"    {detail}" for detail in row.detail)]
    return "\n".join(lines)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_what_is_said_and_what_is_asked_for(name: str, bundled: Prices) -> None:
    allowed = shop(name, bundled, allowed=True)
    room = allowed.room_for("app.main.it", Need((name,)), 1)
    assert isinstance(room, Slots)
    placed = place(Need((name,)), [room], BUILT_IN)
    assert isinstance(placed, Placed)
    follow = Consequence("app.main.it", Effect.LAUNCH, 1, "it is new", placed=(placed,))
    text = said(purchases_section(allowed.bought, [follow], allowed.owned, allowed.regions))
    if name in SUBSTITUTES:
        refused = shop(name, bundled, allowed=False).room_for("app.main.it", Need((name,)), 1)
        assert isinstance(refused, tuple)
        text = "\n".join(["Without substitutes", *(f"  {line}" for line in refused), text])

    best = allowed.bought[0].kinds[0]
    request = run_instances(
        BUILD,
        Intent("us-east/m-1", "lineage-1", "cp-1"),
        Pool(best, "use1-az4", "on-demand"),
        1,
        subnet="subnet-0123456789abcdef0",
        region="us-east",
    )
    shown = {**request, "UserData": "(see user-data.txt)"}
    check_golden(f"{text}\n\nRunInstances\n{json.dumps(shown, indent=2, sort_keys=True)}\n", f"aws/{name}.txt")


def test_what_a_machine_reads_when_it_boots() -> None:
    check_golden(BUILD.boot, "aws/user-data.txt")


def test_a_request_for_spot_differs_in_its_market_and_marks_alone() -> None:
    intent, pool = Intent("us-east/m-1", "lineage-1", "cp-1"), Pool("g6.xlarge", "use1-az4", "spot")
    where = {"subnet": "subnet-1", "region": "us-east"}
    spot = run_instances(BUILD, intent, pool, 1, **where)
    demand = run_instances(BUILD, intent, replace(pool, market="on-demand"), 1, **where)
    assert {k for k in {*spot, *demand} if spot.get(k) != demand.get(k)} == {
        "ClientToken",
        "InstanceMarketOptions",
        "TagSpecifications",
    }
    assert spot["InstanceMarketOptions"] == {
        "MarketType": "spot",
        "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
    }
