"""Saved state as values: what was applied, and which operations were begun but not seen to end. Knows no files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal, cast

from falplan import __version__
from falplan.core.errors import Refused
from falplan.core.state_upgrades import upgraded
from falplan.core.values import Json, JsonObject, digest

FORMAT_VERSION = 2


class Status(StrEnum):
    """What state knows of a resource."""

    APPLIED = "applied"  #: the last operation on it succeeded
    TAINTED = "tainted"  #: the last operation on it failed half-way; the next apply does it again
    REMAKE = "remake"  #: `falplan taint` asked for it: the next apply makes it anew


@dataclass(frozen=True, slots=True)
class Intent:
    """An operation that was begun. While one is open, nobody knows whether the outside world changed.

    `generation` and the lineage and address make the operation id, so that repeating it has no second effect.
    `inputs_digest` is that of the inputs it was begun with (empty for a delete).
    """

    action: str
    operation: str
    generation: int
    inputs_digest: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """A resource in state. `generation` counts the operations that ended on it, failed ones too.

    `protected`: nothing may destroy or replace it, even when it has left the spec.
    """

    address: str
    type: str
    inputs: JsonObject
    outputs: JsonObject
    dependencies: tuple[str, ...] = ()
    generation: int = 0
    status: Status = Status.APPLIED
    intent: Intent | None = None
    protected: bool = False


@dataclass(frozen=True, slots=True)
class Output:
    """What one of the spec's outputs was at the end of the last apply. A sensitive one is shown only to who asks for it by name."""

    value: Json
    sensitive: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """One project's saved state. `serial` grows by one with every write of the snapshot.

    `retired` keeps the generation of addresses that were destroyed or never came to be, so that an operation id is never used for two
    different operations. `forgotten` are addresses that were taken out of state on purpose while what they name goes on. `outputs`
    are the spec's, by name.
    """

    project: str
    lineage: str
    serial: int
    resources: Mapping[str, Recorded] = field(default_factory=dict)
    retired: Mapping[str, int] = field(default_factory=dict)
    forgotten: frozenset[str] = frozenset()
    outputs: Mapping[str, Output] = field(default_factory=dict)

    def generation(self, address: str) -> int:
        """Operations that have ended on this address so far."""
        recorded = self.resources.get(address)
        return recorded.generation if recorded else self.retired.get(address, 0)


class StateUnreadable(Refused):
    """The state file is not one that this falplan can trust. Nothing was touched."""


def operation_id(lineage: str, address: str, generation: int) -> str:
    """The same id for the same operation, whoever asks and however often: 32 hex digits."""
    return digest([lineage, address, generation])[:32]


def render_state(state: State) -> str:
    """The snapshot as JSON text, for people to read and for `parse_state`; the checksum covers everything else."""
    body = _to_json(state)
    body["checksum"] = _checksum(body)
    return json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def parse_state(text: str, source: str) -> State:
    """The state that `render_state` wrote.

    Raises:
        StateUnreadable: for empty, truncated, edited or newer files, with what to do.
    """
    if not text.strip():
        raise StateUnreadable(
            "The state file is empty", f"{source} has no content. An empty file is not an empty state. {_RECOVERY}"
        )
    try:
        body = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except ValueError as exc:
        raise StateUnreadable("The state file is damaged", f"{source}: {exc}. {_RECOVERY}") from exc
    if not isinstance(body, dict):
        raise StateUnreadable("The state file is damaged", f"{source} does not hold an object. {_RECOVERY}")
    version = body.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise StateUnreadable(
            "The state file is newer than this falplan",
            f"{source} has format {version}, written by falplan {body.get('falplan_version')}; "
            f"falplan {__version__} reads up to {FORMAT_VERSION}. Install that version or a newer one.",
        )
    if body.pop("checksum", None) != _checksum(body):
        raise StateUnreadable("The state file is damaged", f"{source}: its checksum does not match. {_RECOVERY}")
    try:
        body = upgraded(body, to=FORMAT_VERSION)
    except ValueError as exc:
        raise StateUnreadable("The state file is damaged", f"{source}: {exc}. {_RECOVERY}") from exc
    return _from_json(body)


_RECOVERY = "`falplan state repair` shows what can be put in its place, and `falplan state backup list` its backups."


def _checksum(body: Mapping[str, Json]) -> str:
    return "sha256:" + digest({k: v for k, v in body.items() if k != "checksum"})


def _no_duplicates(pairs: list[tuple[str, Json]]) -> JsonObject:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return result


def _no_constant(name: str) -> Json:
    raise ValueError(f"{name} is not JSON")


def _to_json(state: State) -> JsonObject:
    body: JsonObject = {
        "format_version": FORMAT_VERSION,
        "falplan_version": __version__,
        "project": state.project,
        "lineage": state.lineage,
        "serial": state.serial,
        "resources": [recorded_to_json(state.resources[a]) for a in sorted(state.resources)],
        "retired": {a: state.retired[a] for a in sorted(state.retired)},
        **({"forgotten": list[Json](sorted(state.forgotten))} if state.forgotten else {}),
    }
    if state.outputs:
        body["outputs"] = {
            name: {"value": output.value, "sensitive": output.sensitive}
            for name, output in sorted(state.outputs.items())
        }
    return body


def _outputs(body: JsonObject) -> dict[str, Output]:
    outputs = cast("dict[str, JsonObject]", body.get("outputs", {}))
    return {str(name): Output(o["value"], bool(o.get("sensitive", False))) for name, o in outputs.items()}


def recorded_to_json(recorded: Recorded) -> JsonObject:
    """One resource of the state as JSON."""
    body: JsonObject = {
        "address": recorded.address,
        "type": recorded.type,
        "status": recorded.status.value,
        "generation": recorded.generation,
        "dependencies": list(recorded.dependencies),
        "inputs": recorded.inputs,
        "outputs": recorded.outputs,
    }
    if recorded.protected:
        body["protected"] = True
    if recorded.intent:
        body["intent"] = {
            "action": recorded.intent.action,
            "operation": recorded.intent.operation,
            "generation": recorded.intent.generation,
            "inputs_digest": recorded.intent.inputs_digest,
        }
    return body


def recorded_from_json(body: JsonObject) -> Recorded:
    """The inverse of `recorded_to_json`.

    Raises:
        KeyError, TypeError, ValueError: when the object has another shape.
    """
    intent = cast("JsonObject | None", body.get("intent"))
    return Recorded(
        address=str(body["address"]),
        type=str(body["type"]),
        inputs=cast("JsonObject", body["inputs"]),
        outputs=cast("JsonObject", body["outputs"]),
        dependencies=tuple(str(d) for d in cast("list[Json]", body["dependencies"])),
        generation=int(cast("int", body["generation"])),
        status=Status(str(body["status"])),
        intent=intent_from_json(intent) if intent else None,
        protected=body.get("protected") is True,
    )


def intent_from_json(body: JsonObject) -> Intent:
    """An intent as it stands in state and journal."""
    generation = cast("int", body["generation"])
    return Intent(str(body["action"]), str(body["operation"]), int(generation), str(body["inputs_digest"]))


def _from_json(body: JsonObject) -> State:
    try:
        resources = [recorded_from_json(r) for r in cast("list[JsonObject]", body["resources"])]
        state = State(
            project=str(body["project"]),
            lineage=str(body["lineage"]),
            serial=int(cast("int", body["serial"])),
            resources={r.address: r for r in resources},
            retired={str(a): int(g) for a, g in cast("dict[str, int]", body.get("retired", {})).items()},
            forgotten=frozenset(str(a) for a in cast("list[Json]", body.get("forgotten", []))),
            outputs=_outputs(body),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise StateUnreadable("The state file is damaged", f"{type(exc).__name__}: {exc}. {_RECOVERY}") from exc
    if len(state.resources) != len(resources):
        twice = sorted(a for a, count in Counter(r.address for r in resources).items() if count > 1)
        stand = f"{', '.join(twice)} {'stands' if len(twice) == 1 else 'stand'} twice."
        raise StateUnreadable("The state file is damaged", f"{stand} {_RECOVERY}")
    return state


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the journal: an operation began, succeeded or failed.

    `recorded` is the resource as it is to stand in state: with the intent for `begin`, as it is now for `done` and
    `failed`, None once it is gone.
    """

    kind: Literal["begin", "done", "failed"]
    address: str
    generation: int
    recorded: Recorded | None


def replay(state: State, entries: Iterable[Entry]) -> State:
    """State after the journal's entries."""
    resources, retired = dict(state.resources), dict(state.retired)
    for entry in entries:
        if entry.recorded is None:
            resources.pop(entry.address, None)
            retired[entry.address] = entry.generation
        else:
            resources[entry.address] = entry.recorded
            retired.pop(entry.address, None)
    forgotten = frozenset(a for a in state.forgotten if a not in resources)
    return replace(state, resources=resources, retired=retired, forgotten=forgotten)


def render_entry(entry: Entry) -> str:
    """One line of JSON with its own checksum, so that a torn last line is recognised."""
    body: JsonObject = {
        "kind": entry.kind,
        "address": entry.address,
        "generation": entry.generation,
        "recorded": recorded_to_json(entry.recorded) if entry.recorded else None,
    }
    body["checksum"] = digest(body)[:16]
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"


def parse_entry(line: str) -> Entry | None:
    """The entry that `render_entry` wrote; None for a line that is not whole."""
    try:
        # Two lines that run into one another may look like the second one, if a key may stand twice.
        body = json.loads(line, object_pairs_hook=_no_duplicates)
        checksum = body.pop("checksum")
        if checksum != digest(body)[:16]:
            return None
        recorded = recorded_from_json(body["recorded"]) if body["recorded"] else None
        return Entry(body["kind"], body["address"], body["generation"], recorded)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
