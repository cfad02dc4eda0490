"""AWS's protocol of JSON, read and written by botocore's own models. Knows nothing of what is asked."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from falplan.sdk.testing.fakeec2.wire import Ec2Error, asked, model


def read(action: str, body: bytes, service: str) -> dict[str, Any]:
    """The parameters of a request, as boto3's user wrote them.

    Raises:
        Ec2Error: there is no such action, it has no such parameter, or a value is of another type.
    """
    try:
        told = json.loads(body or b"{}")
    except ValueError as exc:
        raise Ec2Error("SerializationException", "The request is no JSON") from exc
    shape = asked(action, service)
    found: dict[str, Any] = _value(shape, told, "") if shape is not None else {}
    return found


def _value(shape: Any, told: Any, path: str) -> Any:
    if not _fits(shape.type_name, told):
        words = f"{type(told).__name__} can not be converted to {shape.type_name} at '{path}'"
        raise Ec2Error("SerializationException", words)
    match shape.type_name:
        case "structure":
            unknown = sorted(told.keys() - shape.members.keys())
            if unknown:
                raise Ec2Error("SerializationException", f"Unexpected field {path}.{unknown[0]}")
            return {n: _value(shape.members[n], v, f"{path}.{n}") for n, v in told.items() if v is not None}
        case "list":
            return [_value(shape.member, one, f"{path}.{number}") for number, one in enumerate(told)]
        case _:
            return told


def _fits(kind: str, told: Any) -> bool:
    return isinstance(told, KINDS[kind]) and (kind == "boolean" or not isinstance(told, bool))


KINDS: Mapping[str, tuple[type, ...]] = {
    "structure": (dict,),
    "list": (list,),
    "string": (str,),
    "integer": (int,),
    "long": (int,),
    "double": (int, float),
    "float": (int, float),
    "boolean": (bool,),
}


def write(action: str, result: Mapping[str, Any], service: str) -> bytes:
    """An answer.

    Raises:
        KeyError: the model knows no such member.
    """
    shape = model(service).operation_model(action).output_shape
    return json.dumps(_told(shape, result)).encode()


def _told(shape: Any, value: Any) -> Any:
    match shape.type_name:
        case "structure":
            return {n: _told(shape.members[n], v) for n, v in value.items() if v is not None}
        case "list":
            return [_told(shape.member, one) for one in value]
        case "map":
            return {key: _told(shape.value, one) for key, one in value.items()}
        case "blob":
            return base64.b64encode(value).decode()
        case _:
            return value


def write_error(error: Ec2Error) -> bytes:
    """The answer of a call that failed."""
    return json.dumps({"__type": error.code, "message": error.message}).encode()
