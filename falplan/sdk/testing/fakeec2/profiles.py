"""Instance profiles of IAM, each with at most one role; and which of them EC2 knows of by now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from falplan.sdk.testing.fakeec2.account import Account
from falplan.sdk.testing.fakeec2.asking import tag_list
from falplan.sdk.testing.fakeec2.principals import Profile
from falplan.sdk.testing.fakeec2.roles import find_role, listed, refuse_taken, visible, with_tags
from falplan.sdk.testing.fakeec2.roles import told as told_role
from falplan.sdk.testing.fakeec2.wire import Ec2Error


def create_instance_profile(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See CreateInstanceProfile."""
    name, path = p["InstanceProfileName"], p.get("Path", "/")
    refuse_taken(account.profiles, "Instance Profile", name)
    arn = f"arn:aws:iam::{account.owner}:instance-profile{path}{name}"
    tags = with_tags({}, p.get("Tags", ()))
    made = Profile(name, account.new_key("AIPA"), arn, path, account.now, tags)
    account.profiles[name] = made
    return {"InstanceProfile": {**_told(account, made), "Tags": tag_list(tags)}}


def get_instance_profile(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See GetInstanceProfile."""
    profile = _find(account, p)
    return {"InstanceProfile": {**_told(account, profile), "Tags": tag_list(profile.tags)}}


def list_instance_profiles(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See ListInstanceProfiles, which tells no tags."""
    found = [o for o in visible(account, account.profiles, "profile") if o.path.startswith(p.get("PathPrefix", "/"))]
    return listed("InstanceProfiles", [_told(account, one) for one in found], p)


def add_role_to_instance_profile(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See AddRoleToInstanceProfile: refused where there is one, even the same."""
    profile, role = _find(account, p), find_role(account, p["RoleName"])
    if profile.role:
        raise Ec2Error("LimitExceeded", "Cannot exceed quota for InstanceSessionsPerInstanceProfile: 1", 409)
    profile.role, profile.changed_at = role.name, account.now
    return {}


def remove_role_from_instance_profile(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See RemoveRoleFromInstanceProfile."""
    profile, name = _find(account, p), p["RoleName"]
    if profile.role != name:
        raise Ec2Error("NoSuchEntity", f"The role with name {name} cannot be found.", 404)
    profile.role = ""
    return {}


def delete_instance_profile(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See DeleteInstanceProfile: refused while it has a role."""
    profile = _find(account, p)
    if profile.role:
        raise Ec2Error("DeleteConflict", "Cannot delete entity, must remove roles from instance profile first.", 409)
    del account.profiles[profile.name]
    return {}


def tag_instance_profile(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See TagInstanceProfile."""
    profile = _find(account, p)
    profile.tags = with_tags(profile.tags, p["Tags"])
    return {}


def list_instance_profile_tags(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See ListInstanceProfileTags."""
    return listed("Tags", tag_list(_find(account, p).tags), p)


def _find(account: Account, p: Mapping[str, Any]) -> Profile:
    name = p["InstanceProfileName"]
    for one in visible(account, account.profiles, "profile"):
        if one.name == name:
            return one
    raise Ec2Error("NoSuchEntity", f"Instance Profile {name} cannot be found.", 404)


def _told(account: Account, profile: Profile) -> dict[str, Any]:
    return {
        "Path": profile.path,
        "InstanceProfileName": profile.name,
        "InstanceProfileId": profile.id,
        "Arn": profile.arn,
        "CreateDate": profile.made_at,
        "Roles": [told_role(account.roles[profile.role])] if profile.role else [],
    }


# -- launching ------------------------------------------------------------------------------------------------------------


def launchable(account: Account, asked: Mapping[str, Any]) -> Profile:
    """The profile that a launch names.

    Raises:
        Ec2Error: EC2 knows of none such, or of no role in it: IAM's changes take a while to reach it; or the caller may not pass roles.
    """
    if "Arn" in asked and "Name" in asked:
        words = "The parameter 'iamInstanceProfile.name' may not be used in combination with 'iamInstanceProfile.arn'"
        raise Ec2Error("InvalidParameterCombination", words)
    by, called = ("arn", "ARN") if "Arn" in asked else ("name", "name")
    value = asked[by.capitalize()]
    invalid = f"Value ({value}) for parameter iamInstanceProfile.{by} is invalid."
    settled = account.now - account.delays.profiles
    found = [o for o in account.profiles.values() if value == (o.arn if by == "arn" else o.name)]
    if not found or found[0].made_at > settled:
        raise Ec2Error("InvalidParameterValue", f"{invalid} Invalid IAM Instance Profile {called}")
    if not found[0].role or found[0].changed_at > settled:
        words = f'{invalid} IAM Instance Profile "{found[0].arn}" has no associated IAM Roles'
        raise Ec2Error("InvalidParameterValue", words)
    if account.credentials[account.caller].denies("PassRole"):
        raise Ec2Error("UnauthorizedOperation", "You are not authorized to perform: iam:PassRole", 403)
    return found[0]
