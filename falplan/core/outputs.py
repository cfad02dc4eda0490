"""The spec's outputs: which are known before an apply, what becomes of each, and how that is shown. Evaluates nothing."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping

from falplan.core.plan import Action, OutputChange, Plan
from falplan.core.report import Row, Section
from falplan.core.resources import GATEWAY, ResourceType
from falplan.core.spec.resolved import NamesOf, ResolvedOutput
from falplan.core.state import Output, State
from falplan.core.values import Json

MOVES = frozenset({"port", "listen", "hostname"})
"""Inputs of the gateway that its URL comes from."""


def unknown_paths(plan: Plan) -> frozenset[tuple[str, ...]]:
    """What of the scope is known only after the apply: the gateway's URL and with it each app's, and revisions that are made."""
    gateway = plan.changes.get(GATEWAY)
    moves = gateway is not None and (
        "url" in gateway.unknown or any(a.path[:1] and a.path[0] in MOVES for a in gateway.attributes)
    )
    found: set[tuple[str, ...]] = {(GATEWAY, "url")} if moves else set()
    for address, change in plan.changes.items():
        if change.type is not ResourceType.APP or change.action is Action.DELETE:
            continue
        _, environment, name = address.split(".")
        if "revision" in change.unknown:
            found.add(("apps", environment, name, "revision"))
        if moves:
            found.add(("apps", environment, name, "url"))
    return frozenset(found)


def absent_paths(apps: Iterable[str], present: Collection[str]) -> frozenset[tuple[str, ...]]:
    """What of the scope stands for apps that are not there, as after an apply of a part. Both are addresses."""
    return frozenset(("apps", *address.split(".")[1:]) for address in apps if address not in present)


def is_unknown(names: NamesOf, unknown: Collection[tuple[str, ...]]) -> bool:
    """Whether an expression that reads these names reads something unknown; one that reads a mapping reads all of it."""
    return any(path[: len(name)] == name or name[: len(path)] == path for name in names for path in unknown)


def output_changes(
    outputs: Iterable[ResolvedOutput], values: Mapping[str, Json], state: State
) -> dict[str, OutputChange]:
    """What becomes of each output. One without a value in `values` is not known yet; one that left the spec is dropped."""
    found: dict[str, OutputChange] = {}
    for output in outputs:
        recorded = state.outputs.get(output.name)
        before = recorded.value if recorded else None
        sensitive = output.sensitive or bool(recorded and recorded.sensitive)
        unknown = output.name not in values
        after = None if unknown else values[output.name]
        same = recorded == Output(after, output.sensitive) and not unknown
        action = Action.NOOP if same else Action.UPDATE if recorded else Action.CREATE
        found[output.name] = OutputChange(output.name, action, before, after, unknown, sensitive)
    for name, recorded in state.outputs.items():
        if name not in found:
            found[name] = OutputChange(name, Action.DELETE, recorded.value, sensitive=recorded.sensitive)
    return dict(sorted(found.items()))


def recorded_outputs(outputs: Iterable[ResolvedOutput], values: Mapping[str, Json]) -> dict[str, Output]:
    """Outputs as state keeps them."""
    return {o.name: Output(values[o.name], o.sensitive) for o in outputs}


SYMBOLS = {Action.CREATE: "+", Action.UPDATE: "~", Action.DELETE: "-"}


def outputs_section(plan: Plan) -> Section:
    """`Changes to Outputs`, and all outputs in the shape of Terraform's `output_changes`. Sensitive values are in neither."""
    rows = tuple(Row(_line(change)) for change in plan.changed_outputs)
    return Section("output_changes", "Changes to Outputs", rows, {n: _to_json(c) for n, c in plan.outputs.items()})


def _line(change: OutputChange) -> str:
    before, after = _shown(change.before, change.sensitive), _shown(change.after, change.sensitive)
    if change.unknown:
        after = "(known after apply)"
    symbol = SYMBOLS[change.action]
    if change.action is Action.CREATE:
        return f"{symbol} {change.name} = {after}"
    if change.action is Action.DELETE:
        return f"{symbol} {change.name} = {before}"
    return f"{symbol} {change.name} = {before} -> {after}"


def _shown(value: Json, sensitive: bool) -> str:
    return "(sensitive value)" if sensitive else json.dumps(value, ensure_ascii=False)


def _to_json(change: OutputChange) -> Json:
    return {
        "actions": [change.action.value],
        "before": None if change.sensitive else change.before,
        "after": None if change.sensitive else change.after,
        "after_unknown": change.unknown,
        "before_sensitive": change.sensitive,
        "after_sensitive": change.sensitive,
    }
