"""A resolved spec as compact JSON, and back. Knows no files.

JSON and not pickle: whatever is read back can at worst be a wrong spec, never code that runs. Apps have a form of their own, since nearly
everything of them is shared: what a class or the platform gives is written once, and so are files and bundles.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from decimal import Decimal
from enum import StrEnum
from typing import Any, cast

from falplan.core.errors import Diagnostic, Position, Related, Severity
from falplan.core.spec.declared import IgnoreRule, Import, Move, Refactors, Removal
from falplan.core.spec.resolved import (
    AppKind,
    Bundle,
    MachineType,
    Origin,
    Parameters,
    ResolvedApp,
    ResolvedCheck,
    ResolvedOutput,
    ResolvedPolicy,
    ResolvedRegion,
    ResolvedSecret,
    ResolvedSpec,
    Setting,
)
from falplan.core.spending import Budgets
from falplan.core.values import Json

_ENUMS: dict[str, type[StrEnum]] = {e.__name__: e for e in (Severity, Origin, AppKind)}
_VALUES: dict[str, type[Any]] = {
    c.__name__: c
    for c in (
        Budgets, Diagnostic, IgnoreRule, Import, MachineType, Move, Parameters, Position, Refactors, Related, Removal,
        ResolvedCheck, ResolvedOutput, ResolvedPolicy, ResolvedRegion, ResolvedSecret, ResolvedSpec,
    )
}  # fmt: skip
_ORIGINS = list(Origin)


def pack(spec: ResolvedSpec, bundles: Sequence[Bundle]) -> bytes:
    """The spec less its bundles, which apps name by their number among `bundles`.

    Raises:
        TypeError, KeyError: it holds something that this form has no place for.
    """
    packing = _Packing({id(b): n for n, b in enumerate(bundles)})
    apps = [packing.app(a) for a in spec.apps]
    body = {
        "files": list(packing.files),
        "settings": packing.settings,
        "apps": apps,
        "rest": _packed(replace(spec, apps=())),
    }
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()


def unpack(packed: bytes, bundles: Sequence[Bundle]) -> ResolvedSpec:
    """The inverse of `pack`.

    Raises:
        ValueError, TypeError, KeyError, LookupError, ArithmeticError, RecursionError: it is nothing that `pack` wrote.
    """
    body = json.loads(packed)
    files: list[str] = body["files"]
    settings: list[dict[str, Setting]] = []
    for base, own in body["settings"]:
        below = settings[base] if base is not None else {}
        settings.append({**below, **{name: _setting(s, files) for name, s in own.items()}})
    rest = _unpacked(body["rest"])
    if not isinstance(rest, ResolvedSpec):
        raise TypeError("not a spec")
    return replace(rest, apps=tuple([_app(a, settings, bundles, files) for a in body["apps"]]))


class _Packing:
    """What the apps packed so far share. Apps of one entry write only the settings that differ from those of the first of them."""

    def __init__(self, bundles: Mapping[int, int]) -> None:
        self.bundles = bundles
        self.files: dict[str, int] = {}
        self.settings: list[Json] = []
        self._numbers: dict[int, int] = {}
        self._first: dict[str, Mapping[str, Setting]] = {}

    def app(self, app: ResolvedApp) -> Json:
        return [
            app.name,
            app.environment,
            app.kind.value,
            app.entry,
            list(app.command),
            self._number(app),
            self.bundles[id(app.bundle)],
            self._place(app.position),
            list(app.depends_on),
            [self._place(p) for p in app.depends_on_positions],
            app.protect,
            list[Json](sorted(app.overlaid)),
            app.image,
            app.port,
        ]

    def _number(self, app: ResolvedApp) -> int:
        """Of the app's settings among those written; an app's environments share them where they say nothing else."""
        settings = app.settings
        if id(settings) not in self._numbers:
            below = self._first.setdefault(app.entry, settings)
            alike = below is not settings and list(below) == list(settings)
            base = self._numbers[id(below)] if alike else None
            own = {n: self._setting(s) for n, s in settings.items() if not alike or below[n] is not s}
            self._numbers[id(settings)] = len(self.settings)
            self.settings.append([base, own])
        return self._numbers[id(settings)]

    def _setting(self, setting: Setting) -> Json:
        origin = _ORIGINS.index(setting.origin)
        place = [] if setting.position is None else self._place(setting.position)
        return [setting.value, origin, *place]

    def _place(self, place: Position) -> list[Json]:
        return [self.files.setdefault(place.file, len(self.files)), place.line, place.column]


def _setting(packed: list[Any], files: list[str]) -> Setting:
    if len(packed) == 2:
        return Setting(packed[0], _ORIGINS[packed[1]])
    value, origin, file, line, column = packed
    return Setting(value, _ORIGINS[origin], Position(files[file], line, column))


def _app(
    packed: list[Any], settings: list[dict[str, Setting]], bundles: Sequence[Bundle], files: list[str]
) -> ResolvedApp:
    name, environment, kind, entry, command, number, bundle, place, depends, places, protect, overlaid, image, port = (
        packed
    )
    return ResolvedApp(
        name,
        environment,
        AppKind(kind),
        entry,
        tuple(command),
        settings[number],
        bundles[bundle],
        _place(place, files),
        tuple(depends),
        tuple([_place(p, files) for p in places]),
        protect,
        frozenset(overlaid),
        image,
        port,
    )


def _place(packed: list[Any], files: list[str]) -> Position:
    file, line, column = packed
    return Position(files[file], line, column)


def _packed(value: object) -> Json:
    """Any value of the spec: what JSON has no word for is a list that begins with one."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, StrEnum):
        return ["enum", type(value).__name__, value.value]
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Decimal):
        return ["decimal", str(value)]
    if isinstance(value, Mapping):
        return {str(name): _packed(inner) for name, inner in value.items()}
    if isinstance(value, tuple | list):
        return ["tuple" if isinstance(value, tuple) else "list", *map(_packed, value)]
    known = _VALUES.get(type(value).__name__)
    if known is not None:
        return ["value", known.__name__, *(_packed(getattr(value, f.name)) for f in fields(known))]
    raise TypeError(f"{type(value).__name__} has no form here")


def _unpacked(packed: Json) -> Any:
    if isinstance(packed, dict):
        return {name: _unpacked(inner) for name, inner in packed.items()}
    if not isinstance(packed, list):
        return packed
    word, *rest = packed
    if word in ("tuple", "list"):
        found = [_unpacked(inner) for inner in rest]
        return tuple(found) if word == "tuple" else found
    if word == "decimal":
        return Decimal(cast("str", rest[0]))
    if word == "enum":
        return _ENUMS[cast("str", rest[0])](cast("str", rest[1]))
    if word == "value":
        return _VALUES[cast("str", rest[0])](*[_unpacked(inner) for inner in rest[1:]])
    raise ValueError("no such word")
