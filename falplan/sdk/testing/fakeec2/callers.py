"""STS: who calls, and calling as a role."""

from __future__ import annotations

from typing import Any

from falplan.sdk.testing.fakeec2.account import Account
from falplan.sdk.testing.fakeec2.faults import Credential
from falplan.sdk.testing.fakeec2.principals import Role
from falplan.sdk.testing.fakeec2.roles import visible
from falplan.sdk.testing.fakeec2.wire import Ec2Error

CHAINED = 3600
"""Seconds that a role's session may last which another session of a role asks for."""


def get_caller_identity(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See GetCallerIdentity."""
    caller = account.credentials[account.caller]
    return {"UserId": caller.user, "Account": caller.account, "Arn": caller.principal}


def assume_role(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See AssumeRole: a new key with a token, until its time is over. Whom the role trusts is not looked at, beside the external id.

    A client that renews credentials by itself looks at this machine's clock: its account needs that time as its `now`.
    """
    caller = account.credentials[account.caller]
    role = _assumable(account, caller, p)
    seconds = int(p.get("DurationSeconds", 3600))
    if seconds > role.longest:
        words = "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."
        raise Ec2Error("ValidationError", words)
    if caller.token and seconds > CHAINED:
        words = "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining."
        raise Ec2Error("ValidationError", words)
    key, session = account.new_key("ASIA"), f"{role.name}/{p['RoleSessionName']}"
    made = Credential(
        until=account.now + seconds,
        denied=role.denied,
        account=account.owner,
        token=f"token of {key}",
        user=f"{role.id}:{p['RoleSessionName']}",
        arn=f"arn:aws:sts::{account.owner}:assumed-role/{session}",
    )
    account.credentials[key] = made
    told = {"AccessKeyId": key, "SecretAccessKey": "nobody looks at it", "SessionToken": made.token}
    return {
        "Credentials": {**told, "Expiration": made.until},
        "AssumedRoleUser": {"AssumedRoleId": made.user, "Arn": made.arn},
    }


def _assumable(account: Account, caller: Credential, p: dict[str, Any]) -> Role:
    """Whether there is no such role or it may not be assumed, AWS does not tell."""
    found = [r for r in visible(account, account.roles, "role") if r.arn == p["RoleArn"]]
    if not found or (account.external_id and p.get("ExternalId") != account.external_id):
        words = f"User: {caller.principal} is not authorized to perform: sts:AssumeRole on resource: {p['RoleArn']}"
        raise Ec2Error("AccessDenied", words, 403)
    return found[0]
