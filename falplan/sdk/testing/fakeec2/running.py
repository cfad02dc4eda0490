"""RunInstances and what ends them: pools, quotas, client tokens, and what is described of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from falplan.sdk.testing.fakeec2.account import Account, Instance, Thing
from falplan.sdk.testing.fakeec2.asking import tags_of
from falplan.sdk.testing.fakeec2.catalog import Image, InstanceType, Zone
from falplan.sdk.testing.fakeec2.describing import CODES, described
from falplan.sdk.testing.fakeec2.templates import with_template
from falplan.sdk.testing.fakeec2.wire import Ec2Error

MOST_USER_DATA = 16 * 1024
"""Bytes, before they are encoded."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """A launch whose parameters make sense. `zone` is None where nobody chose one."""

    parameters: Mapping[str, Any]
    image: Image
    kind: InstanceType
    zone: Zone | None
    spot: bool
    groups: tuple[str, ...]

    @property
    def market(self) -> str:
        return "spot" if self.spot else "on-demand"


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
    made = [_make(account, wish, pool, number) for number, pool in enumerate(_pools(account, wish, least, most))]
    if token:
        account.tokens[_key(wish, token)] = account.now, _digest(asked), [i.id for i in made]
    return _reservation(account, made)


def _wish(account: Account, p: Mapping[str, Any]) -> _Wish:
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
    return _Wish(p, image, kind, _zone(account, p, interfaces), market == "spot", tuple(groups))


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


def _key(wish: _Wish, token: str) -> tuple[str, str, str]:
    """A token counts in the zone that was chosen: the same one in another zone makes another instance."""
    return "RunInstances", token, wish.zone.zone_id if wish.zone else ""


def _digest(asked: Mapping[str, Any]) -> str:
    told = {k: v for k, v in asked.items() if k not in ("ClientToken", "DryRun")}
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=repr).encode()).hexdigest()


def _of_token(account: Account, wish: _Wish, asked: Mapping[str, Any], token: str) -> list[Instance]:
    at, digest, ids = account.tokens.get(_key(wish, token), (0.0, "", [])) if token else (0.0, "", [])
    if not ids or account.now >= at + account.delays.tokens:
        return []
    if digest != _digest(asked):
        raise Ec2Error(
            "IdempotentParameterMismatch",
            "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
        )
    found = [i for i in account.instances() if i.id in ids]
    if any(i.state(account.now) == "terminated" for i in found):
        raise Ec2Error("IdempotentInstanceTerminated", "The instances of this client token have been terminated")
    return found


# -- room -----------------------------------------------------------------------------------------------------------------


def _pools(account: Account, wish: _Wish, least: int, most: int) -> list[Zone]:
    """The zone of each instance.

    Raises:
        Ec2Error: the type is not offered there, the account may have no more vCPUs, or there is no capacity for the `least` number.
    """
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


# -- making ---------------------------------------------------------------------------------------------------------------


def _make(account: Account, wish: _Wish, zone: Zone, number: int) -> Instance:
    p, now = wish.parameters, account.now
    pool = wish.kind.name, zone.zone_id, wish.market
    address = f"{zone.cidr.rsplit('.', 1)[0]}.{10 + len(account.instances()) % 240}"
    made = Instance(
        account.new_id("i"),
        now,
        tags_of(p, "instance"),
        kind=wish.kind,
        zone=zone,
        spot=wish.spot,
        groups=wish.groups,
        runs_at=now + account.delays.boot,
        protected=bool(p.get("DisableApiTermination")),
    )
    if pool in account.stillborn:
        made.ends_at = made.gone_at = made.runs_at = now + account.delays.boot
        made.why = "Server.InsufficientInstanceCapacity", "Server.InsufficientInstanceCapacity: Insufficient capacity"
    account.things[made.id] = made
    made.body = {
        "ImageId": wish.image.image_id,
        "AmiLaunchIndex": number,
        "InstanceType": wish.kind.name,
        "LaunchTime": now,
        "Placement": {"AvailabilityZone": zone.name, "Tenancy": "default"},
        "SubnetId": zone.subnet_id,
        "VpcId": account.catalog.vpc_id,
        "PrivateIpAddress": address,
        "PrivateDnsName": f"ip-{address.replace('.', '-')}.ec2.internal",
        "Architecture": wish.image.architecture,
        "RootDeviceName": wish.image.root_device,
        "RootDeviceType": "ebs",
        "EbsOptimized": bool(p.get("EbsOptimized")),
        "BlockDeviceMappings": _volumes(account, wish, made),
        "MetadataOptions": {"State": "applied", **_defaults(p)},
        "NetworkInterfaces": [_interface(account, wish, made, zone, address)],
        **{name: p[name] for name in ("KeyName",) if name in p},
        **({"PublicIpAddress": f"203.0.113.{1 + len(account.instances()) % 250}"} if _is_public(p) else {}),
        **({"ClientToken": p["ClientToken"]} if "ClientToken" in p else {}),
        **({"InstanceLifecycle": "spot", "SpotInstanceRequestId": account.new_id("sir")} if wish.spot else {}),
        **({"IamInstanceProfile": {"Arn": _profile(p)}} if "IamInstanceProfile" in p else {}),
    }
    return made


def _is_public(p: Mapping[str, Any]) -> bool:
    """As its first interface asks for; otherwise as the subnets of the fake have it."""
    cards = p.get("NetworkInterfaces") or [{}]
    return bool(cards[0].get("AssociatePublicIpAddress", True))


def _defaults(p: Mapping[str, Any]) -> dict[str, Any]:
    given = p.get("MetadataOptions") or {}
    return {"HttpTokens": "optional", "HttpPutResponseHopLimit": 1, "HttpEndpoint": "enabled", **given}


def _profile(p: Mapping[str, Any]) -> str:
    given = p["IamInstanceProfile"]
    return str(given.get("Arn") or f"arn:aws:iam::123456789012:instance-profile/{given['Name']}")


def _volumes(account: Account, wish: _Wish, made: Instance) -> list[dict[str, Any]]:
    """The root volume in any case, and those that were asked for."""
    asked = {b["DeviceName"]: b.get("Ebs") or {} for b in wish.parameters.get("BlockDeviceMappings") or ()}
    found = []
    for device, ebs in {wish.image.root_device: {}, **asked}.items():
        size = int(ebs.get("VolumeSize") or wish.image.size)
        if size < wish.image.size and device == wish.image.root_device:
            words = f"Volume of size {size}GB is smaller than snapshot, expect size >= {wish.image.size}GB"
            raise Ec2Error("InvalidBlockDeviceMapping", words)
        volume = Thing(account.new_id("vol"), account.now, tags_of(wish.parameters, "volume"))
        volume.body = {
            "AvailabilityZone": made.zone.name,
            "Size": size,
            "VolumeType": ebs.get("VolumeType", "gp2"),
            "Iops": ebs.get("Iops", 3000),
            "Throughput": ebs.get("Throughput"),
            "Encrypted": bool(ebs.get("Encrypted")),
            "CreateTime": account.now,
            "Attachments": [
                {"InstanceId": made.id, "Device": device, "DeleteOnTermination": ebs.get("DeleteOnTermination", True)}
            ],
        }
        account.things[volume.id] = volume
        kept = {"VolumeId": volume.id, "Status": "attached", "AttachTime": account.now}
        found.append(
            {"DeviceName": device, "Ebs": {**kept, "DeleteOnTermination": ebs.get("DeleteOnTermination", True)}}
        )
    return found


def _interface(account: Account, wish: _Wish, made: Instance, zone: Zone, address: str) -> dict[str, Any]:
    card = Thing(account.new_id("eni"), account.now, tags_of(wish.parameters, "network-interface"))
    card.body = {"instance": made.id}
    account.things[card.id] = card
    return {"NetworkInterfaceId": card.id, "SubnetId": zone.subnet_id, "PrivateIpAddress": address, "Status": "in-use"}


def _reservation(account: Account, instances: list[Instance]) -> dict[str, Any]:
    told = [described(account, i, account.now) for i in instances]
    return {"ReservationId": f"r-{instances[0].id[2:]}", "OwnerId": "123456789012", "Instances": told}


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
