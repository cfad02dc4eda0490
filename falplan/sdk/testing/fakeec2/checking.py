"""What AWS demands of every parameter before it looks at what is asked: by the limits that botocore's models hold."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from falplan.sdk.testing.fakeec2.wire import Ec2Error

CLASSES: Mapping[str, str] = {r"\p{L}": r"\w", r"\p{N}": r"\d", r"\p{Z}": r"\s"}
"""Java's classes of characters that AWS's patterns have, and what is nearest to them here."""


def check(shape: Any, parameters: Mapping[str, Any], code: str) -> None:
    """That parameters are there, as long, as large and as written as they have to be.

    Raises:
        Ec2Error: with this code: they are not.
    """
    found = list(_structure(shape, parameters, "")) if shape is not None else []
    if found:
        errors = "validation error" if len(found) == 1 else "validation errors"
        raise Ec2Error(code, f"{len(found)} {errors} detected: {'; '.join(found)}")


def _structure(shape: Any, value: Mapping[str, Any], path: str) -> Iterator[str]:
    for name, member in shape.members.items():
        here = f"{path}.{name[0].lower()}{name[1:]}".lstrip(".")
        if name in value:
            yield from _value(member, value[name], here)
        elif name in shape.required_members:
            yield f"Value null at '{here}' failed to satisfy constraint: Member must not be null"


def _value(shape: Any, value: Any, path: str) -> Iterator[str]:
    for broken in _broken(shape, value):
        yield f"Value '{value}' at '{path}' failed to satisfy constraint: Member must {broken}"
    match shape.type_name:
        case "structure":
            yield from _structure(shape, value, path)
        case "list":
            for number, one in enumerate(value, 1):
                yield from _value(shape.member, one, f"{path}.{number}.member")
        case _:
            return


def _broken(shape: Any, value: Any) -> Iterator[str]:
    limits = shape.metadata
    size = value if isinstance(value, int | float) else len(value)
    what = "have value" if isinstance(value, int | float) else "have length"
    if "min" in limits and size < limits["min"]:
        yield f"{what} greater than or equal to {limits['min']}"
    if "max" in limits and size > limits["max"]:
        yield f"{what} less than or equal to {limits['max']}"
    if "enum" in limits and value not in limits["enum"]:
        yield f"satisfy enum value set: [{', '.join(limits['enum'])}]"
    if "pattern" in limits and not _pattern(limits["pattern"]).fullmatch(value):
        yield f"satisfy regular expression pattern: {limits['pattern']}"


@functools.cache
def _pattern(told: str) -> re.Pattern[str]:
    for theirs, ours in CLASSES.items():
        told = told.replace(theirs, ours)
    return re.compile(told)
