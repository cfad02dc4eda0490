"""What a spec's own expressions are asked of a plan, and what an answer means. Evaluates nothing itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from falplan.core.cost import NOTHING, Costs, cost_scope
from falplan.core.errors import Position
from falplan.core.findings import Finding, Source
from falplan.core.plan import Action, Change, Plan
from falplan.core.resources import environment_of
from falplan.core.scope import app_scope, base_scope
from falplan.core.spec.resolved import ResolvedCheck, ResolvedPolicy, ResolvedSpec
from falplan.core.values import Json, JsonObject


@dataclass(frozen=True, slots=True)
class Question:
    """An expression and what it sees. `wanted` is the answer that raises no objection; `said` is the template of the objection."""

    source: Source
    name: str
    expression: str
    said: str
    wanted: bool
    scope: JsonObject
    refuses: bool
    address: str = ""
    position: Position | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a question: a value, or why there is none. `said` is the objection with its expressions filled in."""

    value: Json = None
    failure: str = ""
    said: str = ""


def check_questions(spec: ResolvedSpec, *, after: bool, more: Mapping[str, Json]) -> list[Question]:
    """Those of the checks before, or after, an apply. `more` is what they see beside variables and settings."""
    checks = [c for c in spec.checks if c.after is after]
    if not checks:
        return []
    scope = {**base_scope(spec), **more}
    return [_of_check(check, scope) for check in checks]


def _of_check(check: ResolvedCheck, scope: JsonObject) -> Question:
    return Question(
        Source.CHECK,
        check.name,
        check.assertion,
        check.error,
        wanted=True,
        scope=scope,
        refuses=not check.warns,
        position=check.position,
    )


def plan_counts(plan: Plan) -> JsonObject:
    """`plan.create` and the rest, as checks see them. A replacement is one `replace`, and nothing else."""
    return {
        "create": plan.count(Action.CREATE),
        "update": plan.count(Action.UPDATE),
        "delete": plan.count(Action.DELETE),
        "replace": plan.count(Action.REPLACE, Action.REPLACE_CREATE_FIRST),
    }


def policy_questions(spec: ResolvedSpec, plan: Plan, costs: Costs) -> list[Question]:
    """Those of policies that say `deny`: of each app that is to be, of each change, or of both together, as they name them."""
    apps = {app.address: app for app in spec.apps}
    asking = [policy for policy in spec.policies if policy.deny]
    base = base_scope(spec) if asking else {}
    shared: JsonObject = {name: base[name] for name in ("var", "project", "environments") if name in base}
    found = []
    for policy in asking:
        named = {path[0] for path in policy.names}
        for address, change in sorted(plan.changes.items()):
            if not policy.covers(environment_of(address)):
                continue
            app = apps.get(address)
            if ("app" in named and app is None) or ("app" not in named and change.action is Action.NOOP):
                continue
            scope: JsonObject = {**shared, "change": change_scope(change)}
            if app is not None:
                known = costs.apps[address].cost if address in costs.apps else NOTHING
                scope["app"] = {**app_scope(spec, app), "cost": cost_scope(known)}
            found.append(_of_policy(policy, address, scope, change.position or (app.position if app else None)))
    return found


def change_scope(change: Change) -> JsonObject:
    """A change as policies see it."""
    return {
        "address": change.address,
        "type": change.type.value,
        "environment": environment_of(change.address) or "",
        "actions": cast("list[Json]", change.action.terraform),
        "because": change.because,
    }


def _of_policy(policy: ResolvedPolicy, address: str, scope: JsonObject, place: Position | None) -> Question:
    return Question(
        Source.POLICY,
        policy.name,
        policy.deny,
        policy.error,
        wanted=False,
        scope=scope,
        refuses=not policy.advisory,
        address=address,
        position=place or policy.position,
    )


def findings_of(asked: Iterable[tuple[Question, Answer]]) -> list[Finding]:
    """The objections among the answers. What can't be answered is one."""
    return [found for question, answer in asked for found in [_finding(question, answer)] if found]


def _finding(question: Question, answer: Answer) -> Finding | None:
    kind = "check" if question.source is Source.CHECK else "policy"
    what = f'{kind} "{question.name}"' + (f": {question.address}" if question.address else "")
    if answer.failure or not isinstance(answer.value, bool):
        why = answer.failure or f"it gives {answer.value!r}, neither true nor false"
        message = f"{what} can't be judged: {why}"
    elif answer.value is question.wanted:
        return None
    else:
        message = f"{what}: {answer.said}" if answer.said else f"{what} is not allowed"
    return Finding(
        question.source,
        question.name,
        message,
        refuses=question.refuses,
        address=question.address,
        position=question.position,
        detail=(f"{'asserted' if question.wanted else 'denied'}: {question.expression}",),
    )
