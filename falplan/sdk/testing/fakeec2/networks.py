"""Security groups and their rules, tags of anything, and the network that an account has."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from falplan.sdk.testing.fakeec2.account import Account
from falplan.sdk.testing.fakeec2.asking import matching, page, tag_list, tags_of
from falplan.sdk.testing.fakeec2.things import Instance, Thing
from falplan.sdk.testing.fakeec2.wire import Ec2Error

NO_GROUP = "InvalidGroup.NotFound"
EVERYWHERE = {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
"""What a new group lets out."""
SOURCES = {
    "IpRanges": "CidrIp",
    "Ipv6Ranges": "CidrIpv6",
    "UserIdGroupPairs": "GroupId",
    "PrefixListIds": "PrefixListId",
}


def create_security_group(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See CreateSecurityGroup. Names are unique in a network; it has no client token."""
    vpc = p.get("VpcId", account.catalog.vpc_id)
    if vpc != account.catalog.vpc_id:
        raise Ec2Error("InvalidVpcID.NotFound", f"The vpc ID '{vpc}' does not exist")
    if any(g.body["GroupName"] == p["GroupName"] for g in account.things.values() if g.id.startswith("sg-")):
        words = f"The security group '{p['GroupName']}' already exists for VPC '{vpc}'"
        raise Ec2Error("InvalidGroup.Duplicate", words)
    made = Thing(account.new_id("sg"), account.now, tags_of(p, "security-group"))
    made.body = {"GroupName": p["GroupName"], "Description": p["Description"], "VpcId": vpc, "in": [], "out": []}
    made.body["out"] += list(_rules([EVERYWHERE]))
    account.things[made.id] = made
    return {"GroupId": made.id, "Tags": tag_list(made.tags)}


def describe_security_groups(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See DescribeSecurityGroups."""
    ids = p.get("GroupIds") or []
    for wanted in ids:
        account.find("sg", wanted, NO_GROUP)
    values: Mapping[str, Callable[[Thing], list[str]]] = {
        "group-name": lambda g: [g.body["GroupName"]],
        "group-id": lambda g: [g.id],
        "vpc-id": lambda g: [g.body["VpcId"]],
    }
    found = [g for g in account.seen("sg") if not ids or g.id in ids]
    shown, token = page(matching(found, p.get("Filters") or (), lambda g: g.tags, values), p)
    return {"SecurityGroups": [_told(account, g) for g in shown], "NextToken": token}


def _told(account: Account, group: Thing) -> dict[str, Any]:
    return {
        "GroupId": group.id,
        "OwnerId": account.owner,
        **{n: group.body[n] for n in ("GroupName", "Description", "VpcId")},
        "IpPermissions": _permissions(group.body["in"]),
        "IpPermissionsEgress": _permissions(group.body["out"]),
        "Tags": tag_list(group.tags),
    }


def delete_security_group(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See DeleteSecurityGroup: refused while an interface or another group uses it."""
    group = account.find("sg", p["GroupId"], NO_GROUP)
    if any(_holds(account, i, group.id) for i in account.instances()) or any(
        r.get("GroupId") == group.id
        for g in account.things.values()
        if g.id.startswith("sg-") and g.id != group.id
        for r in [*g.body["in"], *g.body["out"]]
    ):
        raise Ec2Error("DependencyViolation", f"resource {group.id} has a dependent object")
    del account.things[group.id]
    return {}


def _holds(account: Account, instance: Instance, group: str) -> bool:
    until = None if instance.gone_at is None else instance.gone_at + account.delays.interfaces
    return group in instance.groups and (until is None or account.now < until)


# -- rules ----------------------------------------------------------------------------------------------------------------


def authorize(direction: str) -> Callable[[Account, dict[str, Any]], dict[str, Any]]:
    """See AuthorizeSecurityGroupIngress and Egress, for `in` and `out`."""

    def act(account: Account, p: dict[str, Any]) -> dict[str, Any]:
        group = account.find("sg", p["GroupId"], NO_GROUP)
        asked = list(_rules(p.get("IpPermissions") or [_flat(p)]))
        for rule in asked:
            if any(_same(rule, other) for other in group.body[direction]):
                raise Ec2Error("InvalidPermission.Duplicate", "the specified rule already exists")
        group.body[direction] += asked
        return {"Return": True}

    return act


def revoke(direction: str) -> Callable[[Account, dict[str, Any]], dict[str, Any]]:
    """See RevokeSecurityGroupIngress and Egress, for `in` and `out`."""

    def act(account: Account, p: dict[str, Any]) -> dict[str, Any]:
        group = account.find("sg", p["GroupId"], NO_GROUP)
        for rule in _rules(p.get("IpPermissions") or [_flat(p)]):
            kept = [r for r in group.body[direction] if not _same(r, rule)]
            if len(kept) == len(group.body[direction]):
                raise Ec2Error(
                    "InvalidPermission.NotFound", "The specified rule does not exist in this security group."
                )
            group.body[direction] = kept
        return {"Return": True}

    return act


def _flat(p: Mapping[str, Any]) -> dict[str, Any]:
    ports: dict[str, Any] = {n: p[n] for n in ("IpProtocol", "FromPort", "ToPort") if n in p}
    return {**ports, "IpRanges": [{"CidrIp": p["CidrIp"]}]}


def _rules(permissions: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One rule for each source, as EC2 keeps them."""
    for permission in permissions:
        ports: dict[str, Any] = {n: permission[n] for n in ("IpProtocol", "FromPort", "ToPort") if n in permission}
        if "IpProtocol" not in ports:
            raise Ec2Error("MissingParameter", "The request must contain the parameter ipProtocol")
        for member in SOURCES:
            for source in permission.get(member) or ():
                yield {**ports, "member": member, **source}


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Descriptions do not count."""
    first, second = ({k: v for k, v in rule.items() if k != "Description"} for rule in (one, other))
    return first == second


def _permissions(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rules of the same ports together, as descriptions show them."""
    found: dict[str, dict[str, Any]] = {}
    for rule in rules:
        ports: dict[str, Any] = {n: rule[n] for n in ("IpProtocol", "FromPort", "ToPort") if n in rule}
        one = found.setdefault(json.dumps(ports, sort_keys=True), {**ports, **{m: [] for m in SOURCES}})
        one[rule["member"]].append({k: v for k, v in rule.items() if k not in (*ports, "member")})
    return list(found.values())


# -- tags -----------------------------------------------------------------------------------------------------------------


def create_tags(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See CreateTags."""
    found = [_any(account, wanted) for wanted in p["Resources"]]
    for thing in found:
        thing.tags |= {t["Key"]: t.get("Value", "") for t in p["Tags"]}
    return {}


def delete_tags(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See DeleteTags: all of them, those of these keys, or those of these keys and values."""
    for thing in [_any(account, wanted) for wanted in p["Resources"]]:
        for told in p.get("Tags") or [{"Key": key} for key in thing.tags]:
            if "Value" not in told or thing.tags.get(told["Key"]) == told["Value"]:
                thing.tags.pop(told["Key"], None)
    return {}


KINDS = {
    "i": "instance",
    "vol": "volume",
    "eni": "network-interface",
    "sg": "security-group",
    "lt": "launch-template",
    "key": "key-pair",
    "eipalloc": "elastic-ip",
    "cr": "capacity-reservation",
}


def _any(account: Account, wanted: str) -> Thing:
    return account.find(wanted.partition("-")[0], wanted, "InvalidID")


def describe_tags(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See DescribeTags."""
    rows = [
        (thing, key, value)
        for prefix in KINDS
        for thing in account.seen(prefix)
        for key, value in sorted(thing.tags.items())
    ]
    values: Mapping[str, Callable[[tuple[Thing, str, str]], list[str]]] = {
        "resource-id": lambda row: [row[0].id],
        "resource-type": lambda row: [KINDS[row[0].id.partition("-")[0]]],
        "key": lambda row: [row[1]],
        "value": lambda row: [row[2]],
    }
    shown, token = page(matching(rows, p.get("Filters") or (), lambda row: {row[1]: row[2]}, values), p)
    told = [
        {"ResourceId": t.id, "ResourceType": KINDS[t.id.partition("-")[0]], "Key": key, "Value": value}
        for t, key, value in shown
    ]
    return {"Tags": told, "NextToken": token}
