"""The security group of a region's machines: nobody gets to any port of theirs but SSH's, and there only those who are named."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from falplan.core.values import Json, JsonObject, digest
from falplan.sdk.resources import Failed, Found, Mark

from .account import Account, Refused
from .tags import ADDRESS, OPERATION, OWNER, REGION, filters, specifications, tag_list, tags_of

DESCRIPTION = "Machines of falplan: SSH from the control plane, and nothing else"
EVERYWHERE = ("-1 to 0.0.0.0/0", "-1 to ::/0")
"""Machines fetch packages, images and models from wherever they are."""
GONE = frozenset({"InvalidGroup.NotFound", "InvalidGroupId.Malformed"})
_TARGETS = {
    "IpRanges": "CidrIp",
    "Ipv6Ranges": "CidrIpv6",
    "PrefixListIds": "PrefixListId",
    "UserIdGroupPairs": "GroupId",
}


@dataclass(frozen=True, slots=True)
class Group:
    """What is wanted of it. `vpc` is a network's id, empty for the account's default one."""

    vpc: str
    ssh_from: tuple[str, ...]
    tags: Mapping[str, str]

    @classmethod
    def read(cls, inputs: Mapping[str, Json]) -> Group:
        """The inverse of `inputs`."""
        networks = [str(rule).rpartition(" ")[2] for rule in cast("list[Json]", inputs["ingress"])]
        tags = cast("JsonObject", inputs["tags"])
        return cls(str(inputs["vpc"]), tuple(networks), {k: str(v) for k, v in tags.items()})

    @property
    def inputs(self) -> JsonObject:
        """As a plan shows it."""
        return {
            "vpc": self.vpc,
            "ingress": list[Json](sorted(f"tcp 22 from {network}" for network in self.ssh_from)),
            "egress": list[Json](sorted(EVERYWHERE)),
            "tags": dict(self.tags),
        }


def rules(permissions: Iterable[Mapping[str, Any]], word: str) -> list[str]:
    """Rules as text, sorted: `tcp 22 from 203.0.113.7/32`, `-1 to 0.0.0.0/0`. `word` stands before the other side."""
    found = []
    for one in permissions:
        protocol = str(one["IpProtocol"])
        first, last = one.get("FromPort"), one.get("ToPort")
        ports = "" if protocol == "-1" or first is None else f" {first}" if first == last else f" {first}-{last}"
        for kind, name in _TARGETS.items():
            found += [f"{protocol}{ports} {word} {target[name]}" for target in one.get(kind, ())]
    return sorted(found)


def permission(rule: str) -> dict[str, Any]:
    """The inverse of `rules`, of one."""
    *what, _, target = rule.split(" ")
    protocol, ports = what[0], what[1] if len(what) > 1 else ""
    first, _, last = ports.partition("-")
    span = {"FromPort": int(first), "ToPort": int(last or first)} if ports else {}
    kind = (
        "UserIdGroupPairs"
        if target.startswith("sg-")
        else "PrefixListIds"
        if target.startswith("pl-")
        else "Ipv6Ranges"
        if ":" in target
        else "IpRanges"
    )
    return {"IpProtocol": protocol, **span, kind: [{_TARGETS[kind]: target}]}


def look(account: Account, owner: str, region: str, known: Sequence[str]) -> list[dict[str, Any]]:
    """Groups with the mark, and those that are known by their ids, as EC2 describes them."""
    wanted = filters({f"tag:{OWNER}": owner, f"tag:{REGION}": region})
    found = {g["GroupId"]: g for g in account.pages("describe_security_groups", "SecurityGroups", Filters=wanted)}
    missing = [identity for identity in known if identity not in found]
    if missing:
        more = account.pages("describe_security_groups", "SecurityGroups", Filters=filters({"group-id": missing}))
        found |= {g["GroupId"]: g for g in more}
    return [found[identity] for identity in sorted(found)]


def found_of(told: Mapping[str, Any], default_vpc: str) -> Found:
    """A group as a plan compares it."""
    tags = tags_of(told.get("Tags"))
    inputs: JsonObject = {
        "vpc": "" if told["VpcId"] == default_vpc else str(told["VpcId"]),
        "ingress": list[Json](rules(told.get("IpPermissions", ()), "from")),
        "egress": list[Json](rules(told.get("IpPermissionsEgress", ()), "to")),
        "tags": own_tags(tags),
    }
    identity = str(told["GroupId"])
    outputs: JsonObject = {"group": identity, "network": str(told["VpcId"])}
    return Found(tags.get(ADDRESS, ""), identity, inputs, outputs, digest(inputs), tags.get(OPERATION, ""))


def own_tags(tags: Mapping[str, str]) -> JsonObject:
    """Those that the spec says, without falplan's and the name."""
    return {k: v for k, v in tags.items() if not k.startswith("falplan:") and k != "Name"}


def default_vpc(account: Account) -> str:
    """The account's default network; empty if it has none."""
    vpcs = list(account.pages("describe_vpcs", "Vpcs", Filters=filters({"is-default": "true"})))
    return str(vpcs[0]["VpcId"]) if vpcs else ""


def marks(mark: Mark, region: str, tags: Mapping[str, str]) -> dict[str, str]:
    """All tags of a resource."""
    own = {OWNER: mark.owner, ADDRESS: mark.address, OPERATION: mark.operation, REGION: region}
    return {**tags, **own, "Name": f"falplan {region}"}


def name_of(mark: Mark, besides: str) -> str:
    """What a group, or a launch template, is called: the same whenever it is asked for, and another one beside one that it replaces."""
    beside = f"-{hashlib.sha256(besides.encode()).hexdigest()[:8]}" if besides else ""
    return f"falplan-{mark.owner[:8]}-{mark.address.partition('.')[2]}{beside}"


def create(account: Account, wanted: Group, mark: Mark, region: str, *, besides: str) -> str:
    """Make a group without a rule but that of its egress; or find the one of this name, which is ours."""
    vpc = wanted.vpc or default_vpc(account)
    if not vpc:
        raise Failed("There is no network for machines", f"{account.access.region} has no default one: say `vpc:`.")
    name = name_of(mark, besides)
    try:
        made = account.ec2(
            "create_security_group",
            GroupName=name,
            Description=DESCRIPTION,
            VpcId=vpc,
            TagSpecifications=specifications(marks(mark, region, wanted.tags), ("security-group",)),
        )
        return str(made["GroupId"])
    except Refused as exc:
        if exc.code != "InvalidGroup.Duplicate":
            raise
    same = filters({"group-name": name, "vpc-id": vpc})
    for told in account.pages("describe_security_groups", "SecurityGroups", Filters=same):
        if tags_of(told.get("Tags")).get(OWNER) == mark.owner:
            return str(told["GroupId"])
    raise Failed("A security group of this name is somebody else's", f"{name} in {vpc}: rename or remove it.")


def bring(account: Account, identity: str, wanted: Group, mark: Mark, region: str) -> None:
    """Bring a group's tags and rules to what is wanted. What is there already is left as it is."""
    [told] = account.pages("describe_security_groups", "SecurityGroups", GroupIds=[identity])
    tags, asked = tags_of(told.get("Tags")), marks(mark, region, wanted.tags)
    if any(tags.get(name) != value for name, value in asked.items()):
        account.ec2("create_tags", Resources=[identity], Tags=tag_list(asked))
    surplus = [{"Key": name} for name in sorted(tags) if name not in asked and not name.startswith("aws:")]
    if surplus:
        account.ec2("delete_tags", Resources=[identity], Tags=surplus)
    for direction, word, key in (("ingress", "from", "IpPermissions"), ("egress", "to", "IpPermissionsEgress")):
        there = rules(told.get(key, ()), word)
        rules_wanted = [str(rule) for rule in cast("list[Json]", wanted.inputs[direction])]
        _change(account, f"revoke_security_group_{direction}", identity, set(there) - set(rules_wanted))
        _change(account, f"authorize_security_group_{direction}", identity, set(rules_wanted) - set(there))


def _change(account: Account, action: str, identity: str, changed: Iterable[str]) -> None:
    for rule in sorted(changed):
        try:
            account.ec2(action, GroupId=identity, IpPermissions=[permission(rule)])
        except Refused as exc:
            if exc.code not in ("InvalidPermission.Duplicate", "InvalidPermission.NotFound"):
                raise  # otherwise somebody, or an earlier attempt, was faster
