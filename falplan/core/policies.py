"""Holds apps against policies that name a rule. One function a rule; those with `deny` are asked elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import cast

from falplan.core.cost import NOTHING, Cost, Costs, total
from falplan.core.errors import Position
from falplan.core.findings import Finding, Source
from falplan.core.spec.resolved import ResolvedApp, ResolvedPolicy, ResolvedSpec
from falplan.core.spending import dollars
from falplan.core.values import Json


@dataclass(frozen=True, slots=True)
class Breach:
    """What breaks a rule: the resource, what it says, and what is allowed."""

    address: str
    says: str
    allowed: str
    position: Position | None


def judge_policies(spec: ResolvedSpec, costs: Costs) -> list[Finding]:
    """One finding for each breach of each policy with a rule."""
    return [
        _finding(policy, breach)
        for policy in spec.policies
        if policy.rule
        for breach in RULES[policy.rule](policy, [a for a in spec.apps if policy.covers(a.environment)], spec, costs)
    ]


def _finding(policy: ResolvedPolicy, breach: Breach) -> Finding:
    subject = f"{breach.address} " if breach.address else ""
    elsewhere = policy.position is not None and policy.position != breach.position
    return Finding(
        Source.POLICY,
        policy.name,
        f'policy "{policy.name}" ({policy.rule}): {subject}{breach.says}',
        refuses=not policy.advisory,
        address=breach.address,
        position=breach.position,
        detail=(breach.allowed, *((f"The policy is at {policy.position}.",) if elsewhere else ())),
    )


def _required_tags(
    policy: ResolvedPolicy, apps: list[ResolvedApp], spec: ResolvedSpec, costs: Costs
) -> Iterable[Breach]:
    for app in apps:
        tags = cast("dict[str, str]", app.settings["tags"].value or {})
        for tag, allowed in policy.parameters.tags.items():
            place = app.settings["tags"].position or app.position
            if tag not in tags:
                needed = f"required: {', '.join(policy.parameters.tags)}"
                yield Breach(app.address, f'has no tag "{tag}"', needed, place)
            elif allowed and tags[tag] not in allowed:
                yield Breach(app.address, f'has the tag {tag} = "{tags[tag]}"', f"allowed: {', '.join(allowed)}", place)


def _allowed_machine_types(
    policy: ResolvedPolicy, apps: list[ResolvedApp], spec: ResolvedSpec, costs: Costs
) -> Iterable[Breach]:
    return _allowed(apps, "machine_type", policy.parameters.machine_types, ())


def _allowed_regions(
    policy: ResolvedPolicy, apps: list[ResolvedApp], spec: ResolvedSpec, costs: Costs
) -> Iterable[Breach]:
    return _allowed(apps, "regions", policy.parameters.regions, tuple(sorted(spec.regions)))


def _allowed(
    apps: list[ResolvedApp], setting: str, allowed: tuple[str, ...], by_default: tuple[str, ...]
) -> Iterable[Breach]:
    for app in apps:
        found = app.settings[setting]
        named = by_default if found.value is None else cast("list[str]", found.value)
        wrong = [name for name in named if name not in allowed]
        if wrong:
            says = f"may be put in {', '.join(wrong)}" if found.value is None else f"has {setting} {', '.join(wrong)}"
            yield Breach(app.address, says, f"allowed: {', '.join(allowed)}", found.position or app.position)


def _no_public_apps(
    policy: ResolvedPolicy, apps: list[ResolvedApp], spec: ResolvedSpec, costs: Costs
) -> Iterable[Breach]:
    for app in apps:
        auth = app.settings["auth"]
        if auth.value == "public":
            yield Breach(app.address, "has auth public", "allowed: private", auth.position or app.position)


def _maximum_runners(
    policy: ResolvedPolicy, apps: list[ResolvedApp], spec: ResolvedSpec, costs: Costs
) -> Iterable[Breach]:
    most = policy.parameters.runners
    for app in apps:
        setting = app.settings["max_concurrency"]
        if most is not None and cast("int", setting.value) > most:
            place = setting.position or app.position
            yield Breach(app.address, f"has max_concurrency {setting.value}", f"allowed: at most {most}", place)


def _maximum_cost(
    policy: ResolvedPolicy, apps: list[ResolvedApp], spec: ResolvedSpec, costs: Costs
) -> Iterable[Breach]:
    own = {app.address: costs.apps[app.address].cost for app in apps if app.address in costs.apps}
    for app in apps:
        because = costs.apps[app.address].because if app.address in costs.apps else ""
        if own.get(app.address, NOTHING).unpriced:
            yield Breach(app.address, f"has an unknown cost: {because}", "Say `price_per_hour`.", app.position)
        yield from _above(
            app.address, "may cost", own.get(app.address, NOTHING), policy.parameters.per_app, app.position
        )
    for environment in dict.fromkeys(app.environment for app in apps):
        inside = total(cost for address, cost in own.items() if address.split(".")[1] == environment)
        limit = policy.parameters.per_environment
        yield from _above("", f"environment {environment} may cost", inside, limit, policy.position)
    yield from _above(
        "", "all its environments may cost", total(own.values()), policy.parameters.in_all, policy.position
    )


def _above(address: str, says: str, cost: Cost, limit: Decimal | None, place: Position | None) -> Iterable[Breach]:
    if limit is not None and cost.most > limit:
        yield Breach(address, f"{says} {dollars(cost.most)} an hour", f"allowed: at most {dollars(limit)}", place)


Rule = Callable[[ResolvedPolicy, list[ResolvedApp], ResolvedSpec, Costs], Iterable[Breach]]
RULES: dict[str, Rule] = {
    "required_tags": _required_tags,
    "allowed_machine_types": _allowed_machine_types,
    "allowed_regions": _allowed_regions,
    "maximum_cost": _maximum_cost,
    "maximum_runners": _maximum_runners,
    "no_public_apps": _no_public_apps,
}
"""Rule -> what breaks it, among the apps that the policy covers."""


def policies_to_json(spec: ResolvedSpec) -> list[Json]:
    """The policies that a plan was held against."""
    return [
        {
            "name": p.name,
            "rule": p.rule or "deny",
            "level": "advisory" if p.advisory else "mandatory",
            "environments": None if p.environments is None else list(p.environments),
        }
        for p in spec.policies
    ]
