"""SSM: the public parameters that say which image is the newest of its kind."""

from __future__ import annotations

from typing import Any

from falplan.sdk.testing.fakeec2.account import START, Account
from falplan.sdk.testing.fakeec2.wire import Ec2Error


def get_parameter(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See GetParameter."""
    name = p["Name"]
    if name not in account.parameters:
        raise Ec2Error("ParameterNotFound", f"Parameter {name} not found.")
    return {"Parameter": _told(account, name)}


def get_parameters(account: Account, p: dict[str, Any]) -> dict[str, Any]:
    """See GetParameters: those that are not there are named beside the others, which is no error."""
    names = p["Names"]
    if len(set(names)) < len(names):
        raise Ec2Error("ValidationException", "Duplicate parameter names are not allowed.")
    return {
        "Parameters": [_told(account, name) for name in sorted(names) if name in account.parameters],
        "InvalidParameters": sorted(name for name in names if name not in account.parameters),
    }


def _told(account: Account, name: str) -> dict[str, Any]:
    return {
        "Name": name,
        "Type": "String",
        "Value": account.parameters[name],
        "Version": 1,
        "LastModifiedDate": START,
        "ARN": f"arn:aws:ssm:{account.catalog.region}::parameter{name}",
        "DataType": "text",
    }
