"""Policy documents, as far as IAM looks at them before it keeps them."""

from __future__ import annotations

import json
from typing import Any

from falplan.sdk.testing.fakeec2.wire import Ec2Error

VERSIONS = ("2012-10-17", "2008-10-17")


def check_trust(text: str) -> None:
    """A document that says who may assume a role.

    Raises:
        Ec2Error: it is no such document.
    """
    for statement in _statements(text):
        _demand("Principal" in statement or "NotPrincipal" in statement, "Missing required field Principal")
        _demand("Resource" not in statement, "Has prohibited field Resource")


def check_policy(text: str) -> None:
    """A document that says what a role may do.

    Raises:
        Ec2Error: it is no such document.
    """
    for statement in _statements(text):
        _demand("Principal" not in statement, "Policy document should not specify a principal.")
        _demand("Resource" in statement or "NotResource" in statement, "Policy statement must contain resources.")


def _statements(text: str) -> list[dict[str, Any]]:
    try:
        told = json.loads(text)
    except ValueError as exc:
        raise Ec2Error("MalformedPolicyDocument", "This policy contains invalid Json") from exc
    _demand(isinstance(told, dict) and "Statement" in told, "Syntax errors in policy.")
    _demand(told.get("Version", VERSIONS[1]) in VERSIONS, "The policy must contain a valid version string")
    found = told["Statement"] if isinstance(told["Statement"], list) else [told["Statement"]]
    for one in found:
        _demand(isinstance(one, dict) and one.get("Effect") in ("Allow", "Deny"), "Syntax errors in policy.")
        _demand("Action" in one or "NotAction" in one, "Policy statement must contain actions.")
    return found


def _demand(there: bool, words: str) -> None:
    if not there:
        raise Ec2Error("MalformedPolicyDocument", words)
