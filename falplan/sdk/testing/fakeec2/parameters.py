"""SSM's public parameters, by which AWS tells the newest image of a kind. Its API is JSON, and a service of its own."""

from __future__ import annotations

import json
from typing import Any

from falplan.sdk.testing.fakeec2.account import Account
from falplan.sdk.testing.fakeec2.wire import Ec2Error

TARGET = "AmazonSSM."
"""What the name of a call begins with in the header `X-Amz-Target`."""


def get_parameter(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See GetParameter of SSM."""
    name = str(p.get("Name", ""))
    if name not in account.parameters:
        raise Ec2Error("ParameterNotFound", f"Parameter {name} not found.")
    value = account.parameters[name]
    return {"Parameter": {"Name": name, "Type": "String", "Value": value, "Version": 1, "DataType": "aws:ec2:image"}}


def write_json(result: dict[str, Any]) -> bytes:
    """The answer of a call that went well."""
    return json.dumps(result).encode()


def write_json_error(error: Ec2Error, request_id: str) -> bytes:
    """The answer of one that did not."""
    return json.dumps({"__type": error.code, "message": error.message}).encode()
