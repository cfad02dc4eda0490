"""Instances as they are seen, and how they end. Only what carries the owner's tag is shown or touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from falplan.core.errors import FalplanError
from falplan.sdk.launches import Bought, Pool, Stage

from .account import Account
from .answers import STILLBORN
from .pools import ON_DEMAND, SPOT
from .tags import CONTROL_PLANE, OPERATION, OWNER, POOL, filters, tags_of

STAGES = {
    "pending": Stage.STARTING,
    "running": Stage.UP,
    "stopping": Stage.ENDING,
    "shutting-down": Stage.ENDING,
    "stopped": Stage.ENDING,  # it costs its volume, and is never started again
    "terminated": Stage.GONE,
}
AT_ONCE = 100
"""Instances that one call ends."""


def bought(told: Mapping[str, Any]) -> Bought:
    """An instance as DescribeInstances, or RunInstances, tells of it."""
    tags = tags_of(told.get("Tags"))
    stage = STAGES.get(told["State"]["Name"], Stage.ENDING)
    reason = told.get("StateReason") or {}
    over = stage in (Stage.ENDING, Stage.GONE)
    return Bought(
        str(told["InstanceId"]),
        tags.get(OPERATION, ""),
        tags.get(CONTROL_PLANE, ""),
        _pool(told, tags),
        stage,
        told["LaunchTime"].timestamp(),
        address=str(told.get("PrivateIpAddress") or ""),
        public=str(told.get("PublicIpAddress") or ""),
        because=str(reason.get("Message") or reason.get("Code") or "") if over else "",
        out_of_capacity=over and reason.get("Code") in STILLBORN,
    )


def _pool(told: Mapping[str, Any], tags: Mapping[str, str]) -> Pool:
    """As it was asked for; what somebody has taken the tag from is told by what it is."""
    words = tags.get(POOL, "").split()
    if len(words) == 3:
        return Pool(words[1], words[0], words[2])
    market = SPOT if told.get("InstanceLifecycle") == "spot" else ON_DEMAND
    return Pool(str(told.get("InstanceType", "")), str(told.get("Placement", {}).get("AvailabilityZone", "")), market)


def owned(account: Account, owner: str, more: Mapping[str, str | Sequence[str]] = {}) -> list[dict[str, Any]]:
    """Instances with the owner's tag, in pages of a thousand, ended ones included for the hour or so that EC2 shows them.

    `more` are further filters, by EC2's names of them.
    """
    wanted = filters({f"tag:{OWNER}": owner, **more})
    told = account.pages("describe_instances", "Reservations", Filters=wanted, PaginationConfig={"PageSize": 1000})
    return [instance for reservation in told for instance in reservation["Instances"]]


def end(account: Account, owner: str, identities: Iterable[str]) -> None:
    """Begin to end those of the owner's that are not ending yet.

    Raises:
        FalplanError: AWS refused one of them. The others have begun to end.
    """
    names = sorted(set(identities))
    for begin in range(0, len(names), AT_ONCE):
        some = names[begin : begin + AT_ONCE]
        seen = owned(account, owner, {"instance-id": some})
        alive = [i["InstanceId"] for i in seen if i["State"]["Name"] not in ("shutting-down", "terminated")]
        if alive:
            _terminate(account, sorted(alive))


def _terminate(account: Account, names: Sequence[str]) -> None:
    """All of them; one by one if EC2 refuses them together, which it does for the sake of one of them."""
    try:
        account.ec2("terminate_instances", InstanceIds=list(names))
        return
    except FalplanError:
        if len(names) == 1:
            raise
    refused = []
    for name in names:
        try:
            account.ec2("terminate_instances", InstanceIds=[name])
        except FalplanError as exc:
            refused.append(exc)
    if refused:
        raise refused[0]
