"""What roles may do: policies of their own, and AWS's that are attached to them. They are kept, and decide nothing."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from falplan.sdk.testing.fakeec2.account import Account
from falplan.sdk.testing.fakeec2.documents import check_policy
from falplan.sdk.testing.fakeec2.roles import find_role, listed
from falplan.sdk.testing.fakeec2.wire import Ec2Error

MOST_TEXT = 10_240
"""Characters of a role's own policies together, white space not counted."""
MOST_ATTACHED = 10


def put_role_policy(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See PutRolePolicy: one of that name is replaced."""
    role, text = find_role(account, p["RoleName"]), p["PolicyDocument"]
    check_policy(text)
    policies = {**role.policies, p["PolicyName"]: text}
    if sum(len("".join(one.split())) for one in policies.values()) > MOST_TEXT:
        words = f"Maximum policy size of {MOST_TEXT} bytes exceeded for role {role.name}"
        raise Ec2Error("LimitExceeded", words, 409)
    role.policies = policies
    return {}


def get_role_policy(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See GetRolePolicy."""
    role, name = find_role(account, p["RoleName"]), p["PolicyName"]
    if name not in role.policies:
        raise _no_policy(name)
    return {"RoleName": role.name, "PolicyName": name, "PolicyDocument": quote(role.policies[name], safe="")}


def list_role_policies(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See ListRolePolicies."""
    return listed("PolicyNames", sorted(find_role(account, p["RoleName"]).policies), p)


def delete_role_policy(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See DeleteRolePolicy."""
    role, name = find_role(account, p["RoleName"]), p["PolicyName"]
    if name not in role.policies:
        raise _no_policy(name)
    del role.policies[name]
    return {}


def _no_policy(name: str) -> Ec2Error:
    return Ec2Error("NoSuchEntity", f"The role policy with name {name} cannot be found.", 404)


def attach_role_policy(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See AttachRolePolicy: one that is attached already stays."""
    role, arn = find_role(account, p["RoleName"]), p["PolicyArn"]
    if arn not in account.managed:
        raise Ec2Error("NoSuchEntity", f"Policy {arn} does not exist or is not attachable.", 404)
    if arn not in role.attached:
        if len(role.attached) >= MOST_ATTACHED:
            raise Ec2Error("LimitExceeded", f"Cannot exceed quota for PoliciesPerRole: {MOST_ATTACHED}", 409)
        role.attached.append(arn)
    return {}


def detach_role_policy(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See DetachRolePolicy."""
    role, arn = find_role(account, p["RoleName"]), p["PolicyArn"]
    if arn not in role.attached:
        raise Ec2Error("NoSuchEntity", f"Policy {arn} was not found.", 404)
    role.attached.remove(arn)
    return {}


def list_attached_role_policies(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See ListAttachedRolePolicies."""
    arns = sorted(find_role(account, p["RoleName"]).attached)
    return listed("AttachedPolicies", [{"PolicyName": a.rpartition("/")[2], "PolicyArn": a} for a in arns], p)
