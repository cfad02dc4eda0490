"""Public addresses that stay: allocating, giving to an instance, and releasing them. Each costs money until it is released."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from falplan.sdk.testing.fakeec2.account import Account
from falplan.sdk.testing.fakeec2.asking import matching, tag_list, tags_of
from falplan.sdk.testing.fakeec2.things import Address, Instance
from falplan.sdk.testing.fakeec2.wire import Ec2Error

NO_ADDRESS = "InvalidAllocationID.NotFound"


def allocate_address(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See AllocateAddress. It has no client token: asked twice, it gives two."""
    held = [a for a in account.things.values() if isinstance(a, Address) and a.released_at is None]
    if len(held) >= account.most_addresses:
        raise Ec2Error("AddressLimitExceeded", "The maximum number of addresses has been reached.")
    number = sum(isinstance(a, Address) for a in account.things.values())
    ip = f"{('192.0.2', '198.51.100')[number // 254 % 2]}.{number % 254 + 1}"
    made = Address(account.new_id("eipalloc"), account.now, tags_of(p, "elastic-ip"), ip=ip)
    account.things[made.id] = made
    group = {"NetworkBorderGroup": account.catalog.region, "PublicIpv4Pool": "amazon"}
    return {"PublicIp": ip, "AllocationId": made.id, "Domain": "vpc", **group}


def describe_addresses(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See DescribeAddresses, which has no pages."""
    ids, ips = p.get("AllocationIds") or [], p.get("PublicIps") or []
    for wanted in ids:
        _find(account, wanted)
    there = [a for a in account.seen("eipalloc") if isinstance(a, Address)]
    missing = sorted(set(ips) - {a.ip for a in there})
    if missing:
        raise Ec2Error("InvalidAddress.NotFound", f"Address '{missing[0]}' not found.")
    values: Mapping[str, Callable[[Address], list[str]]] = {
        "allocation-id": lambda a: [a.id],
        "public-ip": lambda a: [a.ip],
        "domain": lambda a: ["vpc"],
        "instance-id": lambda a: [i.id for i in _holders(account, a)],
        "association-id": lambda a: [a.association for _ in _holders(account, a)],
    }
    found = [a for a in there if (not ids or a.id in ids) and (not ips or a.ip in ips)]
    return {"Addresses": [_told(account, a) for a in matching(found, p.get("Filters") or (), lambda a: a.tags, values)]}


def _told(account: Account, address: Address) -> dict[str, Any]:
    told: dict[str, Any] = {"PublicIp": address.ip, "AllocationId": address.id, "Domain": "vpc"}
    for instance in _holders(account, address):
        [card] = instance.body["NetworkInterfaces"]
        told |= {"InstanceId": instance.id, "AssociationId": address.association}
        told |= {n: card[n] for n in ("NetworkInterfaceId", "PrivateIpAddress")}
    return {**told, "NetworkBorderGroup": account.catalog.region, "Tags": tag_list(address.tags)}


def associate_address(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See AssociateAddress, by an allocation's id: an address that somebody has is taken away from them only where that is allowed."""
    if "AllocationId" not in p:
        raise Ec2Error("MissingParameter", "The request must contain the parameter AllocationId")
    address, instance = _find(account, p["AllocationId"]), _instance(account, p)
    if instance.state(account.now) != "running":
        state = instance.state(account.now)
        words = f"The {state} instance '{instance.id}' is not in a valid state for this operation."
        raise Ec2Error("InvalidInstanceID", words)
    others = [i for i in _holders(account, address) if i is not instance]
    if others and not p.get("AllowReassociation"):
        words = f"resource {address.id} is already associated with associate-id {address.association}"
        raise Ec2Error("Resource.AlreadyAssociated", words)
    if address.instance != instance.id:
        for other in account.things.values():
            if isinstance(other, Address) and other.instance == instance.id:
                other.instance = other.association = ""  # one that an instance had goes with the new one
        address.instance, address.association = instance.id, account.new_id("eipassoc")
    return {"AssociationId": address.association}


def _instance(account: Account, p: Mapping[str, Any]) -> Instance:
    if "InstanceId" in p:
        found = account.find("i", p["InstanceId"], "InvalidInstanceID.NotFound")
    elif "NetworkInterfaceId" in p:
        card = account.find("eni", p["NetworkInterfaceId"], "InvalidNetworkInterfaceID.NotFound")
        found = account.things[card.body["instance"]]
    else:
        words = "Either instance ID or network interface ID must be specified"
        raise Ec2Error("MissingParameter", words)
    assert isinstance(found, Instance)  # noqa: S101 - they begin with i-
    return found


def disassociate_address(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See DisassociateAddress."""
    for address in account.things.values():
        if isinstance(address, Address) and _holders(account, address) and address.association == p["AssociationId"]:
            address.instance = address.association = ""
            return {}
    words = f"The association ID '{p['AssociationId']}' does not exist"
    raise Ec2Error("InvalidAssociationID.NotFound", words)


def release_address(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See ReleaseAddress: refused while an instance has it."""
    address = _find(account, p["AllocationId"])
    if _holders(account, address):
        raise Ec2Error("InvalidIPAddress.InUse", f"Address {address.ip} is in use.")
    address.released_at = account.now
    return {}


def address_of(account: Account, instance: Instance) -> str:
    """The address that an instance was given, empty if none was."""
    there = [a for a in account.things.values() if isinstance(a, Address) and a.released_at is None]
    return next((a.ip for a in there if a.instance == instance.id), "")


def _find(account: Account, wanted: str) -> Address:
    found = account.find("eipalloc", wanted, NO_ADDRESS)
    assert isinstance(found, Address)  # noqa: S101 - they begin with eipalloc-
    return found


def _holders(account: Account, address: Address) -> list[Instance]:
    """The instance that has it, or none: one that is terminated has nothing any more."""
    found = account.things.get(address.instance)
    if not isinstance(found, Instance) or found.state(account.now) == "terminated":
        return []
    return [found]
