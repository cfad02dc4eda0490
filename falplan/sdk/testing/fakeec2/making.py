"""What a launch makes: an instance, its volumes and its network interface."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from falplan.sdk.testing.fakeec2.account import Account
from falplan.sdk.testing.fakeec2.asking import tags_of
from falplan.sdk.testing.fakeec2.catalog import Image, InstanceType, Zone
from falplan.sdk.testing.fakeec2.principals import Profile
from falplan.sdk.testing.fakeec2.things import Instance, Reservation, Thing
from falplan.sdk.testing.fakeec2.wire import Ec2Error


@dataclass(frozen=True, slots=True)
class Wish:
    """A launch whose parameters make sense. `zone` is None where nobody chose one, `reservation` where it is in no reserved capacity."""

    parameters: Mapping[str, Any]
    image: Image
    kind: InstanceType
    zone: Zone | None
    spot: bool
    groups: tuple[str, ...]
    profile: Profile | None
    reservation: Reservation | None

    @property
    def market(self) -> str:
        """`spot` or `on-demand`."""
        return "spot" if self.spot else "on-demand"


def make(account: Account, wish: Wish, zone: Zone, number: int) -> Instance:
    """One instance in a zone, with its volumes and its network interface. `number` is its place among those of the launch."""
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
        reservation=wish.reservation.id if wish.reservation else "",
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
        **({"IamInstanceProfile": {"Arn": wish.profile.arn, "Id": wish.profile.id}} if wish.profile else {}),
        **({"CapacityReservationId": wish.reservation.id} if wish.reservation else {}),
    }
    return made


def _is_public(p: Mapping[str, Any]) -> bool:
    """As its first interface asks for; otherwise as the subnets of the fake have it."""
    cards = p.get("NetworkInterfaces") or [{}]
    return bool(cards[0].get("AssociatePublicIpAddress", True))


def _defaults(p: Mapping[str, Any]) -> dict[str, Any]:
    given = p.get("MetadataOptions") or {}
    return {"HttpTokens": "optional", "HttpPutResponseHopLimit": 1, "HttpEndpoint": "enabled", **given}


def _volumes(account: Account, wish: Wish, made: Instance) -> list[dict[str, Any]]:
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


def _interface(account: Account, wish: Wish, made: Instance, zone: Zone, address: str) -> dict[str, Any]:
    card = Thing(account.new_id("eni"), account.now, tags_of(wish.parameters, "network-interface"))
    card.body = {"instance": made.id}
    account.things[card.id] = card
    return {"NetworkInterfaceId": card.id, "SubnetId": zone.subnet_id, "PrivateIpAddress": address, "Status": "in-use"}
