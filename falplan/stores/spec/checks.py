"""Holds resolved apps against one another and against what they name. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from falplan.core.errors import Position, Related
from falplan.core.spec.codes import Code
from falplan.core.spec.fields import NOT_ABOVE
from falplan.core.spec.resolved import MachineType, Origin, ResolvedApp, ResolvedRegion, Setting
from falplan.core.spec.words import did_you_mean, quoted
from falplan.stores.spec.findings import Findings

Places: TypeAlias = Callable[[Setting, int], Position | None]


def check_apps(
    apps: Sequence[ResolvedApp],
    names: Mapping[str, frozenset[str]],
    types: Mapping[str, MachineType],
    regions: Mapping[str, ResolvedRegion],
    places: Places,
    findings: Findings,
) -> None:
    """Note every reference to what is not there, every cycle, and every pair of values that can't both hold.

    `names` holds the names of all apps by environment, those that could not be resolved included. `places` tells where an
    item of a setting stands.
    """
    seen: set[int] = set()
    for app in apps:
        if id(app.settings) not in seen:
            seen.add(id(app.settings))
            _check_names(app, types, regions, places, findings)
            _check_pairs(app, findings)
        for name, place in zip(app.depends_on, app.depends_on_positions, strict=True):
            known = names[app.environment]
            if name not in known:
                message = f"no app {quoted(name)} in environment {quoted(app.environment)}"
                findings.add(Code.REFERENCE, message, place, hint=did_you_mean(name, known - {app.name}))
    for environment in names:
        _check_cycles([app for app in apps if app.environment == environment], findings)


def check_secrets(
    apps: Sequence[ResolvedApp], secrets: Mapping[str, frozenset[str]], places: Places, findings: Findings
) -> None:
    """Note every secret that an app lists and its environment does not have, and every variable that is both secret and plain.

    `secrets` holds names by environment. There is no falling back to another environment.
    """
    for app in apps:
        known = secrets.get(app.environment, frozenset())
        setting = app.settings["secrets"]
        listed = setting.value if isinstance(setting.value, list) else None
        for number, word in enumerate(listed or ()):
            if word not in known:
                place = places(setting, number) or setting.position or app.position
                message = f"no secret {quoted(str(word))} in environment {quoted(app.environment)}"
                findings.add(Code.REFERENCE, message, place, hint=_missing_secret(str(word), app.environment, secrets))
        plain = app.settings["environment_variables"]
        variables = plain.value if isinstance(plain.value, dict) else {}
        for name in sorted(
            known.intersection(variables) if listed is None else set(variables).intersection(map(str, listed))
        ):
            message = (
                f"{quoted(name)} is a secret of environment {quoted(app.environment)} and a plain variable of the app"
            )
            hint = "remove it from environment_variables, or list in `secrets` those that the app is to get"
            findings.add(Code.CONFLICT, message, plain.position or app.position, hint=hint)


def _missing_secret(name: str, environment: str, secrets: Mapping[str, frozenset[str]]) -> str:
    close = did_you_mean(name, secrets.get(environment, frozenset()))
    elsewhere = sorted(other for other, known in secrets.items() if name in known)
    if elsewhere and "did you mean" not in close:
        return f"environment {quoted(elsewhere[0])} has it; environments share no secrets: add it under environments.{environment}.secrets"
    return close or f"add it under environments.{environment}.secrets"


def _check_names(
    app: ResolvedApp,
    types: Mapping[str, MachineType],
    regions: Mapping[str, ResolvedRegion],
    places: Places,
    findings: Findings,
) -> None:
    for name, known, what in (("machine_type", types, "machine type"), ("regions", regions, "region")):
        setting = app.settings[name]
        listed = setting.value if isinstance(setting.value, list) else []
        for number, word in enumerate(listed):
            if word not in known:
                place = places(setting, number) or app.position
                message = f"unknown {what} {quoted(str(word))}"
                findings.add(Code.REFERENCE, message, place, hint=did_you_mean(str(word), known))


def _check_pairs(app: ResolvedApp, findings: Findings) -> None:
    for low, high in NOT_ABOVE:
        below, above = app.settings[low], app.settings[high]
        if isinstance(below.value, int) and isinstance(above.value, int) and below.value > above.value:
            place, other = _places(below, above, app)
            message = f"{low} {below.value} is above {high} {above.value}{_origin(above)}"
            related = [Related(other, high)] if other else []
            hint = f"{high} is at {other}" if other else f"set {high} too"
            findings.add(Code.CONFLICT, message, place, hint=hint, related=related)


def _places(below: Setting, above: Setting, app: ResolvedApp) -> tuple[Position, Position | None]:
    if below.position is None:
        return above.position or app.position, None
    return below.position, above.position


def _origin(setting: Setting) -> str:
    return " (platform default)" if setting.origin is Origin.DEFAULT else ""


def _check_cycles(apps: Sequence[ResolvedApp], findings: Findings) -> None:
    """Note each cycle once, at its first app, with the places of all. Iterative: chains may be long."""
    after = {app.name: app for app in apps if app.depends_on}
    done: set[str] = set()
    for start in sorted(after):
        path: list[str] = []
        waiting: list[tuple[str, Iterable[str]]] = [(start, iter(after[start].depends_on))] if start not in done else []
        path += [start] if waiting else []
        while waiting:
            name, rest = waiting[-1]
            below = next(iter(rest), None)
            if below is None:
                done.add(name)
                waiting.pop()
                path.pop()
            elif below in path:
                _note_cycle(path[path.index(below) :], after, findings)
            elif below in after and below not in done:
                path.append(below)
                waiting.append((below, iter(after[below].depends_on)))


def _note_cycle(cycle: Sequence[str], after: Mapping[str, ResolvedApp], findings: Findings) -> None:
    first = cycle.index(min(cycle))
    ordered = [*cycle[first:], *cycle[:first]]
    places = [_place(after[name], below) for name, below in zip(ordered, [*ordered[1:], ordered[0]], strict=True)]
    shown = " → ".join([*ordered, ordered[0]])
    related = [Related(place, f"{name} waits here") for name, place in zip(ordered[1:], places[1:], strict=True)]
    findings.add(
        Code.CYCLE, f"apps wait for one another: {shown}", places[0], hint="remove one depends_on", related=related
    )


def _place(app: ResolvedApp, below: str) -> Position:
    return app.depends_on_positions[app.depends_on.index(below)]
