"""Checks, outputs and policies of a spec, held against what they name. Evaluates nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from falplan.core.errors import Position
from falplan.core.scope import Asked, unknown_names
from falplan.core.spec.codes import Code
from falplan.core.spec.models import SpecModel
from falplan.core.spec.resolved import (
    NamesOf,
    Parameters,
    ResolvedCheck,
    ResolvedOutput,
    ResolvedPolicy,
    ResolvedSpec,
)
from falplan.core.spec.rules import RULES, Check, Policy, PolicyParameters
from falplan.core.spec.tree import Map, Node, Scalar, Seq, at, map_like, put
from falplan.core.spec.words import did_you_mean, quoted
from falplan.stores.spec.findings import Findings
from falplan.stores.spec.template import Renderer, Scope

DEFERRED = {"checks": ("assert", "error"), "outputs": ("value", "description"), "policies": ("deny", "error")}
"""Section -> keys whose expressions are evaluated later, when there is a plan."""


def without_deferred(section: str, tree: Node, renderer: Renderer, scope: Scope) -> Node | None:
    """The section with its templates rendered, but for those that are evaluated later; None after noting why one can't be."""
    if not isinstance(tree, Map):
        return tree
    made = map_like(tree)
    for name, body in tree.items():
        if isinstance(body, Map):
            entry = map_like(body)
            for key, value in body.items():
                rendered = value if key in DEFERRED[section] else renderer.tree(value, scope)
                if rendered is None:
                    return None
                put(entry, body.keys_at[key], rendered)
            body = entry
        put(made, tree.keys_at[name], body)
    return made


def with_rules(spec: ResolvedSpec, model: SpecModel, tree: Map, renderer: Renderer, findings: Findings) -> ResolvedSpec:
    """The spec with its checks, outputs and policies; what is wrong with them is among the findings.

    Raises:
        Stop: when an expression exhausted its bounds.
    """
    rules = _Rules(spec, tree, renderer, findings)
    spec = replace(spec, outputs=tuple(rules.outputs(model)))
    rules = _Rules(spec, tree, renderer, findings)  # checks may name outputs
    return replace(spec, checks=tuple(rules.checks(model)), policies=tuple(rules.policies(model)))


@dataclass(frozen=True, slots=True)
class _Rules:
    spec: ResolvedSpec
    tree: Map
    renderer: Renderer
    findings: Findings

    def outputs(self, model: SpecModel) -> list[ResolvedOutput]:
        found = []
        for name, written in model.outputs.items():
            body = self._body("outputs", name)
            names = self._names(body, "value", Asked.OUTPUT)
            place = self._place("outputs", name)
            found.append(ResolvedOutput(name, written.value, names, written.description, written.sensitive, place))
        return found

    def checks(self, model: SpecModel) -> list[ResolvedCheck]:
        return [self._check(name, written) for name, written in model.checks.items()]

    def _check(self, name: str, written: Check) -> ResolvedCheck:
        after = written.when == "after"
        body = self._body("checks", name)
        for key in ("assert", "error"):
            self._names(body, key, Asked.AFTER if after else Asked.BEFORE)
        warns = written.severity == "warning"
        return ResolvedCheck(name, written.assert_, written.error, warns, after, self._place("checks", name))

    def policies(self, model: SpecModel) -> list[ResolvedPolicy]:
        return [self._policy(name, written) for name, written in model.policies.items()]

    def _policy(self, name: str, written: Policy) -> ResolvedPolicy:
        body = self._body("policies", name)
        names = self._names(body, "deny", Asked.POLICY)
        self._names(body, "error", Asked.POLICY)
        self._one_kind(name, written, body)
        self._check_parameters(written, body)
        environments = None if written.environments is None else tuple(written.environments)
        return ResolvedPolicy(
            name,
            written.rule or "",
            _parameters(written.parameters),
            written.deny or "",
            written.error or "",
            names,
            environments,
            written.level == "advisory",
            self._place("policies", name),
        )

    def _one_kind(self, name: str, written: Policy, body: Map) -> None:
        if (written.rule is None) == (written.deny is None):
            message = "a policy has exactly one of `rule` and `deny`"
            hint = "rules: " + ", ".join(RULES)
            self.findings.add(Code.CONFLICT, message, self._key("policies", name), hint=hint)
        if written.error is not None and written.deny is None:
            self.findings.add(Code.CONFLICT, "`error` goes with `deny`", body.keys_at["error"], hint="remove `error`")

    def _check_parameters(self, written: Policy, body: Map) -> None:
        allowed = RULES.get(written.rule or "", ())
        given = body.get("parameters")
        keys = given.keys_at if isinstance(given, Map) else {}
        what = f"the rule {written.rule}" if written.rule else "`deny`"
        for key, place in keys.items():
            if key not in allowed:
                hint = "it has: " + ", ".join(allowed) if allowed else "remove it"
                self.findings.add(Code.CONFLICT, f"{what} has no parameter {quoted(key)}", place, hint=hint)
        if allowed and not any(key in keys for key in allowed):
            message = f"{what} needs {'one of ' if len(allowed) > 1 else ''}{', '.join(allowed)}"
            where = body.keys_at.get("parameters", body.keys_at["rule"])
            self.findings.add(Code.MISSING, message, where, hint=f"add `parameters: {{{allowed[0]}: …}}`")
        inside = given if isinstance(given, Map) else Map()
        self._known(inside.get("machine_types"), self.spec.machine_types, "machine type")
        self._known(inside.get("regions"), self.spec.regions, "region")
        self._known(body.get("environments"), dict.fromkeys(self.spec.environments), "environment")

    def _known(self, node: Node | None, known: Mapping[str, object], what: str) -> None:
        for leaf in node if isinstance(node, Seq) else [node]:
            if isinstance(leaf, Scalar) and str(leaf) not in known:
                message = f"unknown {what} {quoted(leaf)}"
                self.findings.add(Code.REFERENCE, message, leaf, hint=did_you_mean(leaf, known))

    def _names(self, body: Map, key: str, asked: Asked) -> NamesOf:
        leaf = body.get(key)
        if not isinstance(leaf, Scalar) or ("{{" not in leaf and "{%" not in leaf):
            return ()
        names = self.renderer.names(leaf)
        for unknown in unknown_names(names, self.spec, asked):
            place = self.renderer.place_of_word(leaf, unknown.word)
            self.findings.add(Code.UNDEFINED, unknown.message, place, hint=unknown.hint, length=len(unknown.word))
        return names

    def _body(self, section: str, name: str) -> Map:
        entries = self.tree[section]
        body = entries[name] if isinstance(entries, Map) else None
        return body if isinstance(body, Map) else Map()

    def _key(self, section: str, name: str) -> Scalar | None:
        entries = self.tree[section]
        return entries.keys_at[name] if isinstance(entries, Map) else None

    def _place(self, section: str, name: str) -> Position | None:
        key = self._key(section, name)
        return at(key.start) if key is not None else None


def _parameters(written: PolicyParameters) -> Parameters:
    return Parameters(
        {tag: tuple(allowed) for tag, allowed in (written.tags or {}).items()},
        tuple(written.machine_types or ()),
        tuple(written.regions or ()),
        written.per_app,
        written.per_environment,
        written.in_all,
        written.runners,
    )
