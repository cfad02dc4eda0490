"""What descriptions have in common: filters, pages, tags."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from falplan.sdk.testing.fakeec2.things import Tags
from falplan.sdk.testing.fakeec2.wire import Ec2Error

T = TypeVar("T")


def tags_of(parameters: Mapping[str, Any], kind: str) -> Tags:
    """The tags that a call gives to what it makes of this kind."""
    wanted: Tags = {}
    for one in parameters.get("TagSpecifications", ()):
        if one["ResourceType"] == kind:
            wanted |= {t["Key"]: t.get("Value", "") for t in one.get("Tags", ())}
    if any(key.lower().startswith("aws:") for key in wanted):
        raise Ec2Error("InvalidParameterValue", "Tag keys starting with 'aws:' are reserved for internal use")
    return wanted


def tag_list(tags: Tags) -> list[dict[str, str]]:
    """As descriptions show them."""
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]


def matching(
    found: Iterable[T],
    filters: Sequence[Mapping[str, Any]],
    tags: Callable[[T], Tags],
    values: Mapping[str, Callable[[T], Iterable[str]]],
) -> list[T]:
    """Those for which every filter names a value that they have. Values may hold `*` and `?`.

    Raises:
        Ec2Error: a filter is none of these.
    """
    kept = list(found)
    for one in filters:
        name, wanted = one["Name"], one.get("Values", [])
        have = _reader(name, tags, values)
        kept = [thing for thing in kept if any(fnmatchcase(v, w) for v in have(thing) for w in wanted)]
    return kept


def _reader(
    name: str, tags: Callable[[T], Tags], values: Mapping[str, Callable[[T], Iterable[str]]]
) -> Callable[[T], Iterable[str]]:
    if name.startswith("tag:"):
        return lambda thing: [tags(thing)[name[4:]]] if name[4:] in tags(thing) else []
    if name == "tag-key":
        return lambda thing: list(tags(thing))
    if name not in values:
        raise Ec2Error("InvalidParameterValue", f"The filter '{name}' is invalid")
    return values[name]


def page(found: Sequence[T], parameters: Mapping[str, Any], least: int = 5) -> tuple[Sequence[T], str | None]:
    """One page of a listing, and the token of the next one; None with the last.

    Raises:
        Ec2Error: a page of that size is not given, or there is no such token.
    """
    size = parameters.get("MaxResults")
    if size is not None and not least <= size <= 1000:
        raise Ec2Error("InvalidParameterValue", f"Value ( {size} ) for parameter maxResults is invalid.")
    token = parameters.get("NextToken")
    if token is not None and not str(token).startswith("page-"):
        raise Ec2Error("InvalidNextToken", "The token is not valid")
    begin = int(str(token).removeprefix("page-")) if token else 0
    end = begin + (size or 1000)
    return found[begin:end], f"page-{end}" if end < len(found) else None


def slice_of(found: Sequence[T], size: int, token: str | None, wrong: Ec2Error) -> tuple[Sequence[T], str | None]:
    """The same for the other services, whose tokens are letters and digits. Raises `wrong` for one that was never given."""
    begin = 0
    if token is not None:
        given = re.fullmatch(r"page-(\d+)", _decoded(token))
        if given is None:
            raise wrong
        begin = int(given.group(1))
    end = begin + size
    return found[begin:end], base64.b64encode(f"page-{end}".encode()).decode() if end < len(found) else None


def _decoded(token: str) -> str:
    try:
        return base64.b64decode(token, validate=True).decode()
    except ValueError:
        return ""


def digest(asked: Mapping[str, Any]) -> str:
    """Of what a call asks for, beside its client token: the same for the same."""
    told = {k: v for k, v in asked.items() if k not in ("ClientToken", "DryRun")}
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=repr).encode()).hexdigest()
