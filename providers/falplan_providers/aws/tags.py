"""What everything made at AWS carries, so that it leads back to whoever asked for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

OWNER = "falplan:owner"
"""The project's lineage."""
CONTROL_PLANE = "falplan:control-plane"
OPERATION = "falplan:operation"
"""The recorded intent that it was made for."""
POOL = "falplan:pool"
"""What it was asked of: AZ id, type and market."""
ADDRESS = "falplan:address"
"""Of a resource of plans."""
REGION = "falplan:region"
"""The region's name in the spec."""


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """As AWS is told them, always in the same order."""
    return [{"Key": key, "Value": tags[key]} for key in sorted(tags)]


def specifications(tags: Mapping[str, str], kinds: Iterable[str]) -> list[dict[str, Any]]:
    """The same tags for several kinds of things that one call makes."""
    return [{"ResourceType": kind, "Tags": tag_list(tags)} for kind in kinds]


def tags_of(told: Sequence[Mapping[str, str]] | None) -> dict[str, str]:
    """The inverse of `tag_list`, from a description."""
    return {one["Key"]: one["Value"] for one in told or ()}


def filters(wanted: Mapping[str, str | Sequence[str]]) -> list[dict[str, Any]]:
    """Filters of a description, by EC2's names of them: values, or one."""
    return [
        {"Name": name, "Values": [value] if isinstance(value, str) else list(value)} for name, value in wanted.items()
    ]
