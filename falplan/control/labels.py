"""What a runner's labels say of it, for a control plane whose database does not. Decides nothing about what becomes of it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from falplan.control.launch import ObservedRunner
from falplan.core.values import Json, JsonObject


@dataclass(frozen=True, slots=True)
class Labels:
    """Who started a runner, for which revision, and its place: what its row in the database holds.

    `created_at` in seconds since the epoch.
    """

    lineage: str
    control_plane: str
    epoch: int
    project: str
    endpoint: str
    revision: str
    machine_type: str
    placement: JsonObject
    created_at: float

    def to_json(self) -> JsonObject:
        return cast("JsonObject", asdict(self))


def labels_of(found: Mapping[str, Json]) -> Labels | None:
    """The labels, or None if they are not whole, as those of a runner that an earlier version started."""
    values: dict[str, Any] = {name: found.get(name) for name in Labels.__dataclass_fields__}
    if any(v is None for v in values.values()) or not isinstance(values["placement"], dict):
        return None
    return Labels(**values)


def adoptable(
    observed: Iterable[ObservedRunner], definitions: Container[tuple[str, str]]
) -> list[tuple[ObservedRunner, Labels]]:
    """Runners that live and whose (endpoint, revision) is among the definitions, in the order given, each with its labels."""
    found = []
    for runner in observed:
        labels = labels_of(runner.labels)
        if runner.alive and labels and (labels.endpoint, labels.revision) in definitions:
            found.append((runner, labels))
    return found
