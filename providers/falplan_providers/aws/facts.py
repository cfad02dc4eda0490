"""What a region offers now, as values: instance types, the zones that have them, subnets, prices of spot. Read-only calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from falplan.core.errors import FalplanError

from .account import Account
from .tags import filters

MIB = 1024**2


@dataclass(frozen=True, slots=True)
class Gpus:
    """The GPUs of an instance type. `memory` of one in bytes. `share`: the part of one that there is; 1 where they are whole."""

    name: str
    count: int
    memory: int
    share: Decimal = Decimal(1)


@dataclass(frozen=True, slots=True)
class InstanceType:
    """What an instance type has. `memory` in bytes. `nvme` is the size of its own disks in bytes, `arch` `x86_64` or `arm64`."""

    name: str
    vcpus: int
    memory: int
    arch: str = "x86_64"
    gpus: Gpus | None = None
    nvme: int = 0
    spot: bool = True
    bare: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """A region as an account sees it. `zones` are AZ ids by type, `subnets` by AZ id, `names` AZ ids by the account's own names of them.

    `spot` holds USD an hour by (type, AZ id).
    """

    types: Mapping[str, InstanceType] = field(default_factory=dict)
    zones: Mapping[str, frozenset[str]] = field(default_factory=dict)
    subnets: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    spot: Mapping[tuple[str, str], Decimal] = field(default_factory=dict)


def gather(account: Account, names: Sequence[str], *, vpc: str, subnets: Sequence[str], spot_at: float | None) -> Facts:
    """Ask for all of it, each kind once.

    `names` are the instance types that matter; `subnets` those that machines may stand in, by default those of the account's default
    network, or of `vpc`. `spot_at` is the time now, in seconds since 1970, None if prices of spot do not matter.

    Raises:
        FalplanError: there are no subnets, or no such ones.
    """
    own = sorted(set(names))
    wanted = filters({"instance-type": own})
    told = account.pages("describe_instance_types", "InstanceTypes", Filters=wanted)
    types = {kind.name: kind for kind in map(instance_type, told)}
    rows = account.pages(
        "describe_instance_type_offerings",
        "InstanceTypeOfferings",
        LocationType="availability-zone-id",
        Filters=wanted,
    )
    zones: dict[str, set[str]] = {}
    for row in rows:
        zones.setdefault(row["InstanceType"], set()).add(row["Location"])
    places = _subnets(account, vpc, subnets)
    by_name = {place["AvailabilityZone"]: place["AvailabilityZoneId"] for place in places}
    return Facts(
        types,
        {name: frozenset(there) for name, there in zones.items()},
        _one_each(places),
        by_name,
        {} if spot_at is None else _spot_prices(account, own, by_name, spot_at),
    )


def _subnets(account: Account, vpc: str, subnets: Sequence[str]) -> list[dict[str, Any]]:
    if subnets:
        return list(account.pages("describe_subnets", "Subnets", SubnetIds=list(subnets)))
    wanted = filters({"vpc-id": vpc} if vpc else {"default-for-az": "true"})
    found = list(account.pages("describe_subnets", "Subnets", Filters=wanted))
    if not found:
        where = f"The network {vpc} of" if vpc else "The default network of"
        text = f"{where} {account.access.region} has no subnets. Name those that machines may stand in: `subnets: [subnet-…]`."
        raise FalplanError("There is no subnet for machines", text)
    return found


def _one_each(places: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """One subnet of each zone: the one with the most free addresses, then the first by its id."""
    best: dict[str, Mapping[str, Any]] = {}
    for place in sorted(places, key=lambda p: (-int(p.get("AvailableIpAddressCount") or 0), p["SubnetId"])):
        best.setdefault(place["AvailabilityZoneId"], place)
    return {zone: str(place["SubnetId"]) for zone, place in sorted(best.items())}


def _spot_prices(
    account: Account, names: Sequence[str], by_name: Mapping[str, str], now: float
) -> dict[tuple[str, str], Decimal]:
    """The newest of each: from now on, EC2 tells what holds now. Zones of which the account has no subnet do not matter."""
    rows = account.pages(
        "describe_spot_price_history",
        "SpotPriceHistory",
        InstanceTypes=list(names),
        ProductDescriptions=["Linux/UNIX"],
        StartTime=datetime.fromtimestamp(now, UTC),
    )
    found: dict[tuple[str, str], tuple[Any, Decimal]] = {}
    for row in rows:
        zone = by_name.get(row["AvailabilityZone"])
        if zone is None:
            continue
        before = found.get((row["InstanceType"], zone))
        if before is None or row["Timestamp"] > before[0]:
            found[row["InstanceType"], zone] = row["Timestamp"], Decimal(row["SpotPrice"])
    return {at: price for at, (_, price) in found.items()}


def instance_type(told: Mapping[str, Any]) -> InstanceType:
    """A type as DescribeInstanceTypes tells of it."""
    processor = told.get("ProcessorInfo", {}).get("SupportedArchitectures", [])
    disks = told.get("InstanceStorageInfo", {})
    return InstanceType(
        str(told["InstanceType"]),
        int(told["VCpuInfo"]["DefaultVCpus"]),
        int(told["MemoryInfo"]["SizeInMiB"]) * MIB,
        "arm64" if "arm64" in processor else "x86_64",
        _gpus(told.get("GpuInfo") or {}),
        int(disks.get("TotalSizeInGB") or 0) * 1_000_000_000,
        "spot" in told.get("SupportedUsageClasses", ["spot"]),
        bool(told.get("BareMetal")),
    )


def _gpus(told: Mapping[str, Any]) -> Gpus | None:
    """NVIDIA's alone. A part of one, as g6f has it, is told with a count of 0, and with how much memory it has."""
    kinds = [g for g in told.get("Gpus", ()) if str(g.get("Manufacturer", "")).upper() == "NVIDIA"]
    if not kinds:
        return None
    kind = kinds[0]
    memory = int(kind.get("MemoryInfo", {}).get("SizeInMiB") or 0) * MIB
    whole = int(kind.get("Count") or 0)
    share = Decimal(str(kind["GpuPartitionSize"])) if kind.get("GpuPartitionSize") else Decimal(1 if whole else 0)
    return Gpus(str(kind["Name"]), whole, memory, share)
