"""A plan that was saved: what it holds good for, and what speaks against carrying it out here and now. Reads no files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, cast

from falplan.core.consequences import Consequence, Effect
from falplan.core.errors import Refused
from falplan.core.plan_json import plan_from_json, plan_to_json
from falplan.core.report import Report, Row, Section, Tone
from falplan.core.spec_digest import spec_differences
from falplan.core.state import State, StateUnreadable, parse_state, recorded_to_json, render_state
from falplan.core.values import Json, JsonObject, digest

VALID_FOR = 24 * 3600.0
"""Seconds for which a plan holds good, by default."""

UNFIT = "The saved plan can't be applied"
"""Summary of the errors that refuse one."""

Facts = Mapping[str, Mapping[str, str]]
"""address -> what was seen of it, each fact by its name: short text as it is, everything else as a digest."""


@dataclass(frozen=True, slots=True)
class Binding:
    """What a saved plan holds good for. Times in seconds since the epoch.

    `environment` is the one selected, empty for all. `where` is the place of a state that did not exist yet, empty otherwise.
    `state_digest` is of the state with its journal applied, `resources` of each resource in it, `spec` of each part of the spec.
    `falplan` is the release that made the plan, `providers` the releases of those that the spec's regions name. `dead` is a gateway
    that was declared dead. `variables` and `variable_files` are the options that the spec was read with.
    """

    project: str
    environment: str
    lineage: str
    serial: int
    where: str
    state_digest: str
    spec_digest: str
    falplan: str
    providers: Mapping[str, str]
    created_at: float
    valid_until: float
    resources: Mapping[str, str] = field(default_factory=dict)
    spec: Mapping[str, str] = field(default_factory=dict)
    observed: Facts = field(default_factory=dict)
    destroys: bool = False
    dead: str = ""
    variables: tuple[str, ...] = ()
    variable_files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SavedPlan:
    """A plan as it is to be carried out, with what was shown beside it, and the state that it was made from."""

    report: Report
    binding: Binding
    prior: State


@dataclass(frozen=True, slots=True)
class Here:
    """What a saved plan is compared with. `environment` is None where the command names none; `now` in seconds since the epoch."""

    project: str
    environment: str | None
    state: State
    where: str
    spec_digest: str
    spec: Mapping[str, str]
    falplan: str
    providers: Mapping[str, str]
    now: float


def state_digest(state: State) -> str:
    """A digest of the state as it would be saved, 64 hex digits."""
    return hashlib.sha256(render_state(state).encode()).hexdigest()


def resource_digests(state: State) -> dict[str, str]:
    """A digest of each resource in state, to tell later which one moved."""
    return {a: digest(recorded_to_json(state.resources[a]))[:32] for a in sorted(state.resources)}


def objections(binding: Binding, here: Here) -> list[str]:
    """Everything that speaks against the plan, in sentences that say what moved; none if it still holds good."""
    found = _foreign(binding, here)
    if not found:  # the rest of a foreign plan differs anyway
        found = [*_stale(binding, here), *_other_spec(binding, here), *_other_release(binding, here)]
    if here.now >= binding.valid_until:
        found.append(f"It expired at {_time(binding.valid_until)}; it was made at {_time(binding.created_at)}.")
    if here.now < binding.created_at - CLOCKS_DIFFER:
        found.append(f"It was made at {_time(binding.created_at)}, which is still to come by this machine's clock.")
    return found


CLOCKS_DIFFER = 300.0
"""Seconds by which the clocks of two machines may differ."""


def refuse_for(found: list[str]) -> Refused:
    """The error for these objections."""
    detail = "\n".join([*found, "Nothing was changed. Make a new plan: `falplan plan --out FILE`."])
    return Refused(UNFIT, detail)


def _foreign(binding: Binding, here: Here) -> list[str]:
    found = []
    if binding.project != here.project:
        found.append(f'It was made for project "{binding.project}"; this is "{here.project}".')
    if here.environment is not None and binding.environment != here.environment:
        was = f"environment {binding.environment}" if binding.environment else "all environments"
        found.append(f"It was made for {was}, not for environment {here.environment}.")
    if binding.lineage != here.state.lineage:
        found.append(f"It was made for state {binding.lineage}; the one here is {here.state.lineage}.")
    elif binding.where and binding.where != here.where:
        found.append(f"It was made for a new state in {binding.where}; here it would be in {here.where}.")
    return found


def _stale(binding: Binding, here: Here) -> list[str]:
    state = here.state
    if state.serial == binding.serial and state_digest(state) == binding.state_digest:
        return []
    moved = _moved(binding.resources, resource_digests(state))
    what = f": {', '.join(moved)}" if moved else ""
    if state.serial == binding.serial:
        return [f"It is stale: state moved since, at serial {state.serial}{what}."]
    return [f"It is stale: state is at serial {state.serial}, the plan was made at {binding.serial}{what}."]


def _moved(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    words = {(True, True): "changed", (True, False): "is gone", (False, True): "is new"}
    return [f"{a} {words[a in then, a in now]}" for a in sorted(then.keys() | now.keys()) if then.get(a) != now.get(a)]


def _other_spec(binding: Binding, here: Here) -> list[str]:
    if binding.spec_digest == here.spec_digest:
        return []
    differ = spec_differences(binding.spec, here.spec)
    shown = ", ".join(differ[:SHOWN]) + (f" and {len(differ) - SHOWN} more" if len(differ) > SHOWN else "")
    return [f"It was made from another spec: {shown}."]


SHOWN = 20
"""How many differences of a spec are named."""


def _other_release(binding: Binding, here: Here) -> list[str]:
    found = []
    if binding.falplan != here.falplan:
        found.append(f"It was made by falplan {binding.falplan}; this is {here.falplan}.")
    for name in sorted(binding.providers.keys() | here.providers.keys()):
        then, now = binding.providers.get(name), here.providers.get(name)
        if then != now and not (then == binding.falplan and now == here.falplan):
            found.append(f"It was made with provider {name} {then or '(none)'}; here is {now or '(none)'}.")
    return found


def saved_to_json(saved: SavedPlan) -> JsonObject:
    """Everything in a saved plan, for its file."""
    binding: Any = asdict(saved.binding)
    sections: list[Json] = [cast("Json", asdict(s)) for s in saved.report.sections]
    plan = plan_to_json(saved.report.plan, saved.report.follow)
    return {"binding": binding, "plan": plan, "sections": sections, "prior": render_state(saved.prior)}


def saved_from_json(body: JsonObject) -> SavedPlan:
    """The inverse of `saved_to_json`, less positions.

    Raises:
        KeyError, TypeError, ValueError: it has another shape.
    """
    found: Any = body["binding"]
    if set(found) != {f.name for f in fields(Binding)}:
        raise ValueError("a binding has other keys")
    for name in ("variables", "variable_files"):
        found = {**found, name: tuple(found[name])}
    inner: Any = body["plan"]
    follow = tuple(
        Consequence(c["address"], Effect(c["effect"]), c["count"], c["because"], c["where"])
        for c in inner["falplan"]["runners"]
    )
    sections = tuple(_section(s) for s in cast("list[Any]", body["sections"]))
    digests = {a: digest(dict[str, Json](seen)) for a, seen in found["observed"].items()}
    try:
        prior = parse_state(str(body["prior"]), "the saved plan")
    except StateUnreadable as exc:
        raise ValueError(str(exc)) from exc
    return SavedPlan(Report(plan_from_json(inner), follow, (), sections, digests), Binding(**found), prior)


def _section(body: Any) -> Section:
    rows = tuple(Row(r["text"], Tone(r["tone"]), tuple(r["detail"]), r.get("label", "")) for r in body["rows"])
    return Section(body["name"], body["title"], rows, body["body"])


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
