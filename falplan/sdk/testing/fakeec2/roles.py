"""Roles of IAM, which are there in all regions: making, finding, tagging and deleting them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

from falplan.sdk.testing.fakeec2.account import Account
from falplan.sdk.testing.fakeec2.asking import slice_of, tag_list
from falplan.sdk.testing.fakeec2.documents import check_trust
from falplan.sdk.testing.fakeec2.principals import Profile, Role
from falplan.sdk.testing.fakeec2.things import Tags
from falplan.sdk.testing.fakeec2.wire import Ec2Error

MOST_TAGS = 50
P = TypeVar("P", Role, Profile)


def create_role(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See CreateRole. Names are unique whatever their case and path."""
    name, path = p["RoleName"], p.get("Path", "/")
    refuse_taken(account.roles, "Role", name)
    check_trust(p["AssumeRolePolicyDocument"])
    made = Role(
        name,
        account.new_key("AROA"),
        f"arn:aws:iam::{account.owner}:role{path}{name}",
        path,
        account.now,
        p["AssumeRolePolicyDocument"],
        p.get("Description", ""),
        int(p.get("MaxSessionDuration", 3600)),
        with_tags({}, p.get("Tags", ())),
    )
    account.roles[name] = made
    return {"Role": {**told(made), "Tags": tag_list(made.tags)}}


def get_role(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See GetRole."""
    role = find_role(account, p["RoleName"])
    return {"Role": {**told(role), "MaxSessionDuration": role.longest, "Tags": tag_list(role.tags)}}


def list_roles(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See ListRoles, which tells no tags."""
    found = [r for r in visible(account, account.roles, "role") if r.path.startswith(p.get("PathPrefix", "/"))]
    return listed("Roles", [told(role) for role in found], p)


def update_assume_role_policy(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See UpdateAssumeRolePolicy."""
    role = find_role(account, p["RoleName"])
    check_trust(p["PolicyDocument"])
    role.trust = p["PolicyDocument"]
    return {}


def delete_role(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See DeleteRole: refused while it has policies, or a profile has it."""
    role = find_role(account, p["RoleName"])
    for held, words in (
        (
            any(profile.role == role.name for profile in account.profiles.values()),
            "must remove roles from instance profile first.",
        ),
        (bool(role.attached), "must detach all policies first."),
        (bool(role.policies), "must delete policies first."),
    ):
        if held:
            raise Ec2Error("DeleteConflict", f"Cannot delete entity, {words}", 409)
    del account.roles[role.name]
    return {}


def tag_role(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See TagRole."""
    role = find_role(account, p["RoleName"])
    role.tags = with_tags(role.tags, p["Tags"])
    return {}


def untag_role(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See UntagRole: a key that it has not is no error."""
    role = find_role(account, p["RoleName"])
    gone = {key.lower() for key in p["TagKeys"]}
    role.tags = {key: value for key, value in role.tags.items() if key.lower() not in gone}
    return {}


def list_role_tags(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See ListRoleTags."""
    return listed("Tags", tag_list(find_role(account, p["RoleName"]).tags), p)


# -- what roles and profiles have in common -----------------------------------------------------------------------------------


def told(role: Role) -> dict[str, Any]:
    """A role as listings show it."""
    return {
        "Path": role.path,
        "RoleName": role.name,
        "RoleId": role.id,
        "Arn": role.arn,
        "CreateDate": role.made_at,
        "AssumeRolePolicyDocument": quote(role.trust, safe=""),
        **({"Description": role.description} if role.description else {}),
    }


def visible(account: Account, principals: Mapping[str, P], prefix: str) -> list[P]:
    """Those that calls see, by name."""
    lag = account.lag(prefix)
    return [one for _, one in sorted(principals.items()) if account.now >= one.made_at + lag]


def find_role(account: Account, name: str) -> Role:
    """A role that calls see.

    Raises:
        Ec2Error: they see none of that name.
    """
    for role in visible(account, account.roles, "role"):
        if role.name == name:
            return role
    raise Ec2Error("NoSuchEntity", f"The role with name {name} cannot be found.", 404)


def refuse_taken(names: Iterable[str], kind: str, name: str) -> None:
    """Refuse a name that something has, in whatever case, whether or not calls see it yet."""
    if name.lower() in {taken.lower() for taken in names}:
        raise Ec2Error("EntityAlreadyExists", f"{kind} with name {name} already exists.", 409)


def with_tags(tags: Tags, more: Iterable[Mapping[str, str]]) -> Tags:
    """Tags with more of them. Keys that differ by their case are the same one.

    Raises:
        Ec2Error: a key is AWS's own or is there twice, or there are too many.
    """
    given = list(more)
    keys = [one["Key"].lower() for one in given]
    if len(set(keys)) < len(keys):
        words = "Duplicate tag keys found. Please note that Tag keys are case insensitive."
        raise Ec2Error("InvalidInput", words)
    if any(key.startswith("aws:") for key in keys):
        raise Ec2Error("InvalidInput", "aws: prefixed tag key names are not allowed for external use.")
    found = {key: value for key, value in tags.items() if key.lower() not in keys}
    found |= {one["Key"]: one["Value"] for one in given}
    if len(found) > MOST_TAGS:
        raise Ec2Error("LimitExceeded", f"The number of tags has reached the maximum limit. Maximum: {MOST_TAGS}", 409)
    return found


def listed(member: str, found: Sequence[object], p: Mapping[str, Any]) -> dict[str, Any]:
    """One page of a listing of IAM."""
    wrong = Ec2Error("ValidationError", "Invalid Marker.")
    shown, marker = slice_of(found, p.get("MaxItems", 100), p.get("Marker"), wrong)
    return {member: list(shown), "IsTruncated": marker is not None, "Marker": marker}
