"""EC2's query protocol, read and written by botocore's own model of it. Knows nothing of what is asked.

A request with a parameter that the model does not know, and an answer with a member that it does not know, are errors: what a test sees
has the shape that AWS documents.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from xml.sax.saxutils import escape


class Ec2Error(Exception):
    """What EC2 answers in place of a result: a code, words, and the HTTP status they come with."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.status = code, message, status


@functools.cache
def model() -> Any:
    """botocore's model of EC2."""
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    return ServiceModel(Loader().load_service_model("ec2", "service-2"), "ec2")


def read(action: str, form: Mapping[str, str]) -> dict[str, Any]:
    """The parameters of a request, as boto3's user wrote them.

    Raises:
        Ec2Error: there is no such action, or it has no such parameter.
    """
    from botocore.model import OperationNotFoundError

    try:
        shape = model().operation_model(action).input_shape
    except OperationNotFoundError as exc:
        raise Ec2Error("InvalidAction", f"The action {action} is not valid for this web service.") from exc
    tree: dict[str, Any] = {}
    for key, value in form.items():
        if key not in ("Action", "Version"):
            _plant(tree, key.split("."), value)
    found: dict[str, Any] = _value(shape, tree, "") if shape is not None else {}
    return found


def _plant(tree: dict[str, Any], path: list[str], value: str) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value


def _value(shape: Any, tree: Any, path: str) -> Any:
    match shape.type_name:
        case "structure":
            return _structure(shape, tree, path)
        case "list":
            return [_value(shape.member, tree[n], f"{path}.{n}") for n in sorted(tree, key=int)]
        case "integer" | "long":
            return int(tree)
        case "float" | "double":
            return float(tree)
        case "boolean":
            return tree == "true"
        case "blob":
            return base64.b64decode(tree)
        case _:
            return tree


def _structure(shape: Any, tree: Mapping[str, Any], path: str) -> dict[str, Any]:
    names = {_asked(name, member): (name, member) for name, member in shape.members.items()}
    for key in tree:
        if key not in names:
            raise Ec2Error("UnknownParameter", f"The parameter {f'{path}.{key}'.lstrip('.')} is not recognized")
    return {names[k][0]: _value(names[k][1], value, f"{path}.{k}".lstrip(".")) for k, value in tree.items()}


def _asked(name: str, member: Any) -> str:
    """What a member is called in requests: https://smithy.io/2.0/aws/protocols/aws-ec2-query-protocol.html"""
    if "queryName" in member.serialization:
        return str(member.serialization["queryName"])
    told = str(member.serialization.get("name", name))
    return told[0].upper() + told[1:]


def write(action: str, result: Mapping[str, Any], request_id: str) -> bytes:
    """An answer.

    Raises:
        KeyError: the model knows no such member.
    """
    shape = model().operation_model(action).output_shape
    body = "".join(_members(shape, result)) if shape is not None else "<return>true</return>"
    space = model().metadata.get("xmlNamespace", "")
    told = f'<{action}Response xmlns="{space}"><requestId>{request_id}</requestId>{body}</{action}Response>'
    return f'<?xml version="1.0" encoding="UTF-8"?>{told}'.encode()


def _members(shape: Any, value: Mapping[str, Any]) -> list[str]:
    return [
        _element(str(shape.members[n].serialization.get("name", n)), shape.members[n], v)
        for n, v in value.items()
        if v is not None
    ]


def _element(tag: str, shape: Any, value: Any) -> str:
    return f"<{tag}>{_content(shape, value)}</{tag}>"


def _content(shape: Any, value: Any) -> str:
    match shape.type_name:
        case "structure":
            return "".join(_members(shape, value))
        case "list":
            tag = str(shape.member.serialization.get("name", "item"))
            return "".join(_element(tag, shape.member, one) for one in value)
        case "boolean":
            return "true" if value else "false"
        case "timestamp":
            return datetime.fromtimestamp(float(value), UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        case "blob":
            return base64.b64encode(value).decode()
        case _:
            return escape(str(value))


def write_error(error: Ec2Error, request_id: str) -> bytes:
    """The answer of a call that failed."""
    told = f"<Error><Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message></Error>"
    return f"<Response><Errors>{told}</Errors><RequestID>{request_id}</RequestID></Response>".encode()
