"""The protocols of EC2, and of STS and IAM, read and written by botocore's own models. Knows nothing of what is asked.

A request with a parameter that the model does not know, and an answer with a member that it does not know, are errors: what a test sees
has the shape that AWS documents.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from xml.sax.saxutils import escape


class Ec2Error(Exception):
    """What AWS answers in place of a result: a code, words, and the HTTP status they come with."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.status = code, message, status


@functools.cache
def model(service: str = "ec2") -> Any:
    """botocore's model of a service."""
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    return ServiceModel(Loader().load_service_model(service, "service-2"), service)


@dataclass(frozen=True, slots=True)
class _Dialect:
    """What tells the two protocols apart: what a member is called in a request, where the elements of a list are there, and what each is
    called in an answer."""

    asked: Callable[[str, Any], str]
    elements: Callable[[Any, Any], Mapping[str, Any]]
    element: str


def _dialect(service: str) -> _Dialect:
    return DIALECTS[str(model(service).metadata["protocol"])]


def read(action: str, form: Mapping[str, str], service: str = "ec2") -> dict[str, Any]:
    """The parameters of a request, as boto3's user wrote them.

    Raises:
        Ec2Error: there is no such action, or it has no such parameter.
    """
    shape = asked(action, service)
    tree: dict[str, Any] = {}
    for key, value in form.items():
        if key not in ("Action", "Version"):
            _plant(tree, key.split("."), value)
    found: dict[str, Any] = _value(_dialect(service), shape, tree, "") if shape is not None else {}
    return found


def asked(action: str, service: str) -> Any:
    """The shape of a request's parameters, None if it has none.

    Raises:
        Ec2Error: there is no such action.
    """
    from botocore.model import OperationNotFoundError

    try:
        return model(service).operation_model(action).input_shape
    except OperationNotFoundError as exc:
        raise Ec2Error("InvalidAction", f"The action {action} is not valid for this web service.") from exc


def _plant(tree: dict[str, Any], path: list[str], value: str) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value


def _value(dialect: _Dialect, shape: Any, tree: Any, path: str) -> Any:
    match shape.type_name:
        case "structure":
            return _structure(dialect, shape, tree, path)
        case "list":
            found = dialect.elements(shape, tree)
            return [_value(dialect, shape.member, found[n], f"{path}.{n}") for n in sorted(found, key=int)]
        case "integer" | "long":
            return int(tree)
        case "float" | "double":
            return float(tree)
        case "boolean":
            return tree == "true"
        case "blob":
            return base64.b64decode(tree)
        case "timestamp":
            return datetime.fromisoformat(tree).timestamp()
        case _:
            return tree


def _structure(dialect: _Dialect, shape: Any, tree: Mapping[str, Any], path: str) -> dict[str, Any]:
    names = {dialect.asked(name, member): (name, member) for name, member in shape.members.items()}
    for key in tree:
        if key not in names:
            raise Ec2Error("UnknownParameter", f"The parameter {f'{path}.{key}'.lstrip('.')} is not recognized")
    return {names[k][0]: _value(dialect, names[k][1], value, f"{path}.{k}".lstrip(".")) for k, value in tree.items()}


def _of_ec2(name: str, member: Any) -> str:
    """What a member is called in requests: https://smithy.io/2.0/aws/protocols/aws-ec2-query-protocol.html"""
    if "queryName" in member.serialization:
        return str(member.serialization["queryName"])
    told = str(member.serialization.get("name", name))
    return told[0].upper() + told[1:]


def _of_query(name: str, member: Any) -> str:
    """The same: https://smithy.io/2.0/aws/protocols/aws-query-protocol.html"""
    return str(member.serialization.get("name", name))


def _members_of_list(shape: Any, tree: Any) -> Mapping[str, Any]:
    """An empty list is an empty value; the elements of another are one step further down."""
    found: Mapping[str, Any] = tree.get(shape.member.serialization.get("name", "member"), {}) if tree else {}
    return found


DIALECTS: Mapping[str, _Dialect] = {
    "ec2": _Dialect(_of_ec2, lambda shape, tree: dict(tree), "item"),
    "query": _Dialect(_of_query, _members_of_list, "member"),
}


def write(action: str, result: Mapping[str, Any], request_id: str, service: str = "ec2") -> bytes:
    """An answer.

    Raises:
        KeyError: the model knows no such member.
    """
    shape = model(service).operation_model(action).output_shape
    space = model(service).metadata.get("xmlNamespace", "")
    body = "".join(_members(_dialect(service), shape, result)) if shape is not None else ""
    if service == "ec2":
        inner = f"<requestId>{request_id}</requestId>{body if shape is not None else '<return>true</return>'}"
    else:
        wrapped = f"<{action}Result>{body}</{action}Result>" if shape is not None else ""
        inner = f"{wrapped}<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata>"
    told = f'<{action}Response xmlns="{space}">{inner}</{action}Response>'
    return f'<?xml version="1.0" encoding="UTF-8"?>{told}'.encode()


def _members(dialect: _Dialect, shape: Any, value: Mapping[str, Any]) -> list[str]:
    return [
        _element(dialect, str(shape.members[n].serialization.get("name", n)), shape.members[n], v)
        for n, v in value.items()
        if v is not None
    ]


def _element(dialect: _Dialect, tag: str, shape: Any, value: Any) -> str:
    return f"<{tag}>{_content(dialect, shape, value)}</{tag}>"


def _content(dialect: _Dialect, shape: Any, value: Any) -> str:
    match shape.type_name:
        case "structure":
            return "".join(_members(dialect, shape, value))
        case "list":
            tag = str(shape.member.serialization.get("name", dialect.element))
            return "".join(_element(dialect, tag, shape.member, one) for one in value)
        case "boolean":
            return "true" if value else "false"
        case "timestamp":
            return datetime.fromtimestamp(float(value), UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        case "blob":
            return base64.b64encode(value).decode()
        case _:
            return escape(str(value))


def write_error(error: Ec2Error, request_id: str, service: str = "ec2") -> bytes:
    """The answer of a call that failed."""
    told = f"<Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message>"
    if service == "ec2":
        told = f"<Response><Errors><Error>{told}</Error></Errors><RequestID>{request_id}</RequestID></Response>"
        return told.encode()
    kind = "Sender" if error.status < 500 else "Receiver"
    told = f"<Error><Type>{kind}</Type>{told}</Error><RequestId>{request_id}</RequestId>"
    return f'<ErrorResponse xmlns="{model(service).metadata.get("xmlNamespace", "")}">{told}</ErrorResponse>'.encode()
