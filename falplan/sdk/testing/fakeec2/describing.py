"""Instances and their volumes as calls see them: late, and without what a terminated one has lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from falplan.sdk.testing.fakeec2.account import Account
from falplan.sdk.testing.fakeec2.addresses import address_of
from falplan.sdk.testing.fakeec2.asking import matching, page, tag_list
from falplan.sdk.testing.fakeec2.things import Instance, Thing
from falplan.sdk.testing.fakeec2.wire import Ec2Error

CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48}


def described(account: Account, instance: Instance, now: float) -> dict[str, Any]:
    """An instance as DescribeInstances tells of it."""
    state = instance.state(now)
    over = state in ("shutting-down", "terminated")
    hidden = GONE if state == "terminated" else frozenset() if state == "running" else {"PublicIpAddress"}
    body = {k: v for k, v in instance.body.items() if k not in hidden}
    why = {"StateReason": dict(zip(("Code", "Message"), instance.why, strict=True))} if instance.why and over else {}
    address = "" if state == "terminated" else address_of(account, instance)
    named = {t.id: t.body["GroupName"] for t in account.things.values() if t.id.startswith("sg-")}
    return {
        "InstanceId": instance.id,
        "State": {"Code": CODES[state], "Name": state},
        **body,
        **({"PublicIpAddress": address} if address else {}),
        "SecurityGroups": []
        if state == "terminated"
        else [{"GroupId": g, "GroupName": named.get(g, g)} for g in instance.groups],
        "Tags": tag_list(instance.tags),
        **why,
    }


GONE = frozenset(
    {
        "PrivateIpAddress",
        "PublicIpAddress",
        "SubnetId",
        "VpcId",
        "NetworkInterfaces",
        "BlockDeviceMappings",
        "IamInstanceProfile",
    }
)
"""What a terminated instance is not described by any more."""

FILTERS: Mapping[str, Callable[[Instance], list[str]]] = {
    "instance-id": lambda i: [i.id],
    "instance-type": lambda i: [i.kind.name],
    "client-token": lambda i: [i.body.get("ClientToken", "")],
    "availability-zone": lambda i: [i.zone.name],
    "availability-zone-id": lambda i: [i.zone.zone_id],
    "instance-lifecycle": lambda i: ["spot"] if i.spot else [],
    "instance.group-id": lambda i: list(i.groups),
    "vpc-id": lambda i: [i.body.get("VpcId", "")],
}


def describe_instances(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See DescribeInstances. What it tells may be as old as the account's delay of states."""
    ids = p.get("InstanceIds") or []
    if ids and "MaxResults" in p:
        raise Ec2Error(
            "InvalidParameterCombination", "The parameter instancesSet cannot be used with the parameter maxResults"
        )
    found = [i for i in account.seen("i") if isinstance(i, Instance)]
    for wanted in ids:
        account.find("i", wanted, "InvalidInstanceID.NotFound")
    then = account.now - account.delays.state
    filters = {**FILTERS, "instance-state-name": lambda i: [i.state(max(then, i.made_at))]}
    kept = matching([i for i in found if not ids or i.id in ids], p.get("Filters") or (), lambda i: i.tags, filters)
    shown, token = page(kept, p)
    told = [
        {
            "ReservationId": f"r-{i.id[2:]}",
            "OwnerId": account.owner,
            "Instances": [described(account, i, max(then, i.made_at))],
        }
        for i in shown
    ]
    return {"Reservations": told, "NextToken": token}


def describe_volumes(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See DescribeVolumes: those of instances that are terminated are gone with them, unless they were to stay."""
    found = [v for v in account.seen("vol") if not _went(account, v)]
    values: dict[str, Callable[[Thing], list[str]]] = {
        "volume-id": lambda v: [v.id],
        "attachment.instance-id": lambda v: [a["InstanceId"] for a in v.body["Attachments"]],
        "status": lambda v: ["in-use"],
    }
    wanted = p.get("VolumeIds") or []
    for volume in wanted:
        account.find("vol", volume, "InvalidVolume.NotFound")
    kept = matching(
        [v for v in found if not wanted or v.id in wanted], p.get("Filters") or (), lambda v: v.tags, values
    )
    shown, token = page(kept, p)
    return {
        "Volumes": [{"VolumeId": v.id, "State": "in-use", **v.body, "Tags": tag_list(v.tags)} for v in shown],
        "NextToken": token,
    }


def _went(account: Account, volume: Thing) -> bool:
    attachment = volume.body["Attachments"][0]
    instance = account.things[attachment["InstanceId"]]
    return (
        isinstance(instance, Instance)
        and instance.state(account.now) == "terminated"
        and bool(attachment["DeleteOnTermination"])
    )
