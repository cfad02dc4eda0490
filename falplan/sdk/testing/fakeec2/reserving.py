"""Reserved capacity: an on-demand pool's instances that nobody else gets, paid for from the beginning on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from falplan.sdk.testing.fakeec2.account import Account
from falplan.sdk.testing.fakeec2.asking import digest, matching, page, tag_list, tags_of
from falplan.sdk.testing.fakeec2.catalog import InstanceType, Zone
from falplan.sdk.testing.fakeec2.things import Reservation
from falplan.sdk.testing.fakeec2.wire import Ec2Error

NO_RESERVATION = "InvalidCapacityReservationId.NotFound"


def create_capacity_reservation(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See CreateCapacityReservation, of those that instances have to name (`targeted`). botocore makes up no client token for it."""
    key = "CreateCapacityReservation", p.get("ClientToken", ""), ""
    if key[1] and key in account.tokens and account.now < account.tokens[key][0] + account.delays.tokens:
        return {"CapacityReservation": _told(account, _of_token(account, p, key))}
    kind, zone = _pool(account, p)
    _check(account, p)
    count = int(p["InstanceCount"])
    settle(account)
    limit = account.quotas.get((kind.family, "on-demand"))
    if limit is not None and account.vcpus(kind.family, "on-demand") + count * kind.vcpu > limit:
        words = f"You have requested more vCPU capacity than your current vCPU limit of {limit} allows"
        raise Ec2Error("VcpuLimitExceeded", words)
    pool = kind.name, zone.zone_id, "on-demand"
    if account.capacity.get(pool, count) < count:
        words = f"We currently do not have sufficient {kind.name} capacity in the Availability Zone you requested ({zone.name})."
        raise Ec2Error("InsufficientInstanceCapacity", words, 500)
    if pool in account.capacity:
        account.capacity[pool] -= count
    tags = tags_of(p, "capacity-reservation")
    made = Reservation(account.new_id("cr"), account.now, tags, kind=kind, zone=zone, count=count)
    made.until = p.get("EndDate")
    account.things[made.id] = made
    if key[1]:
        account.tokens[key] = account.now, digest(p), [made.id]
    return {"CapacityReservation": _told(account, made)}


def _of_token(account: Account, p: Mapping[str, Any], key: tuple[str, str, str]) -> Reservation:
    _, seal, [made] = account.tokens[key]
    if seal != digest(p):
        words = "Arguments on this idempotent request are inconsistent with arguments used in previous request(s)."
        raise Ec2Error("IdempotentParameterMismatch", words)
    found = account.things[made]
    assert isinstance(found, Reservation)  # noqa: S101 - its token says so
    return found


def _pool(account: Account, p: Mapping[str, Any]) -> tuple[InstanceType, Zone]:
    kind = account.catalog.type_of(p["InstanceType"])
    if kind is None:
        raise Ec2Error("InvalidParameterValue", f"Invalid value '{p['InstanceType']}' for InstanceType.")
    wanted = p.get("AvailabilityZoneId") or p.get("AvailabilityZone")
    if not wanted:
        words = "The request must contain either the AvailabilityZone or the AvailabilityZoneId parameter"
        raise Ec2Error("MissingParameter", words)
    zone = next((z for z in account.catalog.zones if wanted in (z.zone_id, z.name)), None)
    if zone is None:
        raise Ec2Error("InvalidParameterValue", f"Invalid availability zone: [{wanted}]")
    if not account.catalog.offers(kind, zone):
        words = f"Your requested instance type ({kind.name}) is not supported in your requested Availability Zone"
        raise Ec2Error("Unsupported", words)
    return kind, zone


def _check(account: Account, p: Mapping[str, Any]) -> None:
    if p.get("InstanceMatchCriteria", "open") != "targeted":
        raise Ec2Error("UnsupportedOperation", "This fake has reservations that are targeted alone")
    if int(p["InstanceCount"]) < 1:
        raise Ec2Error("InvalidParameterValue", "The instance count has to be at least 1")
    ends, limited = p.get("EndDate"), p.get("EndDateType", "unlimited") == "limited"
    if limited != (ends is not None):
        raise Ec2Error("InvalidParameterCombination", "EndDate belongs to an EndDateType of limited, and to no other")
    if ends is not None and ends <= account.now:
        raise Ec2Error("InvalidParameterValue", "The end date has to be in the future")


def describe_capacity_reservations(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See DescribeCapacityReservations."""
    ids = p.get("CapacityReservationIds") or []
    for wanted in ids:
        account.find("cr", wanted, NO_RESERVATION)
    values: Mapping[str, Callable[[Reservation], list[str]]] = {
        "instance-type": lambda r: [r.kind.name],
        "availability-zone": lambda r: [r.zone.name],
        "availability-zone-id": lambda r: [r.zone.zone_id],
        "state": lambda r: [r.state(account.now)],
        "instance-match-criteria": lambda r: ["targeted"],
    }
    found = [r for r in account.seen("cr") if isinstance(r, Reservation) and (not ids or r.id in ids)]
    shown, token = page(matching(found, p.get("Filters") or (), lambda r: r.tags, values), p, least=1)
    return {"CapacityReservations": [_told(account, r) for r in shown], "NextToken": token}


def _told(account: Account, reservation: Reservation) -> dict[str, Any]:
    state, until = reservation.state(account.now), reservation.until
    free = reservation.count - len(account.users(reservation)) if state == "active" else 0
    return {
        "CapacityReservationId": reservation.id,
        "OwnerId": account.owner,
        "CapacityReservationArn": f"arn:aws:ec2:{account.catalog.region}:{account.owner}:capacity-reservation/{reservation.id}",
        "InstanceType": reservation.kind.name,
        "InstancePlatform": "Linux/UNIX",
        "AvailabilityZone": reservation.zone.name,
        "AvailabilityZoneId": reservation.zone.zone_id,
        "Tenancy": "default",
        "TotalInstanceCount": reservation.count if state == "active" else 0,
        "AvailableInstanceCount": free,
        "EbsOptimized": False,
        "EphemeralStorage": False,
        "State": state,
        "StartDate": reservation.made_at,
        "EndDate": until,
        "EndDateType": "unlimited" if until is None else "limited",
        "InstanceMatchCriteria": "targeted",
        "CreateDate": reservation.made_at,
        "Tags": tag_list(reservation.tags),
    }


def cancel_capacity_reservation(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See CancelCapacityReservation: what runs in it goes on, at its own price. AWS does not say what a second one is answered."""
    found = account.find("cr", p["CapacityReservationId"], NO_RESERVATION)
    assert isinstance(found, Reservation)  # noqa: S101 - they begin with cr-
    if found.state(account.now) != "active":
        raise _not_active(account, found)
    found.cancelled_at = account.now
    settle(account)
    return {"Return": True}


def settle(account: Account) -> None:
    """Give back to their pools what was reserved, is over, and was used by nobody."""
    for one in account.things.values():
        if isinstance(one, Reservation) and one.state(account.now) != "active" and not one.is_settled:
            one.is_settled = True
            pool = one.kind.name, one.zone.zone_id, "on-demand"
            if pool in account.capacity:
                account.capacity[pool] += one.count - len(account.users(one))


# -- launching ------------------------------------------------------------------------------------------------------------


def target(account: Account, p: Mapping[str, Any], kind: InstanceType, zone: Zone | None) -> Reservation | None:
    """The reserved capacity that a launch names, None if it names none.

    Raises:
        Ec2Error: there is none such, it is for another type or zone, or the launch is of spot instances.
    """
    asked = (p.get("CapacityReservationSpecification") or {}).get("CapacityReservationTarget") or {}
    if "CapacityReservationId" not in asked:
        if asked:
            raise Ec2Error("UnsupportedOperation", "This fake has no groups of reservations")
        return None
    found = account.find("cr", asked["CapacityReservationId"], NO_RESERVATION)
    assert isinstance(found, Reservation)  # noqa: S101 - they begin with cr-
    if (p.get("InstanceMarketOptions") or {}).get("MarketType") == "spot":
        words = "Capacity Reservations can't be targeted by Spot Instances"
        raise Ec2Error("InvalidParameterCombination", words)
    if found.kind != kind or (zone is not None and zone != found.zone):
        words = f"The type or the Availability Zone of the instance is not that of the Capacity Reservation {found.id}"
        raise Ec2Error("InvalidParameterValue", words)
    return found


def room_in(account: Account, reservation: Reservation, least: int) -> int:
    """How many more instances run in it, whatever its pool has; they count against the quota already.

    Raises:
        Ec2Error: it is over, or has no room for the `least` number.
    """
    if reservation.state(account.now) != "active":
        raise _not_active(account, reservation)
    free = reservation.count - len(account.users(reservation))
    if free < least:
        words = "The targeted Capacity Reservation does not have enough available instance capacity to fulfill your request."
        raise Ec2Error("ReservationCapacityExceeded", words)
    return free


def _not_active(account: Account, reservation: Reservation) -> Ec2Error:
    words = f"The Capacity Reservation {reservation.id} is {reservation.state(account.now)}"
    return Ec2Error("InvalidCapacityReservationState", words)
