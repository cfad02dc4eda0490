"""What the expressions of checks, outputs and policies may name: nested mappings, and which names there are at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from falplan.core.resources import endpoint_of
from falplan.core.spec.resolved import ResolvedApp, ResolvedSpec
from falplan.core.spec.words import did_you_mean, nearest, quoted
from falplan.core.values import Json, JsonObject


class Asked(StrEnum):
    """Whose expression it is; each sees a scope of its own."""

    BEFORE = "a check before apply"
    AFTER = "a check after apply"
    OUTPUT = "an output"
    POLICY = "a policy"


COSTS: JsonObject = {"min": 0.0, "max": 0.0, "unpriced": 0}
COUNTS: JsonObject = {"create": 0, "update": 0, "delete": 0, "replace": 0}
CHANGE: JsonObject = {"address": "", "type": "", "environment": "", "actions": [], "because": ""}
OF_MAPPINGS = ("items", "keys", "values", "get")
"""What an expression may do with a mapping, unless it has a key of that name."""


def base_scope(spec: ResolvedSpec) -> JsonObject:
    """What every expression sees: variables, project, environments, and each app's settings."""
    apps: dict[str, Json] = {environment: {} for environment in spec.environments}
    for app in spec.apps:
        cast("JsonObject", apps[app.environment])[app.name] = app_scope(spec, app)
    return {
        "var": dict(spec.variables),
        "project": spec.project,
        "environments": list(spec.environments),
        "apps": apps,
    }


def app_scope(spec: ResolvedSpec, app: ResolvedApp) -> JsonObject:
    """One app: its settings, and what it is called."""
    return {
        **{name: setting.value for name, setting in app.settings.items()},
        "name": app.name,
        "environment": app.environment,
        "endpoint": endpoint_of(spec.owner, app.name, app.environment),
        "protect": app.protect,
    }


def with_results(scope: JsonObject, url: str, revisions: Mapping[str, str]) -> JsonObject:
    """The same scope with what an apply makes known: the gateway's URL, and each app's own and revision. `revisions` are by address."""
    apps: JsonObject = {}
    for environment, found in cast("dict[str, dict[str, JsonObject]]", scope["apps"]).items():
        apps[environment] = {
            name: {
                **body,
                "url": f"{url}/run/{body['endpoint']}" if url else "",
                "revision": revisions.get(f"app.{environment}.{name}", ""),
            }
            for name, body in found.items()
        }
    return {**scope, "apps": apps, "gateway": {"url": url}}


def shape(spec: ResolvedSpec, asked: Asked) -> JsonObject:
    """A scope with every name that there is, and values that mean nothing where they are not known yet."""
    base = base_scope(spec)
    if asked is Asked.BEFORE:
        return {**base, "cost": COSTS, "plan": COUNTS}
    if asked is Asked.OUTPUT:
        return with_results(base, "", {})
    if asked is Asked.AFTER:
        return {**with_results(base, "", {}), "cost": COSTS, "outputs": {o.name: "" for o in spec.outputs}}
    some = app_scope(spec, spec.apps[0]) if spec.apps else {}
    return {
        **{name: base[name] for name in ("var", "project", "environments")},
        "app": {**some, "cost": COSTS},
        "change": CHANGE,
    }


@dataclass(frozen=True, slots=True)
class Unknown:
    """A name that is not there. `word` is the part of the path that nothing defines."""

    word: str
    message: str
    hint: str


def unknown_names(paths: Iterable[tuple[str, ...]], spec: ResolvedSpec, asked: Asked) -> list[Unknown]:
    """Those of the paths that lead nowhere in the scope, each with the nearest name."""
    scope = shape(spec, asked)
    return [found for path in paths for found in [_unknown(path, scope, spec, asked)] if found]


def _unknown(path: tuple[str, ...], scope: JsonObject, spec: ResolvedSpec, asked: Asked) -> Unknown | None:
    node: Json = scope
    for depth, part in enumerate(path):
        if not isinstance(node, dict):
            return None  # below a value stand its methods
        if part not in node:
            if depth and part in OF_MAPPINGS:
                return None
            above = ".".join(path[:depth])
            what = f"{above} has no {quoted(part)}" if above else f"{quoted(part)} is not defined"
            return Unknown(part, what, _hint(path[: depth + 1], node, spec, asked))
        node = node[part]
    return None


def _hint(path: tuple[str, ...], known: JsonObject, spec: ResolvedSpec, asked: Asked) -> str:
    for other in Asked:
        if other is not asked and asked in (Asked.BEFORE, Asked.AFTER) and _reaches(path, shape(spec, other)):
            if other is Asked.AFTER:
                return "it is known only after an apply: say `when: after`"
            if other is Asked.BEFORE:
                return "it is known only before an apply: say `when: before`"
    close = nearest(path[-1], known)
    if close and not close.isidentifier():
        return f'did you mean {".".join(path[:-1])}["{close}"]?'
    return did_you_mean(path[-1], known)


def _reaches(path: tuple[str, ...], scope: JsonObject) -> bool:
    node: Json = scope
    for part in path:
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True
