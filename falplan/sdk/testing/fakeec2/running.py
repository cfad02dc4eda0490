"""RunInstances and what ends them: pools, quotas, client tokens, and what is described of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from falplan.sdk.testing.fakeec2.account import Account
from falplan.sdk.testing.fakeec2.asking import digest
from falplan.sdk.testing.fakeec2.catalog import Zone
from falplan.sdk.testing.fakeec2.describing import CODES, described
from falplan.sdk.testing.fakeec2.making import Wish, make
from falplan.sdk.testing.fakeec2.profiles import launchable
from falplan.sdk.testing.fakeec2.reserving import room_in, settle, target
from falplan.sdk.testing.fakeec2.templates import with_template
from falplan.sdk.testing.fakeec2.things import Instance
from falplan.sdk.testing.fakeec2.wire import Ec2Error

MOST_USER_DATA = 16 * 1024
"""Bytes, before they are encoded."""


def run_instances(account: Account, asked: dict[str, Any]) -> dict[str, Any]:
    """See RunInstances. Checked in EC2's order: parameters, token, offer, quota, capacity."""
    wish = _wish(account, with_template(account, asked))
    token, least, most = asked.get("ClientToken", ""), int(asked["MinCount"]), int(asked["MaxCount"])
    if not 1 <= least <= most:
        raise Ec2Error("InvalidParameterValue", "minCount must not be larger than maxCount, and at least 1")
    if len(token) > 64 or not token.isascii():
        raise Ec2Error("InvalidParameterValue", "A client token has at most 64 ASCII characters")
    if asked.get("DryRun"):
        raise Ec2Error("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)
    known = _of_token(account, wish, asked, token)
    if known:
        return _reservation(account, known)
    made = [make(account, wish, pool, number) for number, pool in enumerate(_pools(account, wish, least, most))]
    if token:
        account.tokens[_key(wish, token)] = account.now, digest(asked), [i.id for i in made]
    return _reservation(account, made)


def _wish(account: Account, p: Mapping[str, Any]) -> Wish:
    image = next((i for i in account.catalog.images if i.image_id == p.get("ImageId")), None)
    if "ImageId" not in p:
        raise Ec2Error("MissingParameter", "The request must contain the parameter ImageId")
    if image is None:
        raise Ec2Error("InvalidAMIID.NotFound", f"The image id '[{p['ImageId']}]' does not exist")
    kind = account.catalog.type_of(p.get("InstanceType", "m1.small"))
    if kind is None:
        raise Ec2Error("InvalidParameterValue", f"Invalid value '{p.get('InstanceType')}' for InstanceType.")
    if len(p.get("UserData", "")) * 3 / 4 > MOST_USER_DATA:
        raise Ec2Error("InvalidParameterValue", "User data is limited to 16384 bytes")
    if p.get("KeyName"):
        _check_key(account, p["KeyName"])
    interfaces = p.get("NetworkInterfaces") or []
    if interfaces and ("SubnetId" in p or "SecurityGroupIds" in p):
        words = "Network interfaces and an instance-level subnet ID or security groups may not be specified on the same request"
        raise Ec2Error("InvalidParameterCombination", words)
    groups = interfaces[0].get("Groups", ()) if interfaces else p.get("SecurityGroupIds", ())
    for group in groups:
        account.find("sg", group, "InvalidGroup.NotFound")
    market = (p.get("InstanceMarketOptions") or {}).get("MarketType", "")
    if market not in ("", "spot"):
        raise Ec2Error("UnsupportedOperation", f"This fake has no market {market}")
    profile = launchable(account, p["IamInstanceProfile"]) if p.get("IamInstanceProfile") else None
    zone = _zone(account, p, interfaces)
    reservation = target(account, p, kind, zone)
    return Wish(p, image, kind, zone, market == "spot", tuple(groups), profile, reservation)


def _check_key(account: Account, name: str) -> None:
    if not any(t.body.get("KeyName") == name for t in account.seen("key")):
        raise Ec2Error("InvalidKeyPair.NotFound", f"The key pair '{name}' does not exist")


def _zone(account: Account, p: Mapping[str, Any], interfaces: list[dict[str, Any]]) -> Zone | None:
    subnet = interfaces[0].get("SubnetId") if interfaces else p.get("SubnetId")
    if subnet:
        zone = account.catalog.zone_of_subnet(subnet)
        if zone is None:
            raise Ec2Error("InvalidSubnetID.NotFound", f"The subnet ID '{subnet}' does not exist")
        return zone
    name = (p.get("Placement") or {}).get("AvailabilityZone")
    if not name:
        return None
    for zone in account.catalog.zones:
        if zone.name == name:
            return zone
    raise Ec2Error("InvalidParameterValue", f"Invalid availability zone: [{name}]")


# -- tokens ---------------------------------------------------------------------------------------------------------------


def _key(wish: Wish, token: str) -> tuple[str, str, str]:
    """A token counts in the zone that was chosen: the same one in another zone makes another instance."""
    return "RunInstances", token, wish.zone.zone_id if wish.zone else ""


def _of_token(account: Account, wish: Wish, asked: Mapping[str, Any], token: str) -> list[Instance]:
    at, seal, ids = account.tokens.get(_key(wish, token), (0.0, "", [])) if token else (0.0, "", [])
    if not ids or account.now >= at + account.delays.tokens:
        return []
    if seal != digest(asked):
        raise Ec2Error(
            "IdempotentParameterMismatch",
            "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
        )
    found = [i for i in account.instances() if i.id in ids]
    if any(i.state(account.now) == "terminated" for i in found):
        raise Ec2Error("IdempotentInstanceTerminated", "The instances of this client token have been terminated")
    return found


# -- room -----------------------------------------------------------------------------------------------------------------


def _pools(account: Account, wish: Wish, least: int, most: int) -> list[Zone]:
    """The zone of each instance.

    Raises:
        Ec2Error: the type is not offered there, the account may have no more vCPUs, or there is no capacity for the `least` number.
    """
    settle(account)
    if wish.reservation:
        return [wish.reservation.zone] * min(most, room_in(account, wish.reservation, least))
    zones = [wish.zone] if wish.zone else list(account.catalog.zones)
    offered = [z for z in zones if account.catalog.offers(wish.kind, z)]
    if not offered:
        words = f"Your requested instance type ({wish.kind.name}) is not supported in your requested Availability Zone"
        raise Ec2Error("Unsupported", words)
    limit = account.quotas.get((wish.kind.family, wish.market))
    used = account.vcpus(wish.kind.family, wish.market)
    if limit is not None and used + least * wish.kind.vcpu > limit:
        if wish.spot:
            raise Ec2Error("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded")
        words = f"You have requested more vCPU capacity than your current vCPU limit of {limit} allows"
        raise Ec2Error("VcpuLimitExceeded", words)
    for zone in offered:
        pool = wish.kind.name, zone.zone_id, wish.market
        free = account.capacity.get(pool, most)
        if free >= least:
            given = min(free, most)
            if pool in account.capacity:
                account.capacity[pool] -= given
            return [zone] * given
    words = f"We currently do not have sufficient {wish.kind.name} capacity in the Availability Zone you requested ({offered[0].name})."
    raise Ec2Error("InsufficientInstanceCapacity", words, 500)


def _reservation(account: Account, instances: list[Instance]) -> dict[str, Any]:
    told = [described(account, i, account.now) for i in instances]
    return {"ReservationId": f"r-{instances[0].id[2:]}", "OwnerId": account.owner, "Instances": told}


def terminate_instances(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See TerminateInstances: all of them, or none."""
    found = [account.find("i", wanted, "InvalidInstanceID.NotFound") for wanted in p["InstanceIds"]]
    told = []
    for instance in found:
        assert isinstance(instance, Instance)  # noqa: S101 - they begin with i-
        if instance.protected:
            words = f"The instance '{instance.id}' may not be terminated. Modify its 'disableApiTermination' instance attribute."
            raise Ec2Error("OperationNotPermitted", words)
    for instance in found:
        assert isinstance(instance, Instance)  # noqa: S101
        before = instance.state(account.now)
        account.end(instance, "Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown")
        after = instance.state(account.now)
        states = {"PreviousState": before, "CurrentState": after}
        told.append({"InstanceId": instance.id, **{n: {"Code": CODES[s], "Name": s} for n, s in states.items()}})
    return {"TerminatingInstances": told}


def modify_instance_attribute(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See ModifyInstanceAttribute: protection from termination, and security groups."""
    instance = account.find("i", p["InstanceId"], "InvalidInstanceID.NotFound")
    assert isinstance(instance, Instance)  # noqa: S101
    known = {"InstanceId", "DisableApiTermination", "Groups", "DryRun"}
    if p.keys() - known:
        raise Ec2Error("UnsupportedOperation", f"This fake does not modify {', '.join(sorted(p.keys() - known))}")
    if "DisableApiTermination" in p:
        instance.protected = bool(p["DisableApiTermination"].get("Value"))
    if "Groups" in p:
        instance.groups = tuple(account.find("sg", g, "InvalidGroup.NotFound").id for g in p["Groups"])
    return {}
