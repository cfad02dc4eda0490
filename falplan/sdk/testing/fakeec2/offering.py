"""What a region offers: types and where they are, zones, subnets, images, prices of spot instances."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from falplan.sdk.testing.fakeec2.account import Account
from falplan.sdk.testing.fakeec2.asking import matching, page
from falplan.sdk.testing.fakeec2.catalog import Image, InstanceType, Zone
from falplan.sdk.testing.fakeec2.things import Tags
from falplan.sdk.testing.fakeec2.wire import Ec2Error

T = TypeVar("T")


def _none(thing: object) -> Tags:
    return {}


def _filtered(found: list[T], p: Mapping[str, Any], values: Mapping[str, Callable[[T], list[str]]]) -> list[T]:
    return matching(found, p.get("Filters") or (), _none, values)


def describe_instance_types(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See DescribeInstanceTypes."""
    wanted = p.get("InstanceTypes") or []
    missing = sorted(set(wanted) - {t.name for t in account.catalog.types})
    if missing:
        raise Ec2Error(
            "InvalidInstanceType", f"The following supplied instance types do not exist: [{', '.join(missing)}]"
        )
    values: Mapping[str, Callable[[InstanceType], list[str]]] = {
        "instance-type": lambda t: [t.name],
        "supported-usage-class": lambda t: ["on-demand", *(["spot"] if t.spot else [])],
    }
    found = [t for t in account.catalog.types if not wanted or t.name in wanted]
    shown, token = page(_filtered(found, p, values), p)
    return {"InstanceTypes": [_type(t) for t in shown], "NextToken": token}


def _type(kind: InstanceType) -> dict[str, Any]:
    told: dict[str, Any] = {
        "InstanceType": kind.name,
        "CurrentGeneration": True,
        "SupportedUsageClasses": ["on-demand", *(["spot"] if kind.spot else [])],
        "ProcessorInfo": {"SupportedArchitectures": ["x86_64"], "Manufacturer": "Intel"},
        "VCpuInfo": {"DefaultVCpus": kind.vcpu, "DefaultCores": max(1, kind.vcpu // 2), "DefaultThreadsPerCore": 2},
        "MemoryInfo": {"SizeInMiB": kind.memory},
    }
    if kind.gpu:
        one = {"Name": kind.gpu.name, "Manufacturer": "NVIDIA", "Count": kind.gpu.count}
        memory = {"MemoryInfo": {"SizeInMiB": kind.gpu.memory}}
        told["GpuInfo"] = {"Gpus": [{**one, **memory}], "TotalGpuMemoryInMiB": kind.gpu.memory * kind.gpu.count}
    return told


def describe_instance_type_offerings(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See DescribeInstanceTypeOfferings, by region, zone and zone id."""
    by = p.get("LocationType", "region")
    rows: list[tuple[str, str]] = []
    for kind in account.catalog.types:
        zones = [z for z in account.catalog.zones if account.catalog.offers(kind, z)]
        match by:
            case "region":
                rows += [(kind.name, account.catalog.region)] if zones else []
            case "availability-zone":
                rows += [(kind.name, z.name) for z in zones]
            case "availability-zone-id":
                rows += [(kind.name, z.zone_id) for z in zones]
            case _:
                raise Ec2Error("InvalidParameterValue", f"Unknown location type {by}")
    values: Mapping[str, Callable[[tuple[str, str]], list[str]]] = {
        "instance-type": lambda row: [row[0]],
        "location": lambda row: [row[1]],
    }
    shown, token = page(_filtered(rows, p, values), p)
    told = [{"InstanceType": name, "LocationType": by, "Location": place} for name, place in shown]
    return {"InstanceTypeOfferings": told, "NextToken": token}


def describe_availability_zones(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See DescribeAvailabilityZones."""
    values: Mapping[str, Callable[[Zone], list[str]]] = {
        "zone-id": lambda z: [z.zone_id],
        "zone-name": lambda z: [z.name],
        "state": lambda z: ["available"],
        "zone-type": lambda z: ["availability-zone"],
    }
    told = [
        {
            "ZoneName": z.name,
            "ZoneId": z.zone_id,
            "RegionName": account.catalog.region,
            "State": "available",
            "ZoneType": "availability-zone",
            "OptInStatus": "opt-in-not-required",
        }
        for z in _filtered(list(account.catalog.zones), p, values)
    ]
    return {"AvailabilityZones": told}


def describe_subnets(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See DescribeSubnets: one in each zone."""
    for wanted in p.get("SubnetIds") or ():
        if account.catalog.zone_of_subnet(wanted) is None:
            raise Ec2Error("InvalidSubnetID.NotFound", f"The subnet ID '{wanted}' does not exist")
    ids = p.get("SubnetIds") or [z.subnet_id for z in account.catalog.zones]
    values: Mapping[str, Callable[[Zone], list[str]]] = {
        "vpc-id": lambda z: [account.catalog.vpc_id],
        "subnet-id": lambda z: [z.subnet_id],
        "availability-zone-id": lambda z: [z.zone_id],
        "default-for-az": lambda z: ["true"],
    }
    shown, token = page(_filtered([z for z in account.catalog.zones if z.subnet_id in ids], p, values), p)
    told = [
        {
            "SubnetId": z.subnet_id,
            "VpcId": account.catalog.vpc_id,
            "AvailabilityZone": z.name,
            "AvailabilityZoneId": z.zone_id,
            "CidrBlock": z.cidr,
            "State": "available",
            "DefaultForAz": True,
            "MapPublicIpOnLaunch": True,
        }
        for z in shown
    ]
    return {"Subnets": told, "NextToken": token}


def describe_vpcs(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See DescribeVpcs: the default one."""
    vpc = account.catalog.vpc_id
    values: Mapping[str, Callable[[str], list[str]]] = {
        "vpc-id": lambda v: [v],
        "is-default": lambda v: ["true"],
        "isDefault": lambda v: ["true"],
    }
    if any(wanted != vpc for wanted in p.get("VpcIds") or ()):
        raise Ec2Error("InvalidVpcID.NotFound", "The vpc ID does not exist")
    found = _filtered([vpc], p, values)
    return {"Vpcs": [{"VpcId": v, "CidrBlock": "10.40.0.0/16", "State": "available", "IsDefault": True} for v in found]}


def describe_images(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See DescribeImages."""
    ids = p.get("ImageIds") or [i.image_id for i in account.catalog.images]
    missing = set(ids) - {i.image_id for i in account.catalog.images}
    if missing:
        raise Ec2Error("InvalidAMIID.NotFound", f"The image id '[{min(missing)}]' does not exist")
    values: Mapping[str, Callable[[Image], list[str]]] = {
        "name": lambda i: [i.name],
        "image-id": lambda i: [i.image_id],
        "architecture": lambda i: [i.architecture],
        "state": lambda i: ["available"],
    }
    told = [
        {
            "ImageId": i.image_id,
            "Name": i.name,
            "State": "available",
            "Architecture": i.architecture,
            "RootDeviceName": i.root_device,
            "RootDeviceType": "ebs",
            "VirtualizationType": "hvm",
            "BlockDeviceMappings": [{"DeviceName": i.root_device, "Ebs": {"VolumeSize": i.size, "VolumeType": "gp2"}}],
        }
        for i in _filtered([i for i in account.catalog.images if i.image_id in ids], p, values)
    ]
    return {"Images": told}


def describe_spot_price_history(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See DescribeSpotPriceHistory: what it costs now, in each zone where it is offered."""
    wanted = p.get("InstanceTypes") or []
    rows = [
        (kind, zone)
        for kind in account.catalog.types
        for zone in account.catalog.zones
        if kind.spot is not None and account.catalog.offers(kind, zone) and (not wanted or kind.name in wanted)
    ]
    shown, token = page(rows, p, least=1)
    told = [
        {
            "InstanceType": kind.name,
            "AvailabilityZone": zone.name,
            "ProductDescription": "Linux/UNIX",
            "SpotPrice": f"{kind.spot:.6f}",
            "Timestamp": account.now,
        }
        for kind, zone in shown
    ]
    return {"SpotPriceHistory": told, "NextToken": token or ""}
